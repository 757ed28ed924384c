"""The reconciler on a real switch while a tenant changes: what it reports is what the switch does."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from fakes.dataplane import FakeHostNetwork
from fakes.dataplane import running as connected
from fakes.node import HOST_IP, NAME, OTHER_IP, RECORDS, SYNCED, pod
from fakes.private_ovs import PrivateOvs, private_ovs, run
from fakes.watching import until
from k8s_ovs.agent.reconcile import Plant, ReconcileOptions, Reconciler, Surroundings
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.model.events import TenantSet
from k8s_ovs.model.types import AgentReport, Attachment, Tenant, TenantChange, TenantStep, Vni

pytestmark = [pytest.mark.root, pytest.mark.ovs]

OLD, NEW = Vni(10), Vni(0xBEEF)


@dataclass
class Node:
    """A reconciler on a private switch; `reports` are what it has told."""

    ovs: PrivateOvs
    switch: OvsdbSwitch
    reconciler: Reconciler
    reports: list[AgentReport] = field(default_factory=list)

    async def attach(self, number: int) -> Attachment:
        """A pod with port, lease and confirmed flows; its veth is in the switch's namespace."""
        wanted = replace(pod(number), host_ifname=f"veth{number}")
        names = (wanted.host_ifname, f"peer{number}")
        await asyncio.to_thread(
            run, "ip", "-n", self.ovs.netns, "link", "add", names[0], "type", "veth", "peer", "name", names[1]
        )
        lease = await self.switch.add_port(wanted)
        await self.reconciler.install(lease)
        return lease

    async def reported(self, applied: dict[str, str]) -> None:
        await until(
            lambda: bool(self.reports) and self.reports[-1].applied == applied, f"report of {applied}", 20
        )

    def sends_with(self, vni: Vni) -> int:
        """How many pods' packets the switch gives this VNI."""
        flows = self.ovs.ofctl("--no-names", "dump-flows", self.ovs.mgmt(), "table=20").splitlines()
        return sum(f"{vni:#x}/0xffffff->reg0" in line for line in flows)


@pytest.fixture
def ovs() -> Iterator[PrivateOvs]:
    with private_ovs() as switch:
        yield switch


@asynccontextmanager
async def node_on(ovs: PrivateOvs) -> AsyncIterator[Node]:
    async with connected(OvsdbSwitch(ovs.rundir)) as switch:
        plant = Plant(switch, OfctlFlowTable(ovs.mgmt()), FakeHostNetwork({HOST_IP: 1500, OTHER_IP: 1500}))
        reports: list[AgentReport] = []
        options = ReconcileOptions(BridgeSpec(datapath="netdev"))
        node = Node(
            ovs, switch, Reconciler(NAME, plant, options, Surroundings(report=reports.append)), reports
        )
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(node.reconciler.run(), name="reconciler")
            try:
                await node.reconciler.submit(*RECORDS, *SYNCED)
                yield node
            finally:
                task.cancel()


def at(step: TenantStep) -> TenantSet:
    return TenantSet(Tenant("web", OLD, TenantChange("0123abcd", step, OLD, NEW)))


async def test_each_step_is_reported_when_the_switch_has_it_and_pods_come_meanwhile(ovs: PrivateOvs) -> None:
    async with node_on(ovs) as node:
        for number in range(5):
            await node.attach(number)
        clock = asyncio.get_running_loop().time
        for number, step in enumerate(TenantStep, 5):
            began = clock()
            done = node.reconciler.post(at(step))
            await node.attach(number)
            await node.reported({"web": f"0123abcd/{step}"})
            assert done.done()
            assert clock() - began < 5
            new, old = node.sends_with(NEW), node.sends_with(OLD)
            assert (old, new) == ((number + 1, 0) if step is TenantStep.ACCEPT else (0, number + 1))
        await node.reconciler.submit(TenantSet(Tenant("web", NEW)))
        await node.reported({})
        assert node.sends_with(NEW) == 8


async def test_a_restarted_switch_is_reported_once_it_has_its_flows_again(ovs: PrivateOvs) -> None:
    async with node_on(ovs) as node:
        await node.attach(1)
        await node.reconciler.submit(at(TenantStep.SEND))
        await node.reported({"web": "0123abcd/send"})
        told = len(node.reports)
        await asyncio.to_thread(ovs.kill_vswitchd)
        await node.reported({})
        await asyncio.to_thread(ovs.start_vswitchd)
        await node.reported({"web": "0123abcd/send"})
        assert node.sends_with(NEW) == 1
        # A switch that comes back may give more than one reason to look again; each takes the report back first.
        applied = [report.applied for report in node.reports[told:]]
        assert applied
        assert applied == [{}, {"web": "0123abcd/send"}] * (len(applied) // 2)
