"""The reconciler and Services: groups keep their numbers across a restart, and conntrack forgets who has gone."""

import asyncio
import logging
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from fakes.node import FakeNode, running
from fakes.virtual_time import virtual_time, within
from k8s_ovs.agent.reconcile import ReconcileOptions
from k8s_ovs.dataplane.bridge import BridgeSpec, Datapath
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.group import MAX_BUCKETS
from k8s_ovs.model.events import EndpointSliceSet, Event, ServiceGone, ServiceSet
from k8s_ovs.model.services import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort

TCP, UDP = Protocol.TCP, Protocol.UDP
FIRST, SECOND, THIRD = (IPv4Address(f"172.11.8.{number}") for number in (2, 3, 4))


def service(number: int, protocol: Protocol = TCP) -> ServiceSet:
    address = IPv4Address("10.96.0.10") + number
    return ServiceSet(Service("web", f"s{number}", (address,), (ServicePort("", protocol, 80),)))


def endpoints(number: int, *addresses: IPv4Address, protocol: Protocol = TCP) -> EndpointSliceSet:
    ports = (EndpointPort("", protocol, 8080),)
    return EndpointSliceSet(
        EndpointSlice("web", f"s{number}-x", f"s{number}", ports, tuple(map(Endpoint, addresses)))
    )


async def forgotten(node: FakeNode, *endpoints: tuple[IPv4Address, int, int]) -> None:
    """Conntrack is told to forget these, and no others, in time."""
    async with asyncio.timeout(5):
        while len(node.flows.forgotten) < len(endpoints):
            await asyncio.sleep(0.01)
    assert node.flows.forgotten == list(endpoints)


def of(*numbers: int) -> list[Event]:
    return [event for number in numbers for event in (service(number), endpoints(number, FIRST, SECOND))]


@virtual_time
async def test_a_restarted_agent_finds_the_groups_of_its_services_and_changes_nothing() -> None:
    """Also when it hears of them in another order, and of one less: their numbers would be others."""
    node = FakeNode()
    async with running(node):
        await node.know(*of(1, 2, 3))
    before, flows = dict(node.flows.groups), node.flows.content()
    assert len(before) == 3
    node.agent()
    async with running(node):
        await node.know(*reversed(of(1, 2, 3)))
        assert node.flows.content() == flows
        assert node.flows.groups == before
        assert node.flows.bundles == []
    node.agent()
    async with running(node):
        await node.know(*of(3, 2))
        assert node.flows.groups.items() < before.items()
        await node.reconciler.submit(*of(4))
        new = node.flows.groups.keys() - before.keys()
        assert len(new) == 1, "a number that was in use at the start is not given again"


@virtual_time
async def test_a_switch_that_cannot_be_asked_yet_is_asked_again() -> None:
    node = FakeNode()
    async with running(node):
        await node.know(*of(1, 2))
    before = dict(node.flows.groups)
    node.agent()
    node.flows.fail_next("dump", OpenFlowError("no answer"), times=3)
    async with running(node):
        with pytest.raises(OpenFlowError, match="no answer"):
            await node.know(*reversed(of(1, 2)))
        await asyncio.sleep(10)
        assert node.reconciler.trouble() == ""
        assert node.flows.groups == before


@virtual_time
async def test_conntrack_forgets_datagrams_to_an_endpoint_that_has_gone() -> None:
    node = FakeNode()
    async with running(node):
        await node.know(service(1, UDP), endpoints(1, FIRST, SECOND, protocol=UDP))
        assert node.flows.forgotten == []
        await node.reconciler.submit(endpoints(1, SECOND, protocol=UDP))
        await forgotten(node, (FIRST, 17, 8080))
        assert node.flows.calls.index("commit") < node.flows.calls.index("forget"), (
            "no flow leads there any more"
        )
        await node.reconciler.submit(ServiceGone("web", "s1"))
        await forgotten(node, (FIRST, 17, 8080), (SECOND, 17, 8080))


@virtual_time
async def test_tcp_connections_end_by_themselves() -> None:
    node = FakeNode()
    async with running(node):
        await node.know(*of(1))
        await node.reconciler.submit(endpoints(1, SECOND))
        assert node.flows.forgotten == []


@virtual_time
async def test_what_could_not_be_forgotten_is_forgotten_later() -> None:
    node = FakeNode()
    async with running(node):
        await node.know(service(1, UDP), endpoints(1, FIRST, SECOND, protocol=UDP))
        node.flows.fail_next("forget", OpenFlowError("ovs-vswitchd does not answer"))
        await node.reconciler.submit(endpoints(1, SECOND, protocol=UDP))
        await forgotten(node, (FIRST, 17, 8080))


@virtual_time
async def test_nobody_waits_while_the_switch_looks_through_its_connections() -> None:
    """With very many of them, and many endpoints that go, that takes minutes."""
    node = FakeNode()
    async with running(node):
        await node.know(service(1, UDP), endpoints(1, FIRST, SECOND, protocol=UDP))
        slow = node.flows.hold("forget")
        await node.reconciler.submit(endpoints(1, SECOND, protocol=UDP))
        await within(1, node.attach(1))
        assert node.flows.forgotten == []
        slow.set()
        await forgotten(node, (FIRST, 17, 8080))


@pytest.mark.parametrize("affinity", [None, 60])
@virtual_time
async def test_who_has_gone_while_no_agent_was_there_is_forgotten_too(affinity: int | None) -> None:
    """By its slice, with its Service, as one of more than a group holds; whoever stays is not touched."""
    many = [IPv4Address("172.11.16.0") + number for number in range(1, MAX_BUCKETS + 3)]
    node = FakeNode()

    def of_udp(number: int, *addresses: IPv4Address) -> list[Event]:
        made = service(number, UDP)
        sticky = replace(made.service, affinity=affinity)
        return [ServiceSet(sticky), endpoints(number, *addresses, protocol=UDP)]

    async with running(node):
        await node.know(*of_udp(1, FIRST, SECOND), *of_udp(2, THIRD), *of_udp(3, *many), *of(4))
    node.agent()
    async with running(node):
        await node.know(*of_udp(1, SECOND), *of_udp(3, *many[1:]))
        await forgotten(node, (FIRST, 17, 8080), (THIRD, 17, 8080), (many[0], 17, 8080))
    node.agent()
    node.flows.forgotten.clear()
    async with running(node):
        await node.know(*of_udp(1, SECOND), *of_udp(3, *many[1:]))
        assert node.flows.forgotten == []


@virtual_time
@pytest.mark.parametrize(("datapath", "served"), [("netdev", False), ("system", True)])
async def test_sctp_is_served_where_conntrack_can_and_else_somebody_is_told(
    datapath: Datapath, served: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sctp = Protocol.SCTP
    node = FakeNode(ReconcileOptions(bridge=BridgeSpec(datapath=datapath)))
    with caplog.at_level(logging.WARNING):
        async with running(node):
            await node.know(service(1, sctp), endpoints(1, FIRST, protocol=sctp))
            assert bool(node.flows.groups) is served
    assert ("does not track SCTP" in caplog.text) is not served
