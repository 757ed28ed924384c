"""Desired flows, kept event by event, against those computed from scratch; and the modifications against both."""

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import booleans

from fakes.events import HOST, busy_node, events
from fakes.services import service_events
from k8s_ovs.flows.diff import Item, ItemIdentity, Mod, Op, difference
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import Event
from k8s_ovs.model.records import ViewKey
from k8s_ovs.model.view import NodeView


class Reconciling(RuleBasedStateMachine):
    """A view, what is desired, and a bridge that gets nothing but the modifications."""

    def __init__(self) -> None:
        super().__init__()
        self.view = NodeView(HOST)
        self.desired = DesiredFlows()
        self.bridge: dict[ItemIdentity, Item] = {}
        self.dirty: set[ViewKey] = set()
        self.commit()

    @initialize(busy=booleans())
    def start(self, busy: bool) -> None:
        for event in busy_node() if busy else ():
            self.dirty |= self.view.apply(event)
        self.commit()

    @rule(event=events() | service_events())
    def told(self, event: Event) -> None:
        """Several events may come before a commit."""
        self.dirty |= self.view.apply(event)

    @rule(event=events() | service_events())
    def told_and_committed(self, event: Event) -> None:
        self.dirty |= self.view.apply(event)
        self.commit()

    @rule()
    def commit(self) -> None:
        self.take(self.desired.update(self.view, self.dirty))

    @rule()
    def nobody_noted_what_changed(self) -> None:
        self.take(self.desired.update(self.view))

    def take(self, mods: list[Mod]) -> None:
        self.dirty.clear()
        assert len({mod.item.identity for mod in mods}) == len(mods)
        for mod in mods:
            if isinstance(mod.item, Flow) and mod.item.idle:
                assert mod.op is Op.ADD  # the switch takes it away by itself
            elif mod.op is Op.ADD:
                assert self.bridge.get(mod.item.identity) != mod.item
                self.bridge[mod.item.identity] = mod.item
            else:
                assert self.bridge.pop(mod.item.identity) == mod.item

    @rule()
    def everything_again_changes_nothing(self) -> None:
        self.commit()
        assert self.desired.update(self.view) == []
        assert self.desired.update(self.view, self.view.keys()) == []

    @invariant()
    def as_from_scratch(self) -> None:
        if self.dirty:
            return
        fresh = NodeView(HOST)
        for event in self.view.state.events():
            fresh.apply(event)
        scratch = DesiredFlows()
        scratch.adopt(self.desired.groups())
        scratch.update(fresh)
        expected = {item.identity: item for item in scratch.all()}
        assert {item.identity: item for item in self.desired.all()} == expected
        assert self.bridge == expected
        assert difference(self.bridge.values(), scratch.all()) == []


TestReconciling = Reconciling.TestCase
TestReconciling.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
