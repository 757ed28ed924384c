"""What the lab's workload controllers want: one pod for each node, replaced within the strategy, in the real ones' order."""

from dataclasses import replace
from typing import Any

import pytest

from k8s_ovs.lab.workloads.rollout import (
    NewPod,
    OwnPod,
    daemon_set,
    deployment,
    number,
    stateful_set,
    template_hash,
)

TEMPLATE: dict[str, Any] = {"spec": {"containers": [{"name": "c"}]}}
NEW = template_hash(TEMPLATE)


def pod(name: str, node: str = "", *, new: bool = True, available: bool = True) -> OwnPod:
    return OwnPod(name, f"uid-{name}", node, NEW if new else "old", available, available, deleting=False)


def spec(**more: Any) -> dict[str, Any]:
    return {"template": TEMPLATE, **more}


def rolling(unavailable: int | str, surge: int | str = 0) -> dict[str, Any]:
    update = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}
    return spec(updateStrategy=update)


NODES = ("n1", "n2", "n3")


def test_a_daemon_set_has_a_pod_on_each_node() -> None:
    plan = daemon_set(rolling(1), [pod("a", "n1"), pod("b", "gone")], NODES)
    assert plan.create == [NewPod(node="n2"), NewPod(node="n3")]
    assert [old.name for old in plan.delete] == ["b"]
    assert (plan.status["desiredNumberScheduled"], plan.status["numberAvailable"]) == (3, 1)


@pytest.mark.parametrize(("unavailable", "deleted"), [(1, 1), (2, 2), ("10%", 1), ("100%", 3)])
def test_a_daemon_set_replaces_no_more_than_it_may(unavailable: int | str, deleted: int) -> None:
    old = [pod(node, node, new=False) for node in NODES]
    plan = daemon_set(rolling(unavailable), old, NODES)
    assert (len(plan.delete), plan.create) == (deleted, [])
    gone = [replace(each, deleting=each in plan.delete) for each in old]
    again = daemon_set(rolling(unavailable), gone, NODES)
    assert (again.create, again.delete) == ([], []), "the next one waits for the end of the first"


def test_a_daemon_set_stops_when_a_new_pod_does_not_become_available() -> None:
    pods = [pod("a", "n1", available=False), pod("b", "n2", new=False), pod("c", "n3", new=False)]
    plan = daemon_set(rolling(1), pods, NODES)
    assert (plan.create, plan.delete) == ([], [])
    assert plan.status["updatedNumberScheduled"] == 1


def test_a_daemon_set_replaces_at_once_what_is_not_available_anyway() -> None:
    pods = [pod("a", "n1", new=False, available=False), pod("b", "n2"), pod("c", "n3")]
    assert daemon_set(rolling(1), pods, NODES).delete == [pods[0]]


def test_a_daemon_set_that_surges_takes_the_old_pod_away_last() -> None:
    old = pod("a", "n1", new=False)
    assert daemon_set(rolling(0, 1), [old], ["n1"]).create == [NewPod(node="n1")]
    fresh = pod("b", "n1", available=False)
    assert daemon_set(rolling(0, 1), [old, fresh], ["n1"]).delete == []
    assert daemon_set(rolling(0, 1), [old, pod("b", "n1")], ["n1"]).delete == [old]


def strategy(unavailable: int | str, surge: int | str) -> dict[str, Any]:
    values = {"maxUnavailable": unavailable, "maxSurge": surge}
    return spec(replicas=2, strategy={"type": "RollingUpdate", "rollingUpdate": values})


def test_a_deployment_comes_and_goes() -> None:
    assert len(deployment(strategy(1, 0), []).create) == 2
    plan = deployment(strategy(1, 0), [pod("a"), pod("b"), pod("c")])
    assert len(plan.delete) == 1
    assert (plan.status["updatedReplicas"], plan.create) == (2, [])


def test_a_deployment_takes_one_away_and_then_makes_one() -> None:
    old = [pod("a", new=False), pod("b", new=False)]
    first = deployment(strategy(1, 0), old)
    assert (len(first.delete), first.create) == (1, [])
    second = deployment(strategy(1, 0), [old[1]])
    assert (second.delete, len(second.create)) == ([], 1)
    third = deployment(strategy(1, 0), [old[1], pod("c", available=False)])
    assert (third.delete, third.create) == ([], [])
    assert deployment(strategy(1, 0), [old[1], pod("c")]).delete == [old[1]]


def test_a_deployment_that_may_only_surge_makes_one_first() -> None:
    old = [pod("a", new=False), pod("b", new=False)]
    plan = deployment(strategy("25%", "25%"), old)
    assert (plan.delete, len(plan.create)) == ([], 1)


def test_a_stateful_set_goes_in_order() -> None:
    wanted = spec(replicas=2)
    assert stateful_set("db", wanted, []).create == [NewPod(name="db-0")]
    assert stateful_set("db", wanted, [pod("db-0", available=False)]).create == []
    assert stateful_set("db", wanted, [pod("db-0")]).create == [NewPod(name="db-1")]
    old = [pod("db-0", new=False), pod("db-1", new=False)]
    assert stateful_set("db", wanted, old).delete == [old[1]]
    assert stateful_set("db", spec(replicas=1), [pod("db-0"), pod("db-1")]).delete == [pod("db-1")]


@pytest.mark.parametrize(
    ("value", "up", "expected"), [(3, True, 3), ("50%", True, 2), ("50%", False, 1), ("10%", True, 1)]
)
def test_percentages(value: int | str, up: bool, expected: int) -> None:
    assert number(value, 3, up=up) == expected
