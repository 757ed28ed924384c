"""For whom a change of a tenant waits, and how long. Pure; called by `tenants`.

Every node that may have pods has to report each step before the next one begins. A node whose agent does not live
would be waited for in vain: the waiting is bounded, and what was done without a node is said until it is heard again.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from math import inf

from k8s_ovs.controller.plan import Malformed, Problem, ProblemKind, namespace_problem
from k8s_ovs.model.types import AgentReport, Tenant, TenantStep
from k8s_ovs.sources.store import Snapshot

ABSENT_SECONDS = 10.0
"""How long a change waits for hosts without a live report, from its beginning."""
STUCK_SECONDS = 30.0
"""How long a step waits for a host that lives and does not report it."""

_NEXT = {TenantStep.ACCEPT: TenantStep.SEND, TenantStep.SEND: TenantStep.CLOSE}


@dataclass(slots=True)
class _Waiting:
    """One change: when it and its step began, in seconds of any clock, and the hosts that it waits for no longer."""

    namespace: str
    began: float
    step: TenantStep
    step_began: float
    skipped: set[IPv4Address] = field(default_factory=set)


@dataclass(slots=True)
class Patience:
    """What one reign remembers of the changes that it has seen. A new leader waits anew."""

    changes: dict[str, _Waiting] = field(default_factory=dict)
    behind: dict[tuple[str, IPv4Address], AgentReport | None] = field(default_factory=dict)
    """What was done without a host: Namespace and host, and what the host said at that time."""
    skips: int = 0
    """How many hosts were given up so far, each once a change."""

    def through(self, tenant: Tenant, snapshot: Snapshot, now: float) -> bool:
        """Whether every host that counts has applied the step that the tenant is in."""
        return not any(deadline > now for deadline in self._judge(tenant, snapshot, now))

    def wake_at(self, tenant: Tenant, snapshot: Snapshot, now: float) -> float:
        """When the next host will have been waited for long enough; infinite if none is waited for."""
        return min(self._judge(tenant, snapshot, now), default=inf)

    def age(self, tenant: Tenant, now: float) -> float:
        """Seconds since the change was first seen."""
        waiting = self.changes.get(tenant.change.id) if tenant.change is not None else None
        return now - waiting.began if waiting is not None else 0.0

    def forget(self, snapshot: Snapshot) -> None:
        """Drop changes that are over, and hosts that have been heard of since, or are none any more."""
        living = {tenant.change.id for tenant in snapshot.tenants.values() if tenant.change is not None}
        self.changes = {key: waiting for key, waiting in self.changes.items() if key in living}
        hosts = _hosts(snapshot)
        for (namespace, host_ip), said in list(self.behind.items()):
            heard = snapshot.reports.get(host_ip)
            gone = host_ip not in hosts or namespace not in snapshot.tenants
            if gone or heard not in (None, said):
                del self.behind[namespace, host_ip]

    def problems(self, snapshot: Snapshot) -> Iterator[Problem]:
        """The hosts that changes were made without, one problem for each Namespace."""
        hosts = _hosts(snapshot)
        without: defaultdict[str, list[str]] = defaultdict(list)
        for namespace, host_ip in sorted(self.behind):
            if host_ip in hosts:
                without[namespace].append(f"{hosts[host_ip]} ({host_ip})")
        for namespace, names in without.items():
            yield namespace_problem(
                ProblemKind.NODE_BEHIND,
                namespace,
                f"its tenant changes without node {', '.join(names)}, whose agent does not report: "
                "until it does, its pods may lose allowed traffic, and forbidden traffic may pass on it",
                "start the agent there, or see in its log what keeps it",
            )

    def _judge(self, tenant: Tenant, snapshot: Snapshot, now: float) -> Iterator[float]:
        """The deadlines of the hosts that are waited for; those that have passed are skipped from now on."""
        change = tenant.change
        if change is None:
            return
        waiting = self.changes.setdefault(change.id, _Waiting(tenant.name, now, change.step, now))
        if waiting.step is not change.step:
            waiting.step, waiting.step_began = change.step, now
        for host_ip in _hosts(snapshot).keys() - waiting.skipped:
            report = snapshot.reports.get(host_ip)
            if report is not None and report.applied.get(tenant.name) == change.token:
                continue
            deadline = (
                waiting.began + ABSENT_SECONDS if report is None else waiting.step_began + STUCK_SECONDS
            )
            if now >= deadline:
                waiting.skipped.add(host_ip)
                self.behind[tenant.name, host_ip] = report
                self.skips += 1
            else:
                yield deadline


def _hosts(snapshot: Snapshot) -> dict[IPv4Address, str]:
    """The hosts that may have pods, by address; also one whose record has become malformed while its agent goes on."""
    hosts = {
        host_ip: record.host
        for host_ip, record in snapshot.host_subnets.items()
        if not record.assign and record.subnet is not None
    }
    for host_ip in Malformed.of(snapshot).host_ips & snapshot.reports.keys():
        hosts[host_ip] = snapshot.reports[host_ip].host
    return hosts


def advanced(tenant: Tenant) -> Tenant:
    """The tenant one step further; without a change once the last step is done."""
    change = tenant.change
    if change is None:
        return tenant
    step = _NEXT.get(change.step)
    if step is None:
        return replace(tenant, vni=change.new, change=None)
    return replace(tenant, change=replace(change, step=step))
