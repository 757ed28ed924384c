"""Any requests, any schedule: two controllers killed at any await, agents that report late or never.

Whatever happens on the way, every state of the store is right, and with fair scheduling every request is answered in
the end.
"""

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.rounds import SMALL, Bench, SteppedCluster, SteppedStore, finish
from k8s_ovs.controller.changes import ABSENT_SECONDS, STUCK_SECONDS
from k8s_ovs.controller.cluster import Facts
from k8s_ovs.controller.requests import used
from k8s_ovs.controller.rounds import Outcome
from k8s_ovs.model.types import GLOBAL_VNI, AgentReport, NetNamespace, Tenant, TenantStep, Vni
from k8s_ovs.sources.records import error_of
from k8s_ovs.sources.store import Snapshot

NODES = {"node1": "192.0.2.1", "node2": "192.0.2.2"}
NAMES = ("blue", "green", "kube-system", "red")
ORDER = (TenantStep.ACCEPT, TenantStep.SEND, TenantStep.CLOSE)
FAIR_ROUNDS = 60


@dataclass
class Agent:
    """A node's agent: it applies the ledger some time after it has changed, and reports that later still."""

    name: str
    alive: bool = False
    since: float = 0.0
    applied: dict[str, str] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    """Every token that it has ever reported."""


class World:
    """Two controllers, two agents, people; and the judge of every state that they bring about."""

    def __init__(self, mute: set[str]) -> None:
        self.bench = Bench(store=SteppedStore(SMALL), cluster=SteppedCluster())
        self.bench.nodes(**NODES)
        self.bench.namespaces(*NAMES)
        self.bench.settle(self.bench.controller())
        self.mute = mute
        self.agents = {name: Agent(name) for name in NODES}
        self.facts = [Facts(dict(self.bench.facts.nodes), set(NAMES)) for _ in range(2)]
        self.controllers = [self.bench.controller(facts) for facts in self.facts]
        self.running: list[Coroutine[Any, Any, Outcome]] = [c.once() for c in self.controllers]
        self.judge = Judge(self)

    # what happens

    def go(self, who: int, turns: int) -> None:
        for _ in range(turns):
            try:
                self.running[who].send(None)
            except StopIteration:
                self.running[who] = self.controllers[who].once()
            self.judge.look()

    def kill(self, who: int) -> None:
        self.running[who].close()
        self.controllers[who] = self.bench.controller(self.facts[who])
        self.running[who] = self.controllers[who].once()

    def hear(self, who: int) -> None:
        self.facts[who].namespaces = set(self.bench.facts.namespaces)
        self.controllers[who].forget_doubts()

    def create_or_delete(self, name: str) -> None:
        if name in self.bench.facts.namespaces:
            self.bench.facts.namespaces.discard(name)
            self.bench.cluster.remove_namespaces(name)
        else:
            self.bench.namespaces(name)

    def ask(self, name: str, action: str, other: str, number: int | None) -> None:
        """`number` -1 stands for the NetID that the record has."""
        known = self.bench.records().net_namespaces.get(name)
        net_id = (known.net_id if known else None) if number == -1 else number
        self.bench.store.put(NetNamespace(name, None if net_id is None else Vni(net_id), action, other))
        self.judge.look()

    def delete_record(self, name: str) -> None:
        self.bench.store.delete_raw(self.bench.store.keys.namespace(name))
        self.judge.look()

    def report(self, name: str) -> None:
        """Report what was applied before, then apply what the ledger says now."""
        agent = self.agents[name]
        if name in self.mute:
            return
        if not agent.alive:
            agent.alive, agent.since, agent.applied = True, self.bench.now, {}
        host_ip = self.bench.facts.nodes[name].addresses[0]
        self.bench.store.report(AgentReport(name, host_ip, dict(agent.applied)))
        agent.said |= set(agent.applied.values())
        tenants = self.bench.records().tenants.values()
        agent.applied = {t.name: t.change.token for t in tenants if t.change is not None}

    def die(self, name: str) -> None:
        self.agents[name].alive = False
        host_ip = self.bench.facts.nodes[name].addresses[0]
        self.bench.store.delete_raw(self.bench.store.keys.report(host_ip))

    def wait(self, seconds: float) -> None:
        """Time passes between rounds: one of them is short, compared with what a node is waited for."""
        for who, coroutine in enumerate(self.running):
            while self.running[who] is coroutine:
                self.go(who, 1)
        self.bench.now += seconds

    # the end

    def play(self, moves: Sequence[tuple[Any, ...]]) -> None:
        for name, *arguments in moves:
            getattr(self, name)(*arguments)

    def close(self) -> None:
        for coroutine in self.running:
            coroutine.close()

    def end_fairly(self) -> Snapshot:
        """Everybody gets a turn, again and again, until nothing is left to do."""
        self.close()
        for who in (0, 1):
            self.hear(who)
        for _ in range(FAIR_ROUNDS):
            outcomes = set()
            for controller in self.controllers:
                outcomes.add(finish(controller.once()))
                self.judge.look()
            for name in NODES:
                self.report(name)
            now = self.bench.records()
            changing = any(tenant.change is not None for tenant in now.tenants.values())
            if outcomes == {Outcome.SETTLED} and not changing:
                return now
            self.bench.now += STUCK_SECONDS / 4
        raise AssertionError(f"never settles: {self.bench.records()}")


