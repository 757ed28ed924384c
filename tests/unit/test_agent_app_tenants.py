"""The agent as a whole while tenants change: what it takes from the store and what it says there."""

from pathlib import Path

import pytest

from fakes.agent import World, running
from fakes.node import HOST_IP
from fakes.watching import until
from k8s_ovs.model.types import Tenant, TenantChange, TenantStep, Vni

DB = Tenant("db", Vni(11), TenantChange("0123abcd", TenantStep.ACCEPT, Vni(11), Vni(12), "isolate"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def reported(world: World) -> dict[str, str] | None:
    report = (await world.store.snapshot()).reports.get(HOST_IP)
    return None if report is None else dict(report.applied)


async def wait_for(world: World, wanted: dict[str, str]) -> None:
    """Until this is what the store says that the node has applied."""
    await until(lambda: f'"Applied":{render(wanted)}' in raw_report(world), str(wanted))
    assert await reported(world) == wanted


def render(wanted: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":"{token}"' for name, token in wanted.items()) + "}"


def raw_report(world: World) -> str:
    key = world.store.keys.report(HOST_IP)
    return world.store.raw().get(key, b"").decode().replace(" ", "")


async def test_a_node_says_that_it_is_there_once_it_is_synchronised_and_no_more_when_it_ends(
    world: World,
) -> None:
    world.fill()
    gate = world.flows.hold("replace")
    async with running(world):
        await until(lambda: "replace" in world.flows.calls, "synchronising")
        assert await reported(world) is None
        gate.set()
        await wait_for(world, {})
    assert await reported(world) is None


async def test_a_step_is_in_the_store_once_the_switch_has_settled(world: World) -> None:
    world.fill()
    await world.attach(1)
    async with running(world):
        await world.serving()
        world.flows.calls.clear()
        gate = world.flows.hold("settle")
        world.store.put(DB)
        await until(lambda: "settle" in world.flows.calls, "settle")
        assert world.metric("k8s_ovs_tenant_changes") == 1
        assert await reported(world) == {}
        gate.set()
        await wait_for(world, {"db": "0123abcd/accept"})
        assert world.metric("k8s_ovs_settle_seconds_count") == 1
        world.store.put(Tenant("db", Vni(12)))
        await wait_for(world, {})
        assert world.metric("k8s_ovs_tenant_changes") == 0


async def test_without_kubernetes_nobody_waits_for_services(world: World) -> None:
    world.fill()
    async with running(world):
        await world.serving()
        assert world.why("bridge") == ""
