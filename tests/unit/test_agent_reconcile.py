"""The reconciler on a switch in memory: what is sent when, and who is told what. Time is virtual."""

import asyncio

import pytest

from fakes.node import OTHER, OWN, RECORDS, SYNCED, FakeNode, pod, running
from fakes.virtual_time import run_virtual, virtual_time, within
from k8s_ovs.agent.reconcile import ReconcileOptions
from k8s_ovs.dataplane.findings import Kind
from k8s_ovs.errors import CniError, OpenFlowError
from k8s_ovs.model.events import (
    HostSubnetSet,
    Source,
    Synced,
    TenantSet,
)
from k8s_ovs.model.types import Tenant, Vni

REFUSED = OpenFlowError("bundle of 3 changes: OFPFMFC_TABLE_FULL")
DB = Tenant("db", Vni(11))
DB_KNOWN = TenantSet(DB)


async def settle(node: FakeNode) -> None:
    """Let a second pass: whatever was going to happen by itself without a timer has happened."""
    await asyncio.sleep(1)


# -- before every source has synced ----------------------------------------------------------------------------------


@pytest.mark.parametrize("unsynced", [event.source for event in SYNCED])
def test_nothing_is_sent_before_every_source_has_synced(unsynced: Source) -> None:
    async def main() -> None:
        async with running(FakeNode()) as node:
            early = node.reconciler.post(
                *RECORDS, *(event for event in SYNCED if event.source is not unsynced)
            )
            node.switch.disturb()
            await asyncio.sleep(1000)
            assert node.flows.calls == []
            assert node.host.calls == []
            assert not early.done()
            assert node.reconciler.trouble() == f"waiting for {unsynced}"
            await within(1, node.reconciler.submit(Synced(unsynced)))
            assert early.done()
            assert node.as_wanted()
            assert node.reconciler.trouble() == ""

    run_virtual(main())


@virtual_time
async def test_nothing_is_sent_before_the_leases_are_read() -> None:
    node = FakeNode()
    gate = node.switch.hold("ensure_bridge")
    async with running(node):
        early = node.reconciler.post(*RECORDS, *SYNCED)
        await asyncio.sleep(1000)
        assert node.flows.calls == []
        assert node.reconciler.trouble() == "waiting for attachments"
        gate.set()
        await within(1, early)
        assert node.as_wanted()


@virtual_time
async def test_the_flows_of_the_life_before_stay_until_then() -> None:
    node = FakeNode()
    async with running(node):
        await node.know()
        await node.attach(1)
    before = node.flows.content()
    node.agent()
    async with running(node):
        node.reconciler.post(*RECORDS)
        await asyncio.sleep(1000)
        assert node.flows.content() == before


@virtual_time
async def test_without_a_host_subnet_nothing_is_sent_and_trouble_says_so() -> None:
    async with running(FakeNode()) as node:
        early = node.reconciler.post(*SYNCED)
        await asyncio.sleep(1000)
        assert node.flows.calls == []
        assert node.reconciler.trouble().startswith("no host subnet for node1 yet (is the controller running")
        assert early.done()
        await node.know()
        assert node.as_wanted()


@virtual_time
async def test_trouble_says_why_nothing_is_heard() -> None:
    async with running(FakeNode()) as node:
        node.source_trouble = "etcd is away"
        await settle(node)
        missing = "config, host-subnets, tenants, services, endpoint-slices"
        assert node.reconciler.trouble() == f"waiting for {missing} (etcd is away)"


# -- the first synchronisation ---------------------------------------------------------------------------------------


@virtual_time
async def test_a_restarted_agent_sends_the_difference_only() -> None:
    node = FakeNode()
    async with running(node):
        await node.know()
        await node.attach(1)
        await node.attach(2)
    bundles = list(node.flows.bundles)
    node.agent()
    async with running(node):
        await node.know()
    assert (node.flows.replaced[-1].added, node.flows.replaced[-1].deleted) == (0, 0)
    del node.switch.rows[pod(2).key]
    node.agent()
    async with running(node):
        await node.know()
    assert node.flows.replaced[-1].added == 0
    assert 0 < node.flows.replaced[-1].deleted <= 5
    assert node.flows.bundles == bundles
    assert node.as_wanted()