class Judge:
    """Compares each state of the ledger with the one before it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._before = world.bench.records()
        self._commits = len(world.bench.store.commits)
        self._steps: dict[str, list[float]] = {}
        """When each step of each change began."""
        self._together: dict[str, tuple[Vni, set[str]]] = {}
        """What each Namespace that a controller believes in had last, and with whom."""

    def look(self) -> None:
        """At every turn at most one commit was made."""
        before, now = self._before, self._world.bench.records()
        self._before = now
        for commit in self._world.bench.store.commits[self._commits :]:
            self._refusals_wrote_nothing_else(before, commit.put_namespaces, commit.put_tenants)
        self._commits = len(self._world.bench.store.commits)
        for name in now.tenants:
            was, is_ = before.tenants.get(name), now.tenants[name]
            if was != is_:
                self._moved(was, is_, before, now)
        believed = {name for facts in self._world.facts for name in facts.namespaces}
        self._together = {name: had for name, had in self._together.items() if name in believed} | {
            tenant.name: (tenant.vni, holders(tenant, now)) for tenant in now.tenants.values()
        }

    def _refusals_wrote_nothing_else(
        self, before: Snapshot, records: Sequence[NetNamespace], tenants: Sequence[Tenant]
    ) -> None:
        written = {tenant.name for tenant in tenants}
        for record in records:
            if error_of(record) and record.name in before.tenants:
                assert record.name not in written

    def _moved(self, was: Tenant | None, is_: Tenant, before: Snapshot, now: Snapshot) -> None:
        elsewhere = {
            vni
            for state in (before, now)
            for t in state.tenants.values()
            if t.name != is_.name
            for vni in used(t)
        }
        if was is None:
            self._came(is_, before, now)
        elif was.change is not None:
            self._stepped(was, is_)
            return
        else:
            assert is_.change is not None, "a VNI changes in steps only"
        if is_.change is None:
            return
        change = is_.change
        assert (change.step, change.old) == (TenantStep.ACCEPT, is_.vni if was is None else was.vni)
        self._steps[change.id] = [self._world.bench.now]
        match change.action:
            case "join":
                assert change.new == now.tenants[change.other].vni
                assert change.other != is_.name
            case "isolate":
                assert change.new not in elsewhere | {GLOBAL_VNI}
            case _:
                assert (change.action, change.new) == ("global", GLOBAL_VNI)

    def _came(self, is_: Tenant, before: Snapshot, now: Snapshot) -> None:
        """A new VNI is nobody's, unless the store had lost it: then it may have what it had, with those it had it with."""
        vni, company = self._together.get(is_.name, (None, set()))
        given_back = vni == is_.vni and holders(is_, before, now) <= company
        joined = any(t.change and t.change.other == is_.name for t in now.tenants.values())
        if not given_back and is_.vni != GLOBAL_VNI:
            assert joined or not holders(is_, now), f"{is_.name} is with {holders(is_, now)}"
            assert not holders(is_, before), f"{is_.name} is with {holders(is_, before)}"

    def _stepped(self, was: Tenant, is_: Tenant) -> None:
        assert was.change is not None
        change = was.change
        self._all_applied(was)
        if change.step is TenantStep.CLOSE:
            assert is_ == Tenant(was.name, change.new)
            return
        assert is_.change is not None
        assert (is_.vni, is_.change.id, is_.change.old, is_.change.new) == (
            was.vni,
            change.id,
            change.old,
            change.new,
        )
        assert (change.step, is_.change.step) in pairwise(ORDER)
        self._steps[change.id].append(self._world.bench.now)

    def _all_applied(self, was: Tenant) -> None:
        """All nodes have reported the step, or were waited for long enough once in this change."""
        assert was.change is not None
        steps = [*self._steps[was.change.id], self._world.bench.now]
        late, stuck = steps[0] + ABSENT_SECONDS, any(b - a >= STUCK_SECONDS for a, b in pairwise(steps))
        for agent in self._world.agents.values():
            if was.change.token not in agent.said:
                absent = not agent.alive or agent.since >= late
                assert stuck or (absent and steps[-1] >= late), f"{was} went on without {agent}"


