"""What counts as somebody else's doing, how it is told, and pods' ports that somebody removed. Time is virtual."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from fakes.dataplane import FakePodLinks, FakeSwitch
from fakes.dataplane_examples import pod_link
from fakes.node import OWN, FakeNode, elsewhere, pod, running
from fakes.virtual_time import virtual_time, within
from k8s_ovs.agent.attaching import PodParts
from k8s_ovs.agent.drift import Drift
from k8s_ovs.agent.limits import LimitKeeper
from k8s_ovs.agent.ports import PortKeeper
from k8s_ovs.agent.repairs import EVENT_REASON, Repairs
from k8s_ovs.cni.locks import KeyedLocks
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.dataplane.findings import NAMED, Finding, Kind, found, joined
from k8s_ovs.errors import KubeUnavailable, LinkError, OpenFlowError, OvsdbError
from k8s_ovs.model.events import HostSubnetSet

SOON = 2


# -- findings ----------------------------------------------------------------------------------------------------------


def test_a_finding_names_a_few_things_and_counts_the_rest() -> None:
    (few,) = found(Kind.FLOW, ["a", "b"])
    assert str(few) == "2 flows: a; b"
    (many,) = found(Kind.GROUP, (f"group {number}" for number in range(7)))
    assert str(many) == "7 groups: group 0; group 1; group 2; and 4 more"
    assert found(Kind.PORT, []) == ()


def test_of_many_things_only_those_that_are_named_are_spelled() -> None:
    spelled: list[int] = []
    (finding,) = found(Kind.FLOW, (str(spelled.append(number)) for number in range(100_000)), 100_000)
    assert finding.count == 100_000
    assert len(spelled) == NAMED + 1


def test_findings_of_one_kind_become_one() -> None:
    three = [*found(Kind.PORT, ["a"]), *found(Kind.LINK, ["x"]), *found(Kind.PORT, ["b", "c", "d"])]
    assert [str(finding) for finding in joined(three)] == ["4 ports: a; b; c; and 1 more", "1 link: x"]


# -- Events ------------------------------------------------------------------------------------------------------------


class Listener:
    """An API server that is told Events; it refuses the first `refusals`."""

    def __init__(self, refusals: int = 0) -> None:
        self.told: list[tuple[float, str]] = []
        self._refusals = refusals

    async def __call__(self, reason: str, message: str) -> None:
        if self._refusals:
            self._refusals -= 1
            raise KubeUnavailable("connection refused")
        assert reason == EVENT_REASON
        self.told.append((asyncio.get_running_loop().time(), message.rpartition("back: ")[2]))


@asynccontextmanager
async def telling(listener: Listener) -> AsyncIterator[Repairs]:
    repairs = Repairs(listener)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(repairs.run())
        yield repairs
        task.cancel()


@virtual_time
async def test_there_is_one_event_of_a_kind_at_a_time_and_one_a_second() -> None:
    listener = Listener()
    async with telling(listener) as repairs:
        repairs.note([*found(Kind.FLOW, ["a"]), *found(Kind.GROUP, ["g"])])
        await asyncio.sleep(0.1)
        for name in "bcdef":
            repairs.note(found(Kind.FLOW, [name]))
        await asyncio.sleep(10)
    assert [message for _, message in listener.told] == [
        "1 flow: a",
        "1 group: g",
        "5 flows: b; c; d; and 2 more",
    ]
    times = [instant for instant, _ in listener.told]
    assert all(later - earlier >= 1 for earlier, later in pairwise(times))
    assert repairs.counts == {Kind.FLOW: 6, Kind.GROUP: 1}


@virtual_time
async def test_what_the_api_server_cannot_take_is_told_once_it_can() -> None:
    listener = Listener(refusals=3)
    async with telling(listener) as repairs:
        repairs.note(found(Kind.FLOW, ["a"]))
        repairs.note(found(Kind.PORT, ["p"]))
        await asyncio.sleep(1)
        repairs.note(found(Kind.FLOW, ["b"]))
        await asyncio.sleep(120)
    assert sorted(message for _, message in listener.told) == ["1 port: p", "2 flows: a; b"]


# -- what counts -------------------------------------------------------------------------------------------------------


@virtual_time
async def test_nothing_that_the_agent_does_itself_counts() -> None:
    node = FakeNode()
    async with running(node):
        await node.know()
        for number in range(3):
            await node.attach(number)
        await node.reconciler.withdraw(pod(0).key)
        await node.switch.remove_port(pod(0).key)
        await node.reconciler.submit(HostSubnetSet(elsewhere(OWN, "172.11.12.0/22")))
        node.switch.disturb()
        await asyncio.sleep(200)
    node.agent()
    async with running(node):
        await node.know()
        await asyncio.sleep(200)
    assert node.repairs.counts == {}


def test_a_bridge_that_we_want_otherwise_ourselves_still_holds_its_flows() -> None:
    """At start the gateway's MTU is known only after the first comparison; what is found from then on counts."""
    told: list[Finding] = []
    switch, spec = FakeSwitch(), BridgeSpec()
    drift = Drift(switch, told.extend)
    drift.bridge(spec, ())
    drift.flows((), switch.restarts)
    drift.bridge(replace(spec, mtu=1400), found(Kind.PORT, ["port tun0: mtu_request was empty"]))
    assert (drift.flows_known, told) == (True, [])
    gone = found(Kind.FLOW, ["a"])
    drift.flows(gone, switch.restarts)
    assert told == list(gone)


