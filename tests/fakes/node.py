"""A node whose reconciler runs on the dataplane in memory, for unit tests of the reconciler.

    async with running(FakeNode()) as node:
        await node.know()                       # every source has told everything
        await node.reconciler.install(node.attach(1))
        assert node.as_wanted()

Use it on a VirtualLoop (see `virtual_time`): the retries and periods are those of the real agent.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from fakes.dataplane import FakeFlowTable, FakeHostNetwork, FakeSwitch
from fakes.dataplane_examples import SUBNET, attachment
from k8s_ovs.agent.reconcile import Plant, ReconcileOptions, Reconciler, Surroundings
from k8s_ovs.agent.repairs import Repairs
from k8s_ovs.config import EXAMPLE, NetworkConfig
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import (
    AttachmentSet,
    ConfigSet,
    Event,
    HostSubnetSet,
    Source,
    Synced,
    TenantSet,
)
from k8s_ovs.model.types import AgentReport, Attachment, HostSubnet, Tenant, Vni
from k8s_ovs.model.view import NodeView

Content = dict[tuple[int, str], tuple[int, str]]
"""See FakeFlowTable.content."""

NAME = "node1"
CONFIG = NetworkConfig.from_json(EXAMPLE)
HOST_IP, OTHER_IP = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
OWN = HostSubnet(NAME, HOST_IP, SUBNET)
OTHER = HostSubnet("node2", OTHER_IP, IPv4Network("172.11.8.0/22"))
WEB = Tenant("web", Vni(10))

RECORDS: tuple[Event, ...] = (
    ConfigSet(CONFIG),
    HostSubnetSet(OWN),
    HostSubnetSet(OTHER),
    TenantSet(WEB),
)
SYNCED = tuple(Synced(source) for source in Source if source is not Source.ATTACHMENTS)
"""What the agent knows of attachments it reads by itself."""


def flows_of(host: str, events: Iterable[Event]) -> Content:
    """The flows of a host that has been told this, computed from scratch."""
    view = NodeView(host)
    for event in events:
        view.apply(event)
    desired, table = DesiredFlows(), FakeFlowTable()
    desired.update(view)
    table.load(desired.all())
    return table.content()


def pod(number: int) -> Attachment:
    """The lease of the pod with this number, as it is before the switch has it."""
    return attachment(number)


class FakeNode:
    """A node with its switch, kernel and reconciler. `restart_agent` makes a new reconciler on the same switch."""

    def __init__(self, options: ReconcileOptions | None = None) -> None:
        self.options = options or ReconcileOptions()
        self.switch = FakeSwitch()
        self.flows = FakeFlowTable()
        self.host = FakeHostNetwork({HOST_IP: 1500, OTHER_IP: 1500})
        self.switch.host = self.host
        self.source_trouble = ""
        self.reports: list[AgentReport] = []
        self.repairs = Repairs()
        self.reconciler = self.agent()

    def agent(self) -> Reconciler:
        """A newly started reconciler on what there is."""
        plant = Plant(self.switch, self.flows, self.host)
        self.reconciler = Reconciler(
            NAME,
            plant,
            self.options,
            Surroundings(
                source_trouble=lambda: self.source_trouble,
                report=self.reports.append,
                on_repair=self.repairs.note,
            ),
        )
        return self.reconciler

    async def know(self, *more: Event) -> None:
        """Tell what exists, and return once the bridge is synchronised."""
        await self.reconciler.submit(*RECORDS, *more, *SYNCED)

    async def add_port(self, number: int) -> Attachment:
        """The port and lease of a pod, as the agent's ADD makes them."""
        return await self.switch.add_port(pod(number))

    async def attach(self, number: int) -> Attachment:
        """A pod with port, lease and confirmed flows."""
        lease = await self.add_port(number)
        await self.reconciler.install(lease)
        return lease

    def wanted(self, *events: Event) -> Content:
        """What the bridge should hold, computed from scratch from these records and the leases in OVSDB."""
        return flows_of(NAME, [*events, *map(AttachmentSet, self.switch.rows.values())])

    def as_wanted(self, *more: Event) -> bool:
        """Whether the bridge holds what RECORDS, `more` and the leases ask for."""
        return self.flows.content() == self.wanted(*RECORDS, *more)

    def mentions(self, lease: Attachment) -> bool:
        """Whether any flow is about this pod's address."""
        return any(f"={lease.address}" in f",{match}" for _, match in self.flows.content())


@asynccontextmanager
async def running(node: FakeNode) -> AsyncIterator[FakeNode]:
    """The node's reconciler runs for the block; an error of it is raised here."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(node.reconciler.run(), name="reconciler")
        try:
            yield node
        finally:
            task.cancel()


def elsewhere(record: HostSubnet, subnet: str) -> HostSubnet:
    """The record with another subnet."""
    return replace(record, subnet=IPv4Network(subnet))
