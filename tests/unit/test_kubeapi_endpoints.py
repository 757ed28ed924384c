"""Endpoints and EndpointSlices of the embedded API: conditions, ports, spreading, and the controller that writes them."""

import itertools
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.private_kubeapi import until
from k8s_ovs.lab.kubeapi import slices
from k8s_ovs.lab.kubeapi.controller import EndpointsController
from k8s_ovs.lab.kubeapi.deletion import DeleteOptions, Remover
from k8s_ovs.lab.kubeapi.endpoints import identity
from k8s_ovs.lab.kubeapi.registry import Registry
from k8s_ovs.lab.kubeapi.resources import ENDPOINT_SLICES, ENDPOINTS, NAMESPACES, PODS, SERVICES
from k8s_ovs.lab.kubeapi.seed import seed
from k8s_ovs.lab.kubeapi.store import Entry, Store


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    registry = Registry(Store(), IPv4Network("10.96.0.0/24"))
    seed(registry, None)
    registry.create(NAMESPACES, "", {"metadata": {"name": "red"}})
    controller = EndpointsController(registry)
    yield registry
    controller.close()


def add_service(registry: Registry, name: str = "web", **spec: Any) -> None:
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], **spec}
    registry.create(SERVICES, "red", {"metadata": {"name": name, "labels": {"own": "x"}}, "spec": spec})


def add_pod(
    registry: Registry, name: str, ip: str, *, ready: bool = True, port: int = 8080, **spec: Any
) -> None:
    ports = [{"name": "http", "containerPort": port}]
    pod = {
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "x", "ports": ports}], **spec},
    }
    entry = registry.create(PODS, "red", pod)
    set_status(registry, entry, ready=ready, ip=ip)


def set_status(registry: Registry, entry: Entry, *, ready: bool, ip: str, phase: str = "Running") -> None:
    pod = registry.get(PODS, entry.key).copy()
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    pod["status"] = {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}
    registry.store.put(PODS, pod)


def written(registry: Registry, service: str = "web") -> list[dict[str, Any]]:
    entries = registry.store.entries(ENDPOINT_SLICES, "red")
    return [e.obj for e in entries if e.obj["metadata"]["labels"][slices.SERVICE_NAME] == service]


def conditions(registry: Registry) -> dict[str, dict[str, bool]]:
    return {e["addresses"][0]: e["conditions"] for s in written(registry) for e in s["endpoints"] or []}


def subsets(registry: Registry) -> Any:
    entry = registry.store.get(ENDPOINTS, ("red", "web"))
    return entry.obj.get("subsets") if entry else None


