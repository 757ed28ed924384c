"""Tenants changed as people do it, with etcdctl, and when each change was begun and reported complete.

Instants are CLOCK_MONOTONIC nanoseconds, as in `fakes.traffic`. A change begins before etcdctl is started and is complete when
`etcdctl watch` has shown the answer: both are what an administrator sees, some milliseconds more than it takes.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fakes.labs import Lab
from k8s_ovs.config import Mode
from k8s_ovs.model import tenancy
from k8s_ovs.model.types import Vni

RECORDS = "/k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/"


@dataclass(frozen=True)
class Period:
    """The time between two changes: who had which VNI, from a change's completion to the next one's beginning."""

    begun: int
    ended: int
    vnis: Mapping[str, int]


@dataclass(frozen=True)
class Changed:
    """One change: what was asked, and how long it took."""

    namespace: str
    action: str
    other: str
    begun: int
    done: int

    @property
    def seconds(self) -> float:
        return (self.done - self.begun) / 1e9


@dataclass
class Administrator:
    """Asks for changes and waits for the answers. Made by `administrator`."""

    lab: Lab
    answers: "queue.Queue[tuple[int, dict[str, Any]]]"
    vnis: dict[str, int]
    history: list[Changed] = field(default_factory=list)
    periods: list[Period] = field(default_factory=list)
    _since: int = field(default_factory=time.monotonic_ns)

    def join(self, namespace: str, other: str, *, seconds: float = 60) -> Changed:
        return self.change(namespace, "join", other, seconds=seconds)

    def isolate(self, namespace: str, *, seconds: float = 60) -> Changed:
        return self.change(namespace, "isolate", seconds=seconds)

    def make_global(self, namespace: str, *, seconds: float = 60) -> Changed:
        return self.change(namespace, "global", seconds=seconds)

    def change(self, namespace: str, action: str, other: str = "", *, seconds: float = 60) -> Changed:
        """Ask, and wait until it is reported complete. AssertionError if it is refused or takes longer than `seconds`."""
        request = {
            "NetName": namespace,
            "NetID": self.vnis[namespace],
            "Action": action,
            "Namespace": other,
        }
        begun = time.monotonic_ns()
        self.periods.append(Period(self._since, begun, dict(self.vnis)))
        self.lab.etcdctl("put", RECORDS + namespace, json.dumps(request))
        done, answer = self._answer(namespace, begun, seconds)
        assert not answer.get("Error"), f"{action} {namespace} {other}: refused: {answer['Error']}"
        self.vnis[namespace] = answer["NetID"]
        self._since = done
        self.history.append(Changed(namespace, action, other, begun, done))
        return self.history[-1]

    def change_by_command(
        self, namespace: str, action: str, other: str = "", *, seconds: float = 60
    ) -> Changed:
        """The same with `k8s-ovs tenant … --wait`: complete when the command says so."""
        begun = time.monotonic_ns()
        self.periods.append(Period(self._since, begun, dict(self.vnis)))
        words = [namespace, *([other] if other else []), "--wait", "--timeout", str(seconds), "-o", "json"]
        told = json.loads(self.lab.cli("tenant", action, *words, timeout=seconds + 30).stdout)
        self._since = time.monotonic_ns()
        assert told["result"] in ("complete", "unchanged"), told
        self.vnis[namespace] = told["netID"]
        self.history.append(Changed(namespace, action, other, begun, self._since))
        return self.history[-1]

    def _answer(self, namespace: str, begun: int, seconds: float) -> tuple[int, dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                instant, record = self.answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"the change of {namespace} is not complete after {seconds:.0f} s"
                ) from None
            if record["NetName"] == namespace and record["Action"] == "" and instant > begun:
                return instant, record

    def end(self) -> None:
        """The time since the last change is over."""
        self.periods.append(Period(self._since, time.monotonic_ns(), dict(self.vnis)))


@contextmanager
def administrator(lab: Lab) -> Iterator[Administrator]:
    """Somebody who changes tenants, while a watch follows the records."""
    listed = lab.etcdctl("get", "--prefix", "--print-value-only", RECORDS).splitlines()
    records = [json.loads(line) for line in listed if line]
    answers: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    watch = subprocess.Popen(
        ["etcdctl", "watch", "--prefix", RECORDS],
        env=dict(lab.environment),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout is not None

    def follow(lines: Iterator[str]) -> None:
        for line in lines:
            if line.startswith("{"):
                answers.put((time.monotonic_ns(), json.loads(line)))

    reader = threading.Thread(target=follow, args=(iter(watch.stdout),), name="etcdctl watch")
    reader.start()
    try:
        yield Administrator(lab, answers, {record["NetName"]: record["NetID"] for record in records})
    finally:
        watch.kill()
        watch.wait()
        reader.join()
        watch.stdout.close()


def may_talk(vnis: Mapping[str, int], source: str, target: str) -> bool:
    """What the oracle says of two Namespaces' pods, or of a pod and a Service."""
    ends = (tenancy.pod(Vni(vnis[name])) for name in (source, target))
    return tenancy.may_reach(*ends, Mode.MULTITENANT)


def windows(periods: Sequence[Period], source: str, target: str, *, allowed: bool) -> list[tuple[int, int]]:
    """The times when the oracle allows the two to talk (or forbids it), as instants from and until.

    A change between two periods that agree belongs to the window: what is allowed before and after is allowed during it.
    """
    found: list[tuple[int, int]] = []
    joined = False
    for period in periods:
        if may_talk(period.vnis, source, target) is not allowed:
            joined = False
        elif joined:
            found[-1] = (found[-1][0], period.ended)
        else:
            found.append((period.begun, period.ended))
            joined = True
    return found
