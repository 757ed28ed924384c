"""An external host: flows while it has a subnet, none while it has not; no pods, no CNI."""

import asyncio
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from fakes.dataplane import FakeFirewall, FakeFlowTable, FakeHostNetwork, FakePodLinks, FakeSwitch
from fakes.node import CONFIG, HOST_IP, NAME, OTHER, OWN, RECORDS, SYNCED, FakeNode, flows_of, running
from fakes.store import FakeStore
from fakes.watching import until
from k8s_ovs.agent.app import Agent, AgentServices
from k8s_ovs.agent.parts import AgentParts
from k8s_ovs.agent.reconcile import ReconcileOptions
from k8s_ovs.agent.settings import AgentSettings, CniSettings
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import HostSubnetGone, HostSubnetSet
from k8s_ovs.model.view import NodeView
from k8s_ovs.runtime.http import HealthChecks

EXTERNAL = ReconcileOptions(external=True)
RECORD = replace(OWN, assign=True)
UNREGISTERED = tuple(event for event in RECORDS if event != HostSubnetSet(OWN))


def with_old_flows(node: FakeNode) -> FakeNode:
    """The bridge still holds what a former life of the agent has left."""
    view, desired = NodeView(OWN.host), DesiredFlows()
    for event in RECORDS:
        view.apply(event)
    desired.update(view)
    node.flows.load(desired.all())
    assert node.flows.content()
    return node


async def test_it_waits_for_its_subnet_without_flows_and_says_so() -> None:
    async with running(with_old_flows(FakeNode(EXTERNAL))) as node:
        node.reconciler.post(*UNREGISTERED, *SYNCED)
        await until(lambda: not node.flows.content(), "the flows are removed")
        assert node.reconciler.trouble() == (
            "no host subnet for the external host node1: waiting until somebody registers it "
            "(k8s-ovs subnet assign node1 IP) and a controller gives it one"
        )
        await node.reconciler.submit(HostSubnetSet(RECORD))
        assert node.flows.content() == flows_of(OWN.host, RECORDS)
        assert node.reconciler.trouble() == ""


async def test_released_it_removes_its_flows_and_waits() -> None:
    async with running(FakeNode(EXTERNAL)) as node:
        await node.reconciler.submit(*UNREGISTERED, HostSubnetSet(RECORD), *SYNCED)
        assert node.as_wanted()
        node.reconciler.post(HostSubnetGone(HOST_IP))
        await until(lambda: not node.flows.content(), "the flows are removed")
        assert "subnet assign" in node.reconciler.trouble()
        node.reconciler.post(HostSubnetGone(OTHER.host_ip))
        await node.reconciler.submit(HostSubnetSet(RECORD), HostSubnetSet(OTHER))
        assert node.as_wanted()
        assert node.reconciler.trouble() == ""


async def test_a_switch_that_refuses_is_asked_again() -> None:
    async with running(with_old_flows(FakeNode(EXTERNAL))) as node:
        node.flows.fail_next("replace", OpenFlowError("the bridge does not answer"))
        node.reconciler.post(*UNREGISTERED, *SYNCED)
        await until(lambda: "does not answer" in node.reconciler.trouble(), "it says why")
        node.reconciler.post(HostSubnetSet(OTHER))
        await until(lambda: not node.flows.content(), "the flows are removed")
        assert "does not answer" not in node.reconciler.trouble()


async def test_a_node_keeps_its_flows_when_its_record_is_lost() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        before = node.flows.content()
        done = node.reconciler.post(HostSubnetGone(HOST_IP))
        await until(done.done, "it has been heard")
        assert node.flows.content() == before


async def test_the_agent_of_an_external_host_serves_no_pods(tmp_path: Path) -> None:
    store, switch, health, announced = FakeStore(CONFIG), FakeSwitch(), HealthChecks(), asyncio.Event()
    settings = AgentSettings(
        hostname=NAME, external=True, cni=CniSettings(tmp_path / "run" / "cni.sock", tmp_path / "net.d")
    )
    parts = AgentParts(
        switch=switch,
        flows=FakeFlowTable(),
        host=FakeHostNetwork({HOST_IP: 1500}),
        links=FakePodLinks(),
        firewall=FakeFirewall(),
        own_pods=None,
    )
    agent = Agent(settings, AgentServices(store, None, health, CollectorRegistry(), announced.set), parts)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(agent.run(), name="agent")
        await until(lambda: "subnet assign node1" in health.readiness()["bridge"], "it waits", 10)
        assert not announced.is_set()
        store.put(RECORD, OTHER)
        await asyncio.wait_for(announced.wait(), 10)
        assert health.ready
        store.delete_raw(store.keys.subnet(HOST_IP))
        await until(lambda: "subnet assign node1" in health.readiness()["bridge"], "it waits again", 10)
        task.cancel()
    assert list(tmp_path.iterdir()) == []