@virtual_time
async def test_what_a_restarted_switch_has_lost_does_not_count() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        node.flows.clear()
        node.host.gateway = None
        node.switch.restart_vswitchd()
        await asyncio.sleep(SOON)
        assert node.as_wanted()
        assert node.repairs.counts == {}
        node.flows.clear()
        await asyncio.sleep(61)
        assert node.repairs.counts.keys() == {Kind.FLOW}


@virtual_time
async def test_what_is_found_after_a_failed_commit_does_not_count() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.fail_next("commit", OpenFlowError("no answer"))
        with pytest.raises(OpenFlowError):
            await node.attach(1)
        await asyncio.sleep(SOON)
        assert node.as_wanted()
        assert node.repairs.counts == {}


@virtual_time
async def test_a_bridge_that_was_deleted_counts_and_what_follows_does_not() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.clear()
        node.switch.lose_bridge()
        await asyncio.sleep(SOON)
        assert node.as_wanted()
        assert node.repairs.counts == {Kind.BRIDGE: 1}


@virtual_time
async def test_flows_that_are_planned_when_the_switch_tells_of_a_change_do_not_count() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.attach(1)
        node.switch.rows[lease.key] = pod(1)  # the switch gives it another number, or none
        node.switch.faults = ["port vxlan0: options was {}"]
        node.switch.disturb()
        await asyncio.sleep(SOON)
        assert node.as_wanted()
        assert node.repairs.counts == {Kind.PORT: 1}


@virtual_time
async def test_the_gateways_address_comes_back_at_once() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await asyncio.sleep(SOON)
        syncs = node.reconciler.stats.full_syncs
        node.host.lose_address()
        await asyncio.sleep(SOON)
        assert node.host.gateway is not None
        assert node.repairs.counts == {Kind.ADDRESS: 1}
        assert node.reconciler.stats.full_syncs == syncs, "the flows need no comparison for that"


@virtual_time
async def test_who_takes_the_address_away_all_the_time_gets_no_hot_loop() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        calls = node.host.calls.count("ensure_gateway")
        for _ in range(1000):
            node.host.lose_address()
            await asyncio.sleep(0.01)
        assert 5 <= node.host.calls.count("ensure_gateway") - calls <= 12


@virtual_time
async def test_a_gateway_without_device_is_made_anew() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await asyncio.sleep(SOON)
        node.host.interfaces.clear()
        node.host.lose_address()
        await asyncio.sleep(SOON)
        assert node.host.gateway is not None
        assert node.reconciler.trouble() == ""
        assert node.repairs.counts == {Kind.LINK: 1}


@virtual_time
async def test_a_device_that_is_missing_when_the_agent_starts_is_made_anew_after_some_patience() -> None:
    node = FakeNode()
    node.host.interfaces.clear()
    async with running(node):
        await node.know()
        assert "tun0: does not exist" in node.reconciler.trouble()
        await asyncio.sleep(5)
        assert node.reconciler.trouble() == ""
        assert node.switch.calls.count("remake_gateway") == 1


# -- pods' ports -------------------------------------------------------------------------------------------------------


class Ports:
    """A node with two pods whose veths exist, and the keeper of its ports."""

    def __init__(self) -> None:
        self.node = FakeNode()
        self.links = FakePodLinks({"/netns/1", "/netns/2"})
        self.locks: KeyedLocks[str] = KeyedLocks()

    async def attach(self) -> None:
        await self.node.know()
        for number in (1, 2):
            await self.links.create(pod_link(number, f"/netns/{number}"))
            await self.node.attach(number)

    def keeper(self) -> PortKeeper:
        node = self.node
        parts = PodParts(
            node.switch,
            self.links,
            node.reconciler,
            limits=LimitKeeper(None),
            lost=node.reconciler.lost,
            on_repair=node.repairs.note,
        )
        return PortKeeper(parts, self.locks)


