"""Traffic of pods that nobody touches while a soak goes on: what is forbidden never passes, and losses have a reason.

For `fakes.soaking`. Pods of one tenant on one node and on two talk to each other; one of another tenant tries to. But around
harm to a switch nothing may be lost.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fakes.labs import eventually
from fakes.soaking_actions import SWITCH, World, make_pod, pods
from fakes.soaking_model import SoakPod
from fakes.traffic import Probe, Traffic, traffic
from fakes.traffic_log import Gap, StreamLog

PERIOD = 0.05
PLACES = {
    ("steady", "one"): "node1",
    ("steady", "here"): "node1",
    ("steady", "two"): "node2",
    ("apart", "three"): "node1",
}
NEAR = [Probe("steady/one", "steady/here", period=PERIOD), Probe("steady/here", "steady/one", period=PERIOD)]
ACROSS = [Probe("steady/one", "steady/two", period=PERIOD), Probe("steady/two", "steady/one", period=PERIOD)]
ALLOWED = [*NEAR, *ACROSS]
FORBIDDEN = [
    Probe("apart/three", "steady/one", period=PERIOD),
    Probe("apart/three", "steady/two", period=PERIOD),
]
BEFORE, AFTER = 500_000_000, 15_000_000_000
"""Nanoseconds: a loss that begins from so long before until so long after something has befallen a switch is the switch's."""


@dataclass
class Steady:
    """The traffic, from when it flows. `judge` ends it."""

    world: World
    flow: Traffic
    begun: int

    def judge(self) -> str:
        """What was sent, in words. AssertionError if something forbidden passed, or was lost without a reason."""
        logs = self.flow.finish()
        passed = {probe.name: logs[probe.name].passed(0) for probe in FORBIDDEN}
        assert not any(passed.values()), f"forbidden, and passed: {passed}"
        lost = [text for probe in ALLOWED for text in self._told(logs[probe.name], probe)]
        assert not lost, f"lost while no switch was harmed: {lost}"
        sent, tried = (_sent(logs, probes) for probes in (ALLOWED, FORBIDDEN))
        missing = sum(logs[probe.name].lost(self.begun) for probe in ALLOWED)
        return (
            f"steady traffic: {sent} sent, {missing} lost, all of them around harm to switches; "
            f"{tried} forbidden, 0 of them passed"
        )

    def _told(self, log: StreamLog, probe: Probe) -> list[str]:
        """What no harm to a switch explains, in words."""
        return [
            f"{probe.name}: {gap.count} {self._since(gap):.1f} s after its start" for gap in self._lost(log)
        ]

    def _since(self, gap: Gap) -> float:
        return (gap.begun - self.begun) / 1e9

    def _lost(self, log: StreamLog) -> Iterator[Gap]:
        """What no harm to a switch explains."""
        harmed = [
            instant
            for instant, process in self.world.harm.instants
            if process.startswith(("node1/", "node2/")) and process.endswith(SWITCH)
        ]
        for gap in log.gaps(self.begun):
            if not any(instant - BEFORE <= gap.begun <= instant + AFTER for instant in harmed):
                yield gap


@contextmanager
def steady(world: World) -> Iterator[Steady]:
    """Pods in Namespaces that nobody else touches, and their traffic."""
    for namespace in sorted({namespace for namespace, _ in PLACES}):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        world.api.create("/api/v1/namespaces", body)
        world.model.groups[namespace] = namespace
        world.model.fixed.add(namespace)
    for key, node in PLACES.items():
        make_pod(world, *key, SoakPod(node, "steady"))
    eventually(lambda: all(_runs(world, key) for key in PLACES), "the steady pods to run", seconds=60)
    with traffic(world.harm.lab, [*ALLOWED, *FORBIDDEN]) as flow:
        flow.start(*(probe.name for probe in ALLOWED))
        yield Steady(world, flow, flow.now())


def _runs(world: World, key: tuple[str, str]) -> bool:
    found = world.api.get(pods(*key))
    return found is not None and found.get("status", {}).get("phase") == "Running"


def _sent(logs: dict[str, StreamLog], probes: Sequence[Probe]) -> int:
    return sum(len(logs[probe.name].numbers()) for probe in probes)