@virtual_time
async def test_a_node_is_ready_when_nothing_that_was_forbidden_meanwhile_is_in_any_cache() -> None:
    node = FakeNode()
    gate = node.flows.hold("settle")
    async with running(node):
        done = node.reconciler.post(*RECORDS, *SYNCED)
        await asyncio.sleep(10)
        assert node.as_wanted()
        assert node.reconciler.trouble() == "the bridge has not been synchronised yet"
        assert not done.done()
        gate.set()
        await within(1, done)
        assert node.reconciler.trouble() == ""


@virtual_time
async def test_a_switch_that_does_not_settle_is_asked_again_though_nothing_differs_any_more() -> None:
    node = FakeNode()
    node.flows.fail_next("settle", REFUSED, times=2)
    async with running(node):
        done = node.reconciler.post(*RECORDS, *SYNCED)
        await asyncio.sleep(0.1)
        assert node.reconciler.trouble() == str(REFUSED)
        await asyncio.sleep(1)
        assert node.flows.calls.count("settle") == 3
        assert node.reconciler.trouble() == ""
    assert done.done()


@virtual_time
async def test_the_gateway_gets_its_address_and_the_underlays_mtu_less_the_overhead() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        assert node.host.gateway is not None
        assert (str(node.host.gateway.address), node.host.gateway.mtu) == ("172.11.4.1", 1450)
        network = node.reconciler.node()
        assert (network.subnet, network.mtu) == (OWN.subnet, 1450)
        assert not network.checksum_offload  # the fake offers netdev


@virtual_time
async def test_an_mtu_that_the_operator_chose_is_taken_as_it_is() -> None:
    node = FakeNode(ReconcileOptions(mtu=8950))
    node.host.mtus.clear()
    async with running(node):
        await node.know()
        assert node.reconciler.node().mtu == 8950


@virtual_time
async def test_an_mtu_that_changes_is_noticed() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.host.mtus[OWN.host_ip] = 9000
        await asyncio.sleep(61)
        assert node.reconciler.node().mtu == 8950
        assert node.host.gateway is not None
        assert node.host.gateway.mtu == 8950


# -- commits ---------------------------------------------------------------------------------------------------------


@virtual_time
async def test_submit_returns_after_the_commit_that_contains_the_event() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.add_port(1)
        gate = node.flows.hold("commit")
        installed = asyncio.ensure_future(node.reconciler.install(lease))
        await asyncio.sleep(1000)
        assert not installed.done()
        assert not node.mentions(lease)
        gate.set()
        await within(1, installed)
        assert node.mentions(lease)
        assert node.as_wanted()


@virtual_time
async def test_an_event_costs_its_own_flows_only() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.attach(1)
        lines = node.flows.bundles[-1]
        assert 0 < len(lines) <= 6  # 5 of the pod, 1 of its tenant
        assert sum(str(lease.address) in line or lease.mac in line for line in lines) >= 4
        assert len(node.flows.replaced) == 1


@virtual_time
async def test_an_event_without_consequences_sends_nothing_and_is_confirmed() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        calls = list(node.flows.calls)
        await within(1, node.reconciler.submit(HostSubnetSet(OTHER), DB_KNOWN))
        assert node.flows.calls == calls


@virtual_time
async def test_events_that_arrive_during_a_commit_share_the_next_one() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        leases = [await node.add_port(number) for number in range(12)]
        gate = node.flows.hold("commit")
        first = asyncio.ensure_future(node.reconciler.install(leases[0]))
        await settle(node)
        others = [asyncio.ensure_future(node.reconciler.install(lease)) for lease in leases[1:]]
        await settle(node)
        gate.set()
        await within(1, asyncio.gather(first, *others))
        assert len(node.flows.bundles) == 2
        assert node.as_wanted()


