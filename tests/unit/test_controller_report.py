"""What the operator is told, and how often."""

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry

from k8s_ovs.controller.metrics import ControllerMetrics
from k8s_ovs.controller.plan import Problem, ProblemKind, namespace_problem, node_problem
from k8s_ovs.controller.report import EventPace, Reporter
from k8s_ovs.errors import KubeDenied


def problem(node: str, message: str = "has no address") -> Problem:
    return node_problem(ProblemKind.NO_ADDRESS, node, message, "give it one")


class Listener:
    """Receives Events; `pauses` counts how often the reporter waited between two."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.pauses: list[float] = []
        self.refuse = False

    async def tell(self, problem: Problem) -> None:
        if self.refuse:
            raise KubeDenied("events are forbidden", status=403)
        self.told.append(str(problem))

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


async def drain(reporter: Reporter, listener: Listener, pauses: int) -> None:
    """Run the reporter until it has dealt with that many problems."""
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        task = group.create_task(reporter.run())
        while len(listener.pauses) < pauses:
            await asyncio.sleep(0)
        task.cancel()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def reporter(listener: Listener, registry: CollectorRegistry) -> Reporter:
    return Reporter(ControllerMetrics(registry), listener.tell, EventPace(0.2, listener.sleep))


async def test_a_problem_is_told_once(
    reporter: Reporter, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reporter.update([problem("a")])
    reporter.update([problem("a")])
    await drain(reporter, listener, 1)
    assert listener.told == ["node a: has no address: give it one"]
    assert caplog.text.count("node a: has no address: give it one [NodeWithoutAddress]") == 1


async def test_a_changed_problem_is_told_again_and_one_that_is_solved_not_at_all(
    reporter: Reporter, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reporter.update([problem("a"), problem("b")])
    reporter.update([problem("a", "has two")])
    await drain(reporter, listener, 1)
    assert listener.told == ["node a: has two: give it one"]
    assert "solved: node b: has no address" in caplog.text


async def test_between_two_events_there_is_a_pause(reporter: Reporter, listener: Listener) -> None:
    reporter.update([problem(f"n{number}") for number in range(20)])
    await drain(reporter, listener, 20)
    assert len(listener.told) == 20
    assert set(listener.pauses) == {0.2}


async def test_an_event_that_is_refused_stops_nothing(reporter: Reporter, listener: Listener) -> None:
    listener.refuse = True
    reporter.update([problem("a")])
    await drain(reporter, listener, 1)
    listener.refuse = False
    reporter.update([problem("a"), problem("b")])
    await drain(reporter, listener, 2)
    assert listener.told == ["node b: has no address: give it one"]


def test_the_metric_counts_by_kind(reporter: Reporter, registry: CollectorRegistry) -> None:
    behind = namespace_problem(ProblemKind.NODE_BEHIND, "red", "node a is behind", "start it")
    reporter.update([problem("a"), problem("b"), behind])
    name = "k8s_ovs_controller_problems"
    assert registry.get_sample_value(name, {"kind": "NodeWithoutAddress"}) == 2
    assert registry.get_sample_value(name, {"kind": "TenantChangedWithoutNode"}) == 1
    assert registry.get_sample_value(name, {"kind": "SubnetOverlap"}) == 0
    reporter.update([])
    assert registry.get_sample_value(name, {"kind": "NodeWithoutAddress"}) == 0
