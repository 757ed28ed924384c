"""Any sequence of events, failures and restarts: in the end the bridge holds what a computation from scratch gives."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fakes.events import HOST_IPS, NAMESPACES, events
from fakes.node import NAME, OWN, RECORDS, SYNCED, FakeNode, flows_of, pod
from fakes.virtual_time import VirtualLoop
from k8s_ovs.errors import DataplaneError, LinkError, OpenFlowError, OvsdbError
from k8s_ovs.model.events import (
    AttachmentGone,
    AttachmentSet,
    ConfigSet,
    Event,
    HostSubnetGone,
    HostSubnetSet,
    Synced,
    TenantGone,
    TenantSet,
)
from k8s_ovs.model.types import Attachment, AttachmentKey

T = TypeVar("T")

FAULTS: tuple[tuple[str, str, DataplaneError], ...] = (
    ("flows", "commit", OpenFlowError("the bundle is refused")),
    ("flows", "replace", OpenFlowError("no answer from br0.mgmt")),
    ("switch", "ensure_bridge", OvsdbError("the disk is full")),
    ("host", "ensure_gateway", LinkError("tun0 does not exist")),
    ("host", "underlay_mtu", LinkError("no interface has the address")),
)
pods = st.integers(0, 5)
records = events().filter(lambda event: not isinstance(event, (AttachmentSet, AttachmentGone, Synced)))


def lease(number: int) -> Attachment:
    return replace(pod(number), namespace=NAMESPACES[number % 3])


def subject(event: Event) -> object:
    """What the event is about: the last word on it counts."""
    match event:
        case ConfigSet():
            return "config"
        case HostSubnetSet(record):
            return record.host_ip
        case HostSubnetGone(host_ip):
            return host_ip
        case TenantSet(namespace):
            return namespace.name
        case TenantGone(name):
            return name
    raise AssertionError(event)


class Node(RuleBasedStateMachine):
    """`told` is the last word on each record; `withdrawn` the pods whose DEL has not got to the port yet."""

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.told: dict[object, Event] = {subject(event): event for event in RECORDS}
        self.withdrawn: set[AttachmentKey] = set()
        self.node = FakeNode()
        self.node.host.mtus = dict.fromkeys(HOST_IPS, 1500)
        self.run(self.start_agent())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def start_agent(self) -> None:
        self.node.agent()
        self.agent = asyncio.ensure_future(self.node.reconciler.run())
        self.node.reconciler.post(*self.told.values(), *SYNCED)
        await asyncio.sleep(0)

    async def stop_agent(self) -> None:
        assert not self.agent.done(), self.agent
        self.agent.cancel()
        await asyncio.wait({self.agent})
        assert self.agent.cancelled()

    @rule(batch=st.lists(records, min_size=1, max_size=4))
    def records_change(self, batch: list[Event]) -> None:
        self.run(self.tell(*batch))

    async def tell(self, *batch: Event) -> None:
        for event in batch:
            self.told[subject(event)] = event
        self.node.reconciler.post(*batch)

    @rule(seconds=st.sampled_from([0, 0.01, 0.3, 5, 61]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(fault=st.sampled_from(FAULTS), times=st.integers(1, 4))
    def will_fail(self, fault: tuple[str, str, DataplaneError], times: int) -> None:
        part, method, error = fault
        getattr(self.node, part).fail_next(method, error, times)

    @rule(number=pods)
    def attach(self, number: int) -> None:
        async def add() -> None:
            if self.node.switch.spec is not None:
                row = await self.node.switch.add_port(lease(number))
                self.withdrawn.discard(row.key)
                asyncio.ensure_future(self.install(row))  # noqa: RUF006 - the runner ends it
                await asyncio.sleep(0)

        self.run(add())

    async def install(self, row: Attachment) -> None:
        try:
            await self.node.reconciler.install(row)
        except (DataplaneError, asyncio.CancelledError):
            return

    @rule(number=pods)
    def withdraw(self, number: int) -> None:
        """A DEL that has only begun."""
        self.run(self.begin_delete(lease(number).key))

    async def begin_delete(self, key: AttachmentKey) -> None:
        self.withdrawn.add(key)
        await asyncio.wait_for(self.node.reconciler.withdraw(key), 1)

    @rule(number=pods)
    def detach(self, number: int) -> None:
        async def delete() -> None:
            await self.begin_delete(lease(number).key)
            await self.node.switch.remove_port(lease(number).key)

        self.run(delete())

    @rule(number=pods)
    def lose_port(self, number: int) -> None:
        self.node.switch.rows.pop(lease(number).key, None)
        self.node.switch.disturb()

    @rule()
    def restart_switch(self) -> None:
        self.node.flows.clear()
        self.node.switch.restart_vswitchd()

    @rule()
    def drift(self) -> None:
        """Somebody deletes flows behind our back; nothing tells of it."""
        self.node.flows.clear()

    @rule()
    def restart_agent(self) -> None:
        """What had only been withdrawn comes back with its row, until the runtime repeats DEL."""
        self.run(self.stop_agent())
        self.withdrawn.clear()
        self.run(self.start_agent())

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        for part in (self.node.flows, self.node.switch, self.node.host):
            part.heal()
        self.run(asyncio.sleep(100))
        if self.node.reconciler.view.local is None:
            assert "no host subnet for node1" in self.node.reconciler.trouble()
            self.run(self.tell(HostSubnetSet(OWN)))
            self.run(asyncio.sleep(1))
        assert self.node.reconciler.trouble() == ""
        assert self.node.flows.content() == self.wanted()
        self.run(self.stop_agent())
        self.runner.close()

    def wanted(self) -> dict[tuple[int, str], tuple[int, str]]:
        rows = [row for key, row in self.node.switch.rows.items() if key not in self.withdrawn]
        return flows_of(NAME, [*self.told.values(), *map(AttachmentSet, rows)])


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