def holders(tenant: Tenant, *states: Snapshot) -> set[str]:
    """Who else has the tenant's VNI, or is on the way to it or from it."""
    others = {other for state in states for other in state.tenants.values() if other.name != tenant.name}
    return {other.name for other in others if tenant.vni in used(other)}


whos, names, nodes = st.sampled_from([0, 1]), st.sampled_from(NAMES), st.sampled_from(sorted(NODES))
turns = st.tuples(st.just("go"), whos, st.integers(1, 12))
requests = st.tuples(
    st.just("ask"),
    names,
    st.sampled_from(["join", "join", "isolate", "global", ""]),
    st.sampled_from([*NAMES, "nowhere"]),
    st.sampled_from([-1, -1, None, None, 0, 10, 11, 4711]),
)
moves = st.lists(
    st.one_of(
        turns,
        turns,
        turns,
        turns,
        requests,
        st.tuples(st.just("report"), nodes),
        st.tuples(st.just("report"), nodes),
        st.tuples(st.just("kill"), whos),
        st.tuples(st.just("hear"), whos),
        st.tuples(st.just("create_or_delete"), names),
        st.tuples(st.just("delete_record"), names),
        st.tuples(st.just("die"), nodes),
        st.tuples(st.just("wait"), st.sampled_from([1.0, ABSENT_SECONDS, STUCK_SECONDS])),
    ),
    min_size=30,
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(st.sets(nodes, max_size=1), moves)
def test_every_request_is_answered_and_every_state_on_the_way_is_right(
    mute: set[str], played: list[tuple[Any, ...]]
) -> None:
    world = World(mute)
    world.play(played)
    end = world.end_fairly()
    living = world.bench.facts.namespaces
    assert end.tenants.keys() == end.net_namespaces.keys() == living
    for name in living:
        record, tenant = end.net_namespaces[name], end.tenants[name]
        assert (record.action, record.other, tenant.change) == ("", "", None)
        assert record.net_id == tenant.vni


def test_the_world_of_the_property_does_change_tenants() -> None:
    """Else the property would say nothing."""
    world = World(set())
    for node in NODES:
        world.report(node)
    world.ask("red", "join", "blue", None)
    seen = []
    while world.bench.records().net_namespaces["red"].action:
        world.go(0, 12)
        for node in NODES:
            world.report(node)
        change = world.bench.records().tenants["red"].change
        seen.append(change and change.step)
    assert tuple(dict.fromkeys(seen)) == (*ORDER, None)
    tenants = world.bench.tenants()
    assert tenants["red"] == tenants["blue"]
    world.close()


def test_a_controller_that_has_not_seen_a_deletion_begins_nothing() -> None:
    """A join that was refused meanwhile, and whose record is gone, with a Namespace that is gone: the judge sees none."""
    world = World(set())
    world.play(
        [
            ("go", 0, 1),
            ("go", 0, 2),
            ("ask", "kube-system", "join", "red", -1),
            ("go", 1, 3),
            *[("report", "node1")] * 9,
            ("create_or_delete", "red"),
            ("hear", 0),
            ("go", 0, 6),
            ("delete_record", "kube-system"),
            *[("go", 0, 1)] * 4,
            ("go", 1, 1),
            *[("go", 0, 1)] * 6,
            *[("report", "node1")] * 2,
        ]
    )
    assert world.end_fairly().tenants["kube-system"] == Tenant("kube-system", GLOBAL_VNI)


def test_what_a_controller_remembers_of_a_namespace_is_not_given_to_it_once_somebody_else_has_it() -> None:
    """A controller that has not heard that blue is gone, while another one has given blue's VNI to green."""
    world = World(set())
    had = world.bench.tenants()["blue"]
    world.play(
        [
            ("go", 1, 12),
            *[("create_or_delete", name) for name in ("blue", "green", "red")],
            ("hear", 0),
            ("go", 0, 12),
            ("kill", 0),
            ("create_or_delete", "green"),
            ("hear", 0),
            ("go", 0, 12),
        ]
    )
    assert world.bench.tenants()["green"] == had
    world.go(1, 24)
    assert world.end_fairly().tenants["green"].vni == had