@virtual_time
async def test_a_failed_commit_fails_its_waiters_and_is_repaired_with_growing_pauses() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.add_port(1)
        node.flows.fail_next("commit", REFUSED)
        node.flows.fail_next("replace", REFUSED, times=3)
        begin = asyncio.get_running_loop().time()
        with pytest.raises(OpenFlowError, match="TABLE_FULL"):
            await node.reconciler.install(lease)
        assert node.reconciler.trouble() == str(REFUSED)
        with pytest.raises(CniError, match="node node1 cannot attach pods yet: bundle of 3 changes"):
            node.reconciler.node()
        while node.reconciler.trouble():
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - begin == pytest.approx(0.2 + 0.4 + 0.8 + 1.6, abs=0.1)
        assert node.as_wanted()
        assert node.reconciler.stats.failures == 4


@virtual_time
async def test_later_submits_succeed_after_a_failure() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.fail_next("commit", REFUSED)
        with pytest.raises(OpenFlowError):
            await node.attach(1)
        await within(0.3, node.reconciler.submit(DB_KNOWN))
        lease = await within(0.1, node.attach(2))
        assert node.mentions(lease)
        assert node.mentions(pod(1))
        assert node.as_wanted(DB_KNOWN)


@virtual_time
async def test_pauses_grow_to_ten_seconds_and_no_further() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.fail_next("commit", REFUSED)
        node.flows.fail_next("replace", REFUSED, times=1000)
        with pytest.raises(OpenFlowError):
            await node.attach(1)
        await asyncio.sleep(20)
        calls = len(node.flows.calls)
        await asyncio.sleep(100)
        assert len(node.flows.calls) - calls == 10


@virtual_time
async def test_a_stream_of_events_neither_hurries_nor_starves_the_retries() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.fail_next("commit", REFUSED)
        with pytest.raises(OpenFlowError):
            await node.attach(1)
        node.flows.fail_next("replace", REFUSED, times=5)
        calls = len(node.flows.calls)
        for number in range(700):  # 7 s, in which there are retries after 0.2, 0.4, 0.8, 1.6 and 3.2 s
            node.reconciler.post(TenantSet(Tenant("db", Vni(20 + number % 2))))
            await asyncio.sleep(0.01)
        assert len(node.flows.calls) - calls == 5
        for _ in range(700):
            node.reconciler.post(DB_KNOWN)
            await asyncio.sleep(0.01)
        assert node.reconciler.trouble() == ""
        assert node.as_wanted(DB_KNOWN)


@virtual_time
async def test_a_stream_of_changes_of_the_switch_does_not_make_a_hot_loop() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.fail_next("replace", REFUSED, times=10_000)
        calls = len(node.flows.calls)
        for _ in range(1000):
            node.switch.disturb()
            await asyncio.sleep(0.001)
        assert 5 <= len(node.flows.calls) - calls <= 21


@virtual_time
async def test_a_stream_of_events_does_not_put_off_the_periodic_comparison() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.clear()
        for number in range(130):
            node.reconciler.post(TenantSet(Tenant("db", Vni(20 + number % 2))))
            await asyncio.sleep(0.5)
        assert node.as_wanted(TenantSet(Tenant("db", Vni(21))))
        assert node.repairs.counts[Kind.FLOW] > 0


@virtual_time
async def test_drift_is_repaired_once_a_period_and_counted() -> None:
    async with running(FakeNode(ReconcileOptions(resync_period=30))) as node:
        await node.know()
        flows = len(node.flows.content())
        node.flows.clear()
        await asyncio.sleep(29)
        assert node.flows.content() == {}
        await asyncio.sleep(2)
        assert node.as_wanted()
        assert node.repairs.counts[Kind.FLOW] == flows == node.reconciler.stats.flows
        await asyncio.sleep(600)
        assert node.reconciler.stats.full_syncs in range(21, 23)


@virtual_time
async def test_an_idle_node_does_nothing_between_two_comparisons() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await asyncio.sleep(2)  # the kernel tells of our own change of the gateway too
        calls = [*node.flows.calls, *node.switch.calls, *node.host.calls]
        await asyncio.sleep(57)
        assert [*node.flows.calls, *node.switch.calls, *node.host.calls] == calls
