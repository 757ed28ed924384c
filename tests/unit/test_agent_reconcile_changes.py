"""The reconciler when pods, the switch, the host or this node's own subnet change, and at its end. Time is virtual."""

import asyncio
from dataclasses import replace

import pytest

from fakes.node import OTHER, OWN, RECORDS, SYNCED, WEB, FakeNode, elsewhere, pod, running
from fakes.virtual_time import virtual_time, within
from k8s_ovs.errors import CniError, DataplaneError, OpenFlowError
from k8s_ovs.model.events import (
    HostSubnetGone,
    HostSubnetSet,
    TenantGone,
    TenantSet,
)
from k8s_ovs.model.types import Tenant, Vni

REFUSED = OpenFlowError("bundle of 3 changes: OFPFMFC_TABLE_FULL")
DB = Tenant("db", Vni(11))
DB_KNOWN = TenantSet(DB)


async def settle(node: FakeNode) -> None:
    """Let a second pass: whatever was going to happen by itself without a timer has happened."""
    await asyncio.sleep(1)


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
        await node.know(TenantGone("web"))
        lease = await node.add_port(1)
        with pytest.raises(CniError, match="pod web/pod-1 can have no flows: Namespace web has no NetID"):
            await node.reconciler.install(lease)
        assert not node.mentions(lease)
        await node.reconciler.submit(TenantSet(WEB))
        assert node.mentions(lease)


@virtual_time
async def test_a_pod_whose_port_number_another_has_is_not_told_that_it_has_a_network() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        first = await node.attach(1)
        second = replace(await node.add_port(2), ofport=first.ofport)
        node.switch.rows[second.key] = second
        with pytest.raises(CniError, match="port number 3 is also that of"):
            await node.reconciler.install(second)


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
async def test_nobody_is_told_success_if_that_synchronisation_fails() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        lease = await node.add_port(1)
        node.flows.fail_next("replace", REFUSED)
        node.switch.disturb()
        with pytest.raises(OpenFlowError):
            await within(1, node.reconciler.install(lease))


@virtual_time
async def test_nobody_is_told_success_if_the_subnet_comes_back_and_the_synchronisation_fails() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        node.reconciler.post(HostSubnetGone(OWN.host_ip))
        await settle(node)
        node.flows.fail_next("replace", REFUSED)
        with pytest.raises(OpenFlowError):
            await within(1, node.reconciler.submit(HostSubnetSet(OWN)))


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


@virtual_time
async def test_records_that_cannot_be_used_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with running(FakeNode()) as node:
        await node.know(HostSubnetSet(elsewhere(OTHER, "172.11.4.0/22")))
        for _ in range(3):
            node.reconciler.request_sync("test")
            await node.reconciler.submit()
        told = [record.message for record in caplog.records if "overlaps" in record.message]
        assert len(told) == 1
        assert "172.11.4.0/22 of this node" in told[0]
