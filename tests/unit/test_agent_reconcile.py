"""The reconciler on a switch in memory: what is sent when, and who is told what. Time is virtual."""

import asyncio

import pytest

from fakes.node import OTHER, OWN, RECORDS, SYNCED, WEB, FakeNode, elsewhere, pod, running
from fakes.virtual_time import run_virtual, virtual_time, within
from k8s_ovs.agent.reconcile import Plant, ReconcileOptions, Reconciler
from k8s_ovs.errors import CniError, DataplaneError, OpenFlowError
from k8s_ovs.model.events import (
    AttachmentSet,
    Event,
    HostSubnetGone,
    HostSubnetSet,
    NetNamespaceGone,
    NetNamespaceSet,
    Source,
    Synced,
)
from k8s_ovs.model.types import NetNamespace, Vni

REFUSED = OpenFlowError("bundle of 3 changes: OFPFMFC_TABLE_FULL")
DB = NetNamespace("db", Vni(11))
DB_KNOWN = NetNamespaceSet(DB)


async def settle(node: FakeNode) -> None:
    """Let a second pass: whatever was going to happen by itself without a timer has happened."""
    await asyncio.sleep(1)


# -- before every source has synced ----------------------------------------------------------------------------------


@pytest.mark.parametrize("unsynced", [Source.CONFIG, Source.HOST_SUBNETS, Source.NET_NAMESPACES])
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
        assert node.reconciler.trouble() == "waiting for config, host-subnets, net-namespaces (etcd is away)"


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
            node.reconciler.post(NetNamespaceSet(NetNamespace("db", Vni(20 + number % 2))))
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
            node.reconciler.post(NetNamespaceSet(NetNamespace("db", Vni(20 + number % 2))))
            await asyncio.sleep(0.5)
        assert node.as_wanted(NetNamespaceSet(NetNamespace("db", Vni(21))))
        assert node.reconciler.stats.repaired_flows > 0


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
        assert node.reconciler.stats.repaired_flows == flows == node.reconciler.stats.flows
        await asyncio.sleep(600)
        assert node.reconciler.stats.full_syncs in range(21, 23)


@virtual_time
async def test_an_idle_node_does_nothing_between_two_comparisons() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        calls = [*node.flows.calls, *node.switch.calls, *node.host.calls]
        await asyncio.sleep(59)
        assert [*node.flows.calls, *node.switch.calls, *node.host.calls] == calls


# -- the database or the host refuses, and the flows can be written ---------------------------------------------------


@virtual_time
async def test_flows_go_on_while_ovsdb_refuses() -> None:
    """A full disk: ovsdb-server takes no transaction, but ovs-vswitchd takes flows."""
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        node.switch.fail_next("ensure_bridge", DataplaneError("ovsdb: No space left on device"), times=1000)
        await asyncio.sleep(61)
        assert "No space left on device" in node.reconciler.trouble()
        moved = HostSubnetSet(elsewhere(OTHER, "172.11.12.0/22"))
        await within(0.1, node.reconciler.submit(moved))
        assert node.as_wanted(moved)


@virtual_time
async def test_a_host_that_lacks_the_records_address_gets_its_flows_all_the_same() -> None:
    node = FakeNode()
    node.host.mtus.clear()
    async with running(node):
        node.reconciler.post(*RECORDS, *SYNCED)
        await asyncio.sleep(5)
        assert node.as_wanted()
        assert "address 192.0.2.1: no interface of this host has it" in node.reconciler.trouble()
        calls = len(node.flows.calls)
        for _ in range(100):
            await within(0.5, node.reconciler.submit(DB_KNOWN))
        assert len(node.flows.calls) - calls < 3
        node.host.mtus[OWN.host_ip] = 1500
        await asyncio.sleep(10)
        assert node.reconciler.trouble() == ""


@virtual_time
async def test_a_switch_that_is_away_at_start_is_waited_for() -> None:
    node = FakeNode()
    node.switch.fail_next("ensure_bridge", DataplaneError("ovsdb-server cannot be reached"), times=4)
    async with running(node):
        early = node.reconciler.post(*RECORDS, *SYNCED)
        await asyncio.sleep(0.1)
        assert node.reconciler.trouble() == "ovsdb-server cannot be reached; waiting for attachments"
        await within(1, node.reconciler.withdraw(pod(1).key))
        await within(4, early)
        assert node.reconciler.trouble() == ""
        assert node.as_wanted()


# -- pods ------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_withdrawn_flows_stay_away_while_the_row_exists_until_install_comes_again() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.attach(1)
        await within(1, node.reconciler.withdraw(lease.key))
        assert not node.mentions(lease)
        node.switch.disturb()
        await settle(node)
        node.reconciler.request_sync("a test")
        await asyncio.sleep(100)
        assert len(node.flows.replaced) >= 3
        assert not node.mentions(lease)
        await node.reconciler.install(lease)
        assert node.mentions(lease)
        node.switch.disturb()
        await settle(node)
        assert node.mentions(lease)


