"""Agents that an operator has to look at: silent ones, and those that say that they cannot serve. Pure; called by `rounds`.

A report is gone ten seconds after its agent; an upgrade or a reboot takes longer. So both count from when this leader
noticed it, and are told after a minute. Nothing is decided by it: what hosts have stays theirs.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address
from math import inf

from k8s_ovs.controller.plan import Problem, ProblemKind, Subject
from k8s_ovs.model.types import HostSubnet
from k8s_ovs.sources.store import Snapshot

TOLD_SECONDS = 60.0


class Silence:
    """Since when what is wrong with which host's agent, in seconds of any clock. One leader's memory."""

    def __init__(self) -> None:
        self._since: dict[tuple[ProblemKind, IPv4Address], float] = {}
        self.wake_at = inf
        """When the next of them will have lasted long enough to be told."""

    def problems(self, snapshot: Snapshot, now: float) -> list[Problem]:
        """One for each host whose agent has been silent, or unable to serve, for long."""
        wrong = {(problem.kind, host_ip): problem for host_ip, problem in _wrong(snapshot)}
        self._since = {key: self._since.get(key, now) for key in wrong}
        told = {key for key, since in self._since.items() if now >= since + TOLD_SECONDS}
        waiting = (since + TOLD_SECONDS for key, since in self._since.items() if key not in told)
        self.wake_at = min(waiting, default=inf)
        return [problem for key, problem in sorted(wrong.items()) if key in told]


def _wrong(snapshot: Snapshot) -> Iterator[tuple[IPv4Address, Problem]]:
    for host_ip, record in snapshot.host_subnets.items():
        report = snapshot.reports.get(host_ip)
        if record.subnet is None:
            continue
        if report is None:
            message = f"its agent ({host_ip}) does not report: its pods keep their network, but nothing new reaches them"
            remedy = "see whether it runs there, and what its log says last"
            yield host_ip, _problem(ProblemKind.AGENT_SILENT, record, message, remedy)
        elif report.health is not None and report.health.trouble:
            message = f"its agent ({host_ip}) cannot serve pods"
            yield host_ip, _problem(ProblemKind.AGENT_NOT_READY, record, message, report.health.trouble)


def _problem(kind: ProblemKind, record: HostSubnet, message: str, remedy: str) -> Problem:
    what = "external host" if record.assign else "node"
    subject = Subject("Record" if record.assign else "Node", record.host)
    return Problem(subject, kind, f"{what} {record.host}: {message}", remedy)