async def test_ready_pods_stand_behind_a_service(registry: Registry) -> None:
    add_service(registry)
    add_pod(registry, "a", "10.1.0.1")
    add_pod(registry, "b", "10.1.0.2", ready=False)
    await until(lambda: len(conditions(registry)) == 2)
    found = written(registry)[0]
    assert found["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}]
    assert (found["addressType"], found["metadata"]["ownerReferences"][0]["kind"]) == ("IPv4", "Service")
    assert found["metadata"]["labels"] == {
        "own": "x",
        slices.SERVICE_NAME: "web",
        slices.MANAGED_BY: slices.CONTROLLER,
    }
    assert found["endpoints"][0]["nodeName"] == "node1"
    assert found["endpoints"][0]["targetRef"]["name"] == "a"
    assert conditions(registry) == {
        "10.1.0.1": {"ready": True, "serving": True, "terminating": False},
        "10.1.0.2": {"ready": False, "serving": False, "terminating": False},
    }
    assert [a["ip"] for a in subsets(registry)[0]["addresses"]] == ["10.1.0.1"]
    assert [a["ip"] for a in subsets(registry)[0]["notReadyAddresses"]] == ["10.1.0.2"]
    assert subsets(registry)[0]["ports"] == [{"port": 8080, "protocol": "TCP"}]


async def test_a_terminating_pod_serves_but_is_not_ready(registry: Registry) -> None:
    add_service(registry)
    add_pod(registry, "a", "10.1.0.1")
    await until(lambda: conditions(registry))
    Remover(registry).delete(PODS, ("red", "a"), DeleteOptions())
    await until(lambda: subsets(registry) is None)
    assert conditions(registry) == {"10.1.0.1": {"ready": False, "serving": True, "terminating": True}}
    Remover(registry).delete(PODS, ("red", "a"), DeleteOptions(grace=0))
    await until(lambda: not conditions(registry))
    assert [(s["endpoints"], s["ports"]) for s in written(registry)] == [(None, None)], (
        "one empty slice stays"
    )


async def test_not_ready_addresses_can_be_published(registry: Registry) -> None:
    add_service(registry, publishNotReadyAddresses=True)
    add_pod(registry, "a", "10.1.0.1", ready=False)
    await until(lambda: conditions(registry))
    assert conditions(registry)["10.1.0.1"] == {"ready": True, "serving": False, "terminating": False}
    assert len(subsets(registry)[0]["addresses"]) == 1


async def test_pods_that_have_ended_or_have_no_address_do_not_count(registry: Registry) -> None:
    add_service(registry)
    add_pod(registry, "a", "")
    add_pod(registry, "b", "10.1.0.2")
    set_status(registry, registry.get(PODS, ("red", "b")), ready=True, ip="10.1.0.2", phase="Failed")
    add_pod(registry, "c", "fd00::1")
    add_pod(registry, "d", "10.1.0.4")
    await until(lambda: conditions(registry))
    assert list(conditions(registry)) == ["10.1.0.4"]


async def test_a_named_port_with_two_numbers_makes_two_slices(registry: Registry) -> None:
    add_service(registry)
    add_pod(registry, "a", "10.1.0.1", port=8080)
    add_pod(registry, "b", "10.1.0.2", port=9090)
    await until(lambda: len(conditions(registry)) == 2)
    assert sorted((s["ports"][0]["port"], s["endpoints"][0]["addresses"]) for s in written(registry)) == [
        (8080, ["10.1.0.1"]),
        (9090, ["10.1.0.2"]),
    ]
    assert [s["ports"][0]["port"] for s in subsets(registry)] == [8080, 9090]


async def test_several_and_numeric_ports(registry: Registry) -> None:
    ports = [
        {"name": "a", "port": 80, "targetPort": 8000},
        {"name": "b", "port": 53, "protocol": "UDP"},
        {"name": "none", "port": 81, "targetPort": "missing"},
    ]
    add_service(registry, ports=ports)
    add_pod(registry, "a", "10.1.0.1")
    await until(lambda: conditions(registry))
    assert written(registry)[0]["ports"] == [
        {"name": "a", "port": 8000, "protocol": "TCP"},
        {"name": "b", "port": 53, "protocol": "UDP"},
    ]


async def test_headless_services_give_hostnames(registry: Registry) -> None:
    add_service(registry, clusterIP="None", ports=[])
    add_pod(registry, "a", "10.1.0.1", hostname="first", subdomain="web")
    await until(lambda: conditions(registry))
    found = written(registry)[0]
    assert (found["ports"], found["endpoints"][0]["hostname"]) == (None, "first")
    assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


async def test_endpoints_written_by_hand_are_mirrored(registry: Registry) -> None:
    add_service(registry, selector={})
    by_hand = {
        "metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}],
    }
    registry.create(ENDPOINTS, "red", by_hand)
    await until(lambda: conditions(registry))
    assert written(registry)[0]["metadata"]["labels"][slices.MANAGED_BY] == slices.MIRROR
    assert conditions(registry) == {"192.0.2.1": {"ready": True}}
    registry.store.remove(ENDPOINTS, ("red", "web"))
    await until(lambda: not written(registry))


async def test_what_belongs_to_a_service_goes_with_it(registry: Registry) -> None:
    add_service(registry)
    add_pod(registry, "a", "10.1.0.1")
    await until(lambda: conditions(registry))
    registry.store.remove(SERVICES, ("red", "web"))
    await until(lambda: not written(registry) and registry.store.get(ENDPOINTS, ("red", "web")) is None)


async def test_a_slice_removed_by_hand_comes_back(registry: Registry) -> None:
    add_service(registry)
    add_pod(registry, "a", "10.1.0.1")
    await until(lambda: conditions(registry))
    for entry in registry.store.entries(ENDPOINT_SLICES, "red"):
        registry.store.remove(ENDPOINT_SLICES, entry.key)
    await until(lambda: conditions(registry))


SERVICE = {"metadata": {"name": "web", "namespace": "red", "uid": "u"}, "spec": {"clusterIP": "10.96.0.9"}}
PORTS = (("", 80, "TCP", ""),)


def endpoint(number: int) -> dict[str, Any]:
    return {"addresses": [f"10.1.{number // 250}.{number % 250 + 1}"], "conditions": {"ready": True}}


FRESH = itertools.count()
"""Names that no slice had before."""


def apply(existing: list[Entry], members: list[dict[str, Any]]) -> tuple[list[Entry], int]:
    """The slices after the plan, and how many of those that stay were changed."""
    plan = slices.plan(SERVICE, slices.CONTROLLER, existing, {PORTS: members} if members else {})
    before = {entry.key: entry.obj["endpoints"] for entry in existing}
    result, changed = [], 0
    for obj in plan.write:
        obj["metadata"].setdefault("name", f"new-{next(FRESH)}")
        entry = Entry.build(ENDPOINT_SLICES, obj, 1)
        changed += entry.key in before and before[entry.key] != obj["endpoints"]
        result.append(entry)
    assert not {e.key for e in plan.remove} & {e.key for e in result}
    assert {e.key for e in existing} <= {e.key for e in plan.remove} | {e.key for e in result}
    return result, changed


@given(st.lists(st.sets(st.integers(0, 400), max_size=320), min_size=1, max_size=6))
def test_slices_hold_every_endpoint_once_and_no_more_than_a_hundred(steps: list[set[int]]) -> None:
    existing: list[Entry] = []
    for step in steps:
        existing, _ = apply(existing, [endpoint(number) for number in sorted(step)])
        held = [identity(e) for entry in existing for e in entry.obj["endpoints"] or []]
        assert sorted(held) == sorted(identity(endpoint(number)) for number in step)
        assert all(len(entry.obj["endpoints"] or []) <= slices.MOST for entry in existing)
        assert len(existing) >= 1


def test_one_endpoint_more_or_less_touches_one_slice() -> None:
    existing, _ = apply([], [endpoint(number) for number in range(250)])
    assert len(existing) == 3
    fewer, changed = apply(existing, [endpoint(number) for number in range(250) if number != 120])
    assert (len(fewer), changed) == (3, 1)
    more, changed = apply(fewer, [endpoint(number) for number in range(251) if number != 120])
    assert (len(more), changed) == (3, 1)