@virtual_time
async def test_withdraw_does_not_wait_before_the_sources_have_synced_and_is_not_forgotten() -> None:
    node = FakeNode()
    async with running(node):
        await node.know()
        lease = await node.attach(1)
    node.agent()
    gate = node.switch.hold("ensure_bridge")
    async with running(node):
        await within(1, node.reconciler.withdraw(lease.key))
        assert node.mentions(lease)
        gate.set()
        await settle(node)
        await node.know()
        assert not node.mentions(lease)


@virtual_time
async def test_withdraw_bears_a_switch_that_fails() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.attach(1)
        node.flows.fail_next("commit", REFUSED)
        node.flows.fail_next("replace", REFUSED, times=2)
        await within(1, node.reconciler.withdraw(lease.key))
        assert node.reconciler.trouble()
        await within(0.01, node.reconciler.withdraw(lease.key))
        await asyncio.sleep(10)
        assert not node.mentions(lease)


@virtual_time
async def test_a_pod_whose_namespace_has_no_tenant_gets_flows_once_it_has_one() -> None:
    async with running(FakeNode()) as node:
        await node.know(NetNamespaceGone("web"))
        lease = await node.attach(1)
        assert not node.mentions(lease)
        await node.reconciler.submit(NetNamespaceSet(WEB))
        assert node.mentions(lease)


# -- the switch changes ----------------------------------------------------------------------------------------------


@virtual_time
async def test_a_restarted_switch_gets_all_flows_with_the_new_port_numbers() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        for number in range(5):
            await node.attach(number)
        before = node.wanted(*RECORDS)
        node.flows.clear()
        node.switch.restart_vswitchd()
        await settle(node)
        assert node.wanted(*RECORDS) != before
        assert node.as_wanted()


@virtual_time
async def test_a_switch_that_comes_back_is_synchronised_at_once_not_after_the_pause() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.fail_next("replace", REFUSED, times=8)
        node.switch.disturb()
        await asyncio.sleep(30)
        assert node.reconciler.trouble()
        node.flows.clear()
        node.switch.restart_vswitchd()
        await asyncio.sleep(0.1)
        assert node.reconciler.trouble() == ""
        assert node.as_wanted()


@virtual_time
async def test_nobody_is_told_success_between_a_restart_and_the_synchronisation() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.add_port(1)
        node.flows.clear()
        gate = node.flows.hold("replace")
        node.switch.restart_vswitchd()
        installed = asyncio.ensure_future(node.reconciler.install(lease))
        await asyncio.sleep(1)
        assert not installed.done()
        gate.set()
        await within(1, installed)
        assert node.as_wanted()


@virtual_time
async def test_ports_removed_behind_our_back_lose_their_flows() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.attach(1)
        await node.attach(2)
        del node.switch.rows[lease.key]
        node.switch.disturb()
        await settle(node)
        assert not node.mentions(lease)
        assert node.as_wanted()


@virtual_time
async def test_a_lease_that_changed_without_notice_is_found_by_the_periodic_comparison() -> None:
    """An ADD that is cancelled takes its row away quietly: our own changes are no news."""
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.add_port(1)
        node.reconciler.request_sync("a comparison that happens to see the row")
        await settle(node)
        assert node.mentions(lease)
        await node.switch.remove_port(lease.key)
        await asyncio.sleep(60)
        assert node.as_wanted()


@virtual_time
async def test_install_takes_the_port_number_that_ovsdb_has_now() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.add_port(1)
        node.flows.clear()
        node.switch.restart_vswitchd()
        await settle(node)
        await node.reconciler.install(lease)
        assert node.as_wanted()


@virtual_time
async def test_a_restart_during_a_synchronisation_asks_for_another_one() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        gate = node.flows.hold("replace")
        node.reconciler.request_sync("the first")
        await settle(node)
        node.switch.restart_vswitchd()
        await settle(node)
        gate.set()
        await settle(node)
        assert node.as_wanted()


# -- this node's own subnet ------------------------------------------------------------------------------------------


@virtual_time
async def test_forwarding_goes_on_without_the_own_subnet_and_readiness_tells() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.attach(1)
        before = node.flows.content()
        with pytest.raises(DataplaneError, match="no host subnet for node1"):
            await within(1, node.reconciler.submit(HostSubnetGone(OWN.host_ip)))
        assert node.reconciler.trouble().startswith("no host subnet for node1")
        with pytest.raises(CniError) as refused:
            node.reconciler.node()
        assert refused.value.code == 11
        await asyncio.sleep(1000)
        assert node.flows.content() == before
        await within(1, node.reconciler.withdraw(lease.key))
        await node.switch.remove_port(lease.key)
        changed = elsewhere(OTHER, "172.11.16.0/22")
        node.reconciler.post(HostSubnetSet(changed))
        await settle(node)
        await within(1, node.reconciler.submit(HostSubnetSet(OWN)))
        assert node.as_wanted(HostSubnetSet(changed))
        assert node.reconciler.trouble() == ""


