"""The agent as a whole while its sources are away, or have forgotten: who is told what, and what goes on."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.agent import World, running
from fakes.dataplane_examples import pod_link
from fakes.node import HOST_IP, OTHER, OWN, WEB
from fakes.watching import until
from k8s_ovs.agent.app import Agent, AgentServices
from k8s_ovs.agent.parts import AgentParts
from k8s_ovs.agent.services import ServiceSources
from k8s_ovs.errors import EtcdUnavailable
from k8s_ovs.model.types import StillUsed, Tenant, Vni
from k8s_ovs.sources.kube.reflector import InSync

AWAY = "etcd http://192.0.2.9:2379: connecting: Connection refused"
NO_API = "GET https://192.0.2.10:6443/api/v1/services: no answer"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_an_outage_of_etcd_is_told_and_keeps_nobody_from_serving(world: World) -> None:
    world.fill()
    async with running(world):
        await world.serving()
        assert world.health.notes() == {}
        world.store.outage = EtcdUnavailable(AWAY)
        assert world.health.notes() == {"etcd": AWAY}
        assert world.health.ready
        world.links.namespaces.add("/run/netns/a")
        assert (await world.call("ADD", "/run/netns/a"))[0] == 0
        assert (await world.call("STATUS"))[0] == 0
        assert (await world.call("DEL", "/run/netns/a"))[0] == 0


async def test_one_that_starts_during_an_outage_says_so_and_still_detaches(world: World) -> None:
    world.fill()
    await world.attach(1)
    world.store.outage = EtcdUnavailable(AWAY)
    async with running(world):
        await until(lambda: AWAY in world.why("network-config"), "the reason")
        await until(world.settings.cni.socket.exists, "the socket")
        flows = world.flows.content()
        status, answer = await world.call("STATUS")
        assert (status, '"code":50' in answer.replace(" ", ""), AWAY in answer) == (1, True, True)
        world.links.namespaces.add("/run/netns/a")
        status, answer = await world.call("ADD", "/run/netns/a")
        assert (status, '"code":11' in answer.replace(" ", ""), AWAY in answer) == (1, True, True)
        assert (await world.call("DEL"))[0] == 0
        assert world.flows.content() == flows
        world.store.outage = None
        await world.serving()


async def test_what_etcd_has_lost_is_reported_if_it_is_used_here(world: World) -> None:
    world.fill()
    await world.attach(1)
    async with running(world):
        await world.serving()
        assert (await world.store.snapshot()).reports[HOST_IP].used == StillUsed()
        elsewhere = Tenant("elsewhere", Vni(99))
        world.store.lost = {"own": OWN, "other": OTHER, "web": WEB, "elsewhere": elsewhere}
        world.store.put(Tenant("another", Vni(98)))  # the watch tells something

        async def used() -> StillUsed:
            return (await world.store.snapshot()).reports[HOST_IP].used

        async with asyncio.timeout(10):
            while not await used():
                await asyncio.sleep(0.01)
        here = {lease.namespace for lease in world.switch.attachments()}
        known = {one.name: one.vni for one in (WEB, elsewhere) if one.name in here}
        assert known
        assert await used() == StillUsed(OWN.subnet, known)
        assert world.metric("k8s_ovs_store_lost_records") == 4
        assert "4 records" in world.health.notes()["lost-records"]


async def test_pods_that_lost_their_ports_while_no_agent_ran_are_told_of(world: World) -> None:
    """In /readyz and in the report that `k8s-ovs status` reads: an Event alone goes by."""
    world.fill()
    for number in range(7):
        link = pod_link(number, f"/run/netns/{number}")
        world.links.namespaces.add(link.netns)
        await world.links.create(link)
        await world.links.vouch(link.host_ifname, IPv4Address("172.11.0.9") + number)
    said = "7 pods have no network, because somebody removed their ports while no agent ran: 172.11.0.9, "
    async with running(world):
        await world.serving()
        await until(lambda: said in world.health.notes().get("pod-ports", ""), "the note")
        assert "172.11.0.13 and 2 more; delete them" in world.health.notes()["pod-ports"]
        assert world.health.ready

        async def told() -> str:
            report = (await world.store.snapshot()).reports.get(HOST_IP)
            return "" if report is None or report.health is None else report.health.notes

        async with asyncio.timeout(20):
            while said not in await told():
                await asyncio.sleep(0.01)


@dataclass
class ApiServer:
    """One that is away until `back`."""

    back: asyncio.Event

    async def silent(self) -> AsyncGenerator[Sequence[InSync], None]:
        await self.back.wait()
        yield [InSync()]
        await asyncio.get_running_loop().create_future()

    def trouble(self) -> str:
        return "" if self.back.is_set() else NO_API


async def test_one_that_starts_while_the_api_is_away_names_it(world: World) -> None:
    world.fill()
    api = ApiServer(asyncio.Event())
    services = AgentServices(world.store, None, world.health, world.registry, lambda: None)
    parts = AgentParts(
        switch=world.switch,
        flows=world.flows,
        host=world.host,
        links=world.links,
        firewall=world.firewall,
        own_pods=None,
        services=ServiceSources(api.silent, api.silent, api.trouble),
        cni_uid=os.getuid(),
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(Agent(world.settings, services, parts).run(), name="agent")
        await until(lambda: NO_API in world.why("bridge"), "the reason")
        assert "waiting for" in world.why("bridge")
        assert world.health.notes() == {"kubernetes": NO_API}
        assert world.metric("k8s_ovs_kube_outage") == 1
        assert not world.flows.content()
        api.back.set()
        await until(lambda: world.health.ready, "ready")
        assert world.health.notes() == {}
        assert world.metric("k8s_ovs_kube_outage") == 0
        task.cancel()
