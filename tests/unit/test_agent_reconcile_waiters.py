"""Who waits for the reconciler: for a tenant, for a commit, at its end. Time is virtual."""

import asyncio

import pytest

from fakes.dataplane import FakePodLinks
from fakes.node import RECORDS, SYNCED, FakeNode, running
from fakes.pods import FakeLimits, PodWorld, add_request
from fakes.virtual_time import virtual_time, within
from k8s_ovs.agent.pods import PodNetwork, PodParts
from k8s_ovs.agent.reconcile import Plant, ReconcileOptions, Reconciler
from k8s_ovs.errors import CniError, OpenFlowError
from k8s_ovs.model.events import (
    AttachmentSet,
    Event,
    TenantSet,
)
from k8s_ovs.model.types import Tenant, Vni

REFUSED = OpenFlowError("bundle of 3 changes: OFPFMFC_TABLE_FULL")
DB = Tenant("db", Vni(11))
DB_KNOWN = TenantSet(DB)


async def settle(node: FakeNode) -> None:
    """Let a second pass: whatever was going to happen by itself without a timer has happened."""
    await asyncio.sleep(1)


@virtual_time
async def test_wait_tenant_wakes_on_the_event_even_before_the_switch_is_there() -> None:
    node = FakeNode()
    node.switch.hold("ensure_bridge")
    async with running(node):
        node.reconciler.post(*RECORDS)
        await settle(node)
        await within(0.1, node.reconciler.wait_tenant("web", 0))
        waiting = asyncio.ensure_future(node.reconciler.wait_tenant("db", 1000))
        node.reconciler.post(TenantSet(Tenant("other", Vni(12))))
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


@virtual_time
async def test_an_add_that_is_undone_leaves_no_flows_although_a_comparison_saw_its_row() -> None:
    node, links = FakeNode(), FakePodLinks(["/netns/a"])
    async with running(node):
        await node.know()
        limits = FakeLimits(PodWorld())
        parts = PodParts(node.switch, links, node.reconciler, limits, links.namespaces.__contains__)
        pods = PodNetwork(parts)
        gates = [node.switch.hold(method) for method in ("add_port", "remove_port")]
        adding = asyncio.ensure_future(pods.add(add_request("a")))
        await settle(node)
        adding.cancel()
        gates[0].set()
        await settle(node)
        [lease] = node.switch.attachments()
        node.switch.disturb()
        await settle(node)
        gates[1].set()
        await settle(node)
        assert adding.cancelled()
        assert not node.switch.attachments()
        assert not node.mentions(lease)