@virtual_time
async def test_a_withdraw_that_meets_the_loss_of_the_subnet_returns() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.attach(1)
        gate = node.flows.hold("commit")
        node.reconciler.post(HostSubnetSet(elsewhere(OTHER, "172.11.16.0/22")))
        await settle(node)
        withdrawn = asyncio.ensure_future(node.reconciler.withdraw(lease.key))
        await settle(node)
        node.reconciler.post(HostSubnetGone(OWN.host_ip))
        await settle(node)
        gate.set()
        await within(1, withdrawn)


@virtual_time
async def test_another_own_subnet_moves_gateway_and_flows() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        moved = HostSubnetSet(elsewhere(OWN, "172.11.20.0/22"))
        await within(1, node.reconciler.submit(moved))
        assert node.as_wanted(moved)
        assert node.host.gateway is not None
        assert str(node.host.gateway.address) == "172.11.20.1"
        assert str(node.reconciler.node().gateway) == "172.11.20.1"


@virtual_time
async def test_a_retry_that_is_due_while_the_subnet_is_missing_makes_no_hot_loop() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.flows.fail_next("commit", REFUSED)
        with pytest.raises(OpenFlowError):
            await node.attach(1)
        node.reconciler.post(HostSubnetGone(OWN.host_ip))
        # On this loop a hot loop would keep the clock from moving.
        await within(100, asyncio.sleep(50))
        await within(1, node.reconciler.submit(HostSubnetSet(OWN)))
        assert node.as_wanted()


# -- tenants, and the end --------------------------------------------------------------------------------------------


@virtual_time
async def test_wait_tenant_wakes_on_the_event_even_before_the_switch_is_there() -> None:
    node = FakeNode()
    node.switch.hold("ensure_bridge")
    async with running(node):
        node.reconciler.post(*RECORDS)
        await settle(node)
        await within(0.1, node.reconciler.wait_tenant("web", 0))
        waiting = asyncio.ensure_future(node.reconciler.wait_tenant("db", 1000))
        node.reconciler.post(NetNamespaceSet(NetNamespace("other", Vni(12))))
        await settle(node)
        node.reconciler.post(NetNamespaceSet(NetNamespace("db", None)))
        await settle(node)
        assert not waiting.done()
        node.reconciler.post(DB_KNOWN)
        await within(0.1, waiting)


@virtual_time
async def test_wait_tenant_times_out_with_code_11_and_names_the_namespace() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.source_trouble = "etcd is away"
        begin = asyncio.get_running_loop().time()
        with pytest.raises(
            CniError, match=r"Namespace db has no NetID yet \(etcd is away\): see that"
        ) as late:
            await node.reconciler.wait_tenant("db", begin + 30)
        assert late.value.code == 11
        assert asyncio.get_running_loop().time() == pytest.approx(begin + 30)


@virtual_time
async def test_the_end_leaves_nobody_waiting() -> None:
    node = FakeNode()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(node.reconciler.run())
        await node.know()
        lease = await node.add_port(1)
        node.flows.hold("commit")
        under_way = node.reconciler.post(AttachmentSet(lease))
        await settle(node)
        behind_it = node.reconciler.post(DB_KNOWN)
        await settle(node)
        task.cancel()
    too_late = node.reconciler.post(DB_KNOWN)
    for future in (under_way, behind_it, too_late):
        assert future.cancelled()
    node.agent()
    early: asyncio.Future[None] | None = None
    async with running(node):
        early = node.reconciler.post(*RECORDS)
        await settle(node)
    assert early.cancelled()


@virtual_time
async def test_a_caller_that_gives_up_takes_nothing_back_and_disturbs_nobody() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        leases = [await node.add_port(number) for number in (1, 2)]
        gate = node.flows.hold("commit")
        impatient, patient = (asyncio.ensure_future(node.reconciler.install(lease)) for lease in leases)
        await settle(node)
        impatient.cancel()
        gate.set()
        await within(1, patient)
        assert node.as_wanted()


@virtual_time
async def test_what_the_reconciler_is_told_twice_or_late_does_no_harm() -> None:
    events: list[Event] = [*RECORDS, *SYNCED, *RECORDS, *reversed(RECORDS)]
    node = FakeNode()
    plant = Plant(node.switch, node.flows, node.host)
    node.reconciler = Reconciler("node1", plant, ReconcileOptions())
    async with running(node):
        await node.reconciler.submit(*events)
        assert node.as_wanted()