@asynccontextmanager
async def keeping() -> AsyncIterator[Ports]:
    ports = Ports()
    async with running(ports.node), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(ports.keeper().run())
        await ports.attach()
        yield ports
        task.cancel()


@virtual_time
async def test_a_port_that_somebody_removed_comes_back_with_its_lease_and_flows() -> None:
    async with keeping() as ports:
        node = ports.node
        before = node.switch.rows[pod(1).key]
        node.switch.lose_row(pod(1).key)
        await asyncio.sleep(SOON)
        after = node.switch.rows[pod(1).key]
        assert (after.address, after.uid) == (before.address, before.uid)
        assert after.ofport != before.ofport
        assert node.as_wanted()
        assert node.mentions(after)
        assert node.repairs.counts == {Kind.PORT: 1}
        assert list(node.reconciler.lost) == []


@virtual_time
async def test_all_ports_come_back_after_the_bridge_was_deleted() -> None:
    async with keeping() as ports:
        ports.node.flows.clear()
        ports.node.switch.lose_bridge()
        await asyncio.sleep(SOON)
        assert ports.node.switch.rows.keys() == {pod(1).key, pod(2).key}
        assert ports.node.as_wanted()
        assert ports.node.repairs.counts == {Kind.BRIDGE: 1, Kind.PORT: 2}


@virtual_time
async def test_a_pod_whose_veth_is_gone_too_is_forgotten() -> None:
    async with keeping() as ports:
        ports.links.lose_namespace("/netns/1")
        ports.node.switch.lose_row(pod(1).key)
        await asyncio.sleep(SOON)
        assert ports.node.switch.rows.keys() == {pod(2).key}
        assert list(ports.node.reconciler.lost.held()) == [ports.node.switch.rows[pod(2).key]]
        assert ports.node.as_wanted()
        assert ports.node.repairs.counts == {}


@virtual_time
async def test_a_port_that_del_removed_stays_away() -> None:
    async with keeping() as ports:
        key = pod(1).key
        await ports.node.reconciler.withdraw(key)
        await ports.node.switch.remove_port(key)
        ports.node.switch.disturb()
        await asyncio.sleep(SOON)
        assert key not in ports.node.switch.rows
        assert ports.node.repairs.counts == {}


@virtual_time
async def test_a_del_that_comes_before_the_port_is_back_wins() -> None:
    async with keeping() as ports:
        lease = ports.node.switch.rows[pod(1).key]
        async with ports.locks.hold(lease.host_ifname):
            ports.node.switch.lose_row(lease.key)
            await asyncio.sleep(SOON)
            assert [each.address for each in ports.node.reconciler.lost.held()].count(lease.address) == 1
            await within(1, ports.node.reconciler.withdraw(lease.key))
        await asyncio.sleep(SOON)
        assert lease.key not in ports.node.switch.rows
        assert list(ports.node.reconciler.lost) == []


@virtual_time
async def test_what_the_switch_refuses_is_tried_again_and_the_address_stays_taken() -> None:
    async with keeping() as ports:
        lease = ports.node.switch.rows[pod(1).key]
        ports.node.switch.fail_next("add_port", OvsdbError("no answer"), times=3)
        ports.node.switch.lose_row(lease.key)
        await asyncio.sleep(0.05)
        assert lease.address in {each.address for each in ports.node.reconciler.lost.held()}
        await asyncio.sleep(20)
        assert lease.key in ports.node.switch.rows
        assert ports.node.repairs.counts == {Kind.PORT: 1}


@virtual_time
async def test_a_pods_veth_that_is_down_is_set_up_once_a_period() -> None:
    async with keeping() as ports:
        name = pod(1).host_ifname
        await ports.links.vouch(name, pod(1).address)
        looking = asyncio.ensure_future(ports.keeper().keep_up(60))
        ports.links.down.add(name)
        await asyncio.sleep(61)
        assert ports.node.repairs.counts == {Kind.LINK: 1}
        ports.links.fail_next("keep_up", LinkError("no buffer space"))
        await asyncio.sleep(60)
        assert not looking.done()
        looking.cancel()


def test_a_finding_is_a_value() -> None:
    assert Finding(Kind.PORT, 1, ("a",)) == found(Kind.PORT, ["a"])[0]
