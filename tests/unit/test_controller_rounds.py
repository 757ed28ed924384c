"""Rounds: what is written when, and that two controllers at once do no harm wherever they meet.

Tenants that change are in test_controller_schedules.
"""

from collections import defaultdict
from collections.abc import Coroutine, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.rounds import SMALL, Bench, SteppedCluster, SteppedStore, finish
from fakes.store import FakeStore
from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.cluster import Facts
from k8s_ovs.controller.plan import ProblemKind
from k8s_ovs.controller.rounds import LEFT_OUT_VNIS, Outcome, Rounds, RoundServices
from k8s_ovs.errors import ConfigError, EtcdUnavailable
from k8s_ovs.model.types import HostSubnet, NetNamespace, Vni


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_new_cluster_is_served_in_one_round_and_settled_in_the_next(bench: Bench) -> None:
    bench.nodes(node1="192.0.2.1", node2="192.0.2.2")
    bench.namespaces("default", "kube-system", "red")
    rounds = bench.controller()
    assert finish(rounds.once()) is Outcome.CHANGED
    assert finish(rounds.once()) is Outcome.SETTLED
    assert bench.subnets() == {"node1": "172.11.0.0/28", "node2": "172.11.0.16/28"}
    assert bench.vnis() == {"default": 10, "kube-system": 0, "red": 11}
    assert bench.metric("allocations_total", kind="subnet") == 2
    assert bench.metric("allocations_total", kind="vni") == 2
    assert bench.metric("free_subnets") == 14
    assert bench.metric("commits_total", result="done") == 2


def test_a_thousand_namespaces_are_written_in_a_few_transactions(bench: Bench) -> None:
    bench.namespaces(*(f"ns{n:04}" for n in range(1000)))
    assert bench.settle(bench.controller()) == 10
    assert all(len(c.put_namespaces) <= 100 for c in bench.store.commits)
    assert len(set(bench.vnis().values())) == 1000


def test_a_refused_commit_is_planned_anew(bench: Bench) -> None:
    bench.nodes(node1="192.0.2.1")
    theirs = HostSubnet("lb", IPv4Address("192.0.2.9"), IPv4Network("172.11.0.0/28"), assign=True)
    bench.store.before_commit = lambda: bench.store.put(theirs)
    rounds = bench.controller()
    assert finish(rounds.once()) is Outcome.REFUSED
    assert bench.subnets() == {"lb": "172.11.0.0/28"}
    bench.settle(rounds)
    assert bench.subnets() == {"lb": "172.11.0.0/28", "node1": "172.11.0.16/28"}
    assert bench.metric("commits_total", result="refused") == 1


def test_a_write_to_the_other_kind_of_record_refuses_nothing(bench: Bench) -> None:
    bench.nodes(node1="192.0.2.1")
    bench.namespaces("red")
    bench.store.before_commit = lambda: bench.store.put(NetNamespace("red", Vni(99)))
    rounds = bench.controller()
    assert finish(rounds.once()) is Outcome.REFUSED  # the VNI; the subnet was committed
    assert bench.subnets() == {"node1": "172.11.0.0/28"}
    bench.settle(rounds)
    assert bench.vnis() == {"red": 99}


def test_who_does_not_lead_writes_nothing(bench: Bench) -> None:
    bench.nodes(node1="192.0.2.1")
    bench.leading = False
    assert finish(bench.controller().once()) is Outcome.REFUSED
    assert bench.store.commits == []


def test_deletion_waits_for_the_word_of_the_api(bench: Bench) -> None:
    """The watch does not tell of node1 and red, but they exist: their records stay, the rest goes on."""
    bench.store.put(
        HostSubnet("node1", IPv4Address("192.0.2.1"), IPv4Network("172.11.0.0/28")),
        HostSubnet("gone", IPv4Address("192.0.2.2"), IPv4Network("172.11.0.16/28")),
        NetNamespace("red", Vni(10)),
        NetNamespace("blue", Vni(11)),
    )
    bench.cluster.hidden = {"node1", "red"}
    bench.nodes(node3="192.0.2.3")
    rounds = bench.controller()
    bench.settle(rounds)
    given = bench.subnets()["node3"]
    assert given in ("172.11.0.32/28", "172.11.0.48/28"), "the plan that was dropped may have meant the first"
    assert bench.subnets() == {"node1": "172.11.0.0/28", "node3": given}
    assert bench.vnis() == {"red": 10}
    assert [p.kind for p in rounds.problems] == [ProblemKind.NO_ADDRESS]
    bench.cluster.hidden = set()
    rounds.forget_doubts()
    bench.settle(rounds)
    assert (bench.subnets(), bench.vnis()) == ({"node3": given}, {})


def test_what_a_record_held_before_it_became_malformed_is_not_given_away(bench: Bench) -> None:
    bench.nodes(node1="192.0.2.1")
    bench.namespaces("red")
    rounds = bench.controller()
    bench.settle(rounds)
    keys = bench.store.keys
    bench.store.put_raw(keys.subnet(IPv4Address("192.0.2.1")), "{")
    bench.store.put_raw(keys.namespace("red"), "{")
    bench.nodes(node2="192.0.2.2")
    bench.namespaces("blue")
    bench.settle(rounds)
    assert (bench.subnets(), bench.vnis()) == ({"node2": "172.11.0.16/28"}, {"blue": 11})
    assert {p.subject.name for p in rounds.problems} == {
        keys.subnet(IPv4Address("192.0.2.1")),
        keys.namespace("red"),
    }
    bench.store.delete_raw(keys.subnet(IPv4Address("192.0.2.1")))
    bench.store.delete_raw(keys.namespace("red"))
    bench.settle(rounds)
    assert bench.subnets()["node1"] == "172.11.0.0/28", "its pods are in what it had"
    assert (bench.vnis()["red"], rounds.problems) == (10, ())


def test_a_record_deleted_by_hand_comes_back_as_it_was(bench: Bench) -> None:
    bench.nodes(node1="192.0.2.1", node2="192.0.2.2")
    rounds = bench.controller()
    bench.settle(rounds)
    before = bench.subnets()
    for address in ("192.0.2.1", "192.0.2.2"):
        bench.store.delete_raw(bench.store.keys.subnet(IPv4Address(address)))
        bench.settle(rounds)
        assert bench.subnets() == before
    another = bench.controller()
    bench.store.delete_raw(bench.store.keys.subnet(IPv4Address("192.0.2.1")))
    bench.settle(another)
    assert bench.subnets()["node2"] == before["node2"]
    assert bench.subnets()["node1"] is not None, "who has not seen the record gives any subnet"


def test_a_node_that_returns_gets_what_it_had_unless_somebody_else_has_it_now(bench: Bench) -> None:
    rounds = bench.controller()
    bench.nodes(node1="192.0.2.1", node2="192.0.2.2")
    bench.settle(rounds)
    before = bench.subnets()
    for taken in ("172.11.0.224/28", before["node1"]):
        bench.facts.nodes.pop("node1")
        bench.cluster.remove_nodes("node1")
        bench.settle(rounds)
        assert "node1" not in bench.subnets()
        bench.store.put(HostSubnet("outside", IPv4Address("192.0.2.99"), IPv4Network(taken), assign=True))
        bench.settle(rounds)
        bench.nodes(node1="192.0.2.7")
        bench.settle(rounds)
        assert (bench.subnets()["node1"] == before["node1"]) is (taken != before["node1"])


def test_what_was_just_freed_is_not_the_next_to_be_given(bench: Bench) -> None:
    """Packets, flows and caches of its last owner may still be on their way out."""
    rounds = bench.controller()
    given = []
    for number in range(1, 4):
        bench.nodes(**{f"node{number}": f"192.0.2.{number}"})
        bench.namespaces(f"red{number}")
        bench.settle(rounds)
        given.append((bench.subnets(), bench.vnis()))
        bench.facts.nodes.clear()
        bench.facts.namespaces.clear()
        bench.cluster.remove_nodes(f"node{number}")
        bench.cluster.remove_namespaces(f"red{number}")
        bench.settle(rounds)
        assert (bench.subnets(), bench.vnis()) == ({}, {})
    assert given == [
        ({"node1": "172.11.0.0/28"}, {"red1": 10}),
        ({"node2": "172.11.0.16/28"}, {"red2": 11}),
        ({"node3": "172.11.0.32/28"}, {"red3": 12}),
    ]


def test_a_new_leader_does_not_give_what_its_predecessor_has_just_freed(bench: Bench) -> None:
    bench.namespaces("blue", "red")
    old = bench.controller()
    bench.settle(old)
    freed = bench.tenants()["red"]
    assert freed == max(bench.tenants().values())
    bench.facts.namespaces.discard("red")
    bench.cluster.remove_namespaces("red")
    bench.settle(old)
    bench.namespaces("green")
    bench.settle(bench.controller())
    assert bench.tenants() == {"blue": 10, "green": 10 + LEFT_OUT_VNIS + 1}


def test_the_mode_may_change_under_way(bench: Bench) -> None:
    bench.namespaces("red")
    rounds = bench.controller()
    bench.settle(rounds)
    key = next(key for key in bench.store.raw() if key.endswith("/config"))
    bench.store.put_raw(key, SMALL.to_json().replace("multitenant", "subnet"))
    bench.namespaces("blue")
    bench.settle(rounds)
    assert bench.vnis() == {"red": 10}
    bench.store.put_raw(key, SMALL.to_json())
    bench.settle(rounds)
    assert bench.vnis() == {"red": 10, "blue": 11}


def test_without_a_network_config_nothing_is_done(bench: Bench) -> None:
    rounds = Rounds(RoundServices(FakeStore(), bench.cluster, bench.metrics, lambda: True), Facts())
    with pytest.raises(ConfigError, match="init-config"):
        finish(rounds.once())


def test_an_outage_comes_out_as_it_is(bench: Bench) -> None:
    bench.store.outage = EtcdUnavailable("no endpoint answers")
    with pytest.raises(EtcdUnavailable):
        finish(bench.controller().once())


# Two controllers at once


class Watchdog:
    """Sees every state of the store and says whether one of them was wrong."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._subnets: dict[str, IPv4Network] = {}
        self._vnis: dict[str, Vni] = {}
        self._seen = 0
        self.changed: list[str] = []

    def look(self) -> None:
        if self._bench.store.revision == self._seen:
            return
        self._seen = self._bench.store.revision
        now = self._bench.records()
        owners: defaultdict[IPv4Network, list[str]] = defaultdict(list)
        for record in now.host_subnets.values():
            if record.subnet is not None:
                owners[record.subnet].append(record.host)
                if self._subnets.setdefault(record.host, record.subnet) != record.subnet:
                    self.changed.append(record.host)
        tenants: defaultdict[Vni, list[str]] = defaultdict(list)
        for tenant in now.tenants.values():
            if tenant.vni:
                tenants[tenant.vni].append(tenant.name)
                if self._vnis.setdefault(tenant.name, tenant.vni) != tenant.vni:
                    self.changed.append(tenant.name)
        assert [hosts for hosts in owners.values() if len(hosts) > 1] == []
        assert [names for names in tenants.values() if len(names) > 1] == []


def run_against_each_other(
    bench: Bench, known: list[Facts], schedule: Iterable[tuple[int, bool]]
) -> Watchdog:
    """Advance one of two controllers, step by step; True kills it there and starts it again. In the end both know all."""
    watchdog = Watchdog(bench)
    services = RoundServices(bench.store, bench.cluster, bench.metrics, lambda: True)
    controllers = [Rounds(services, facts) for facts in known]
    running: list[Coroutine[Any, Any, Outcome]] = [c.once() for c in controllers]
    for who, kill in schedule:
        if kill:
            running[who].close()
            controllers[who] = Rounds(services, known[who])
            running[who] = controllers[who].once()
            continue
        try:
            running[who].send(None)
        except StopIteration:
            running[who] = controllers[who].once()
        watchdog.look()
    for coroutine in running:
        coroutine.close()
    for facts, controller in zip(known, controllers, strict=True):
        facts.nodes, facts.namespaces = bench.facts.nodes, bench.facts.namespaces
        bench.settle(controller)
        watchdog.look()
    return watchdog


NODES = {f"node{n}": f"192.0.2.{n}" for n in range(1, 7)}
NAMESPACES = ("blue", "default", "green", "kube-system", "red")
schedules = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([False] * 14 + [True])), min_size=20, max_size=80
)
knowledge = st.builds(
    lambda nodes, namespaces: Facts({n: HostNode(n, (IPv4Address(NODES[n]),)) for n in nodes}, namespaces),
    st.sets(st.sampled_from(sorted(NODES)), min_size=3),
    st.sets(st.sampled_from(NAMESPACES), min_size=2),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(knowledge, min_size=2, max_size=2), schedules)
def test_two_controllers_give_nothing_twice_wherever_they_meet(
    known: list[Facts], schedule: list[tuple[int, bool]]
) -> None:
    """Each has heard of some of the Nodes and Namespaces, so that each gives what it thinks is free to others."""
    bench = Bench(store=SteppedStore(SMALL), cluster=SteppedCluster())
    bench.nodes(**NODES)
    bench.namespaces(*NAMESPACES)
    bench.store.put(
        HostSubnet("lb", IPv4Address("192.0.2.99"), None, assign=True),
        HostSubnet("gone", IPv4Address("192.0.2.98"), IPv4Network("172.11.0.16/28")),
        HostSubnet("node3", IPv4Address("192.0.2.33"), IPv4Network("172.11.0.0/28")),
        NetNamespace("dropped", Vni(10)),
        NetNamespace("blue", Vni(12)),
    )
    watchdog = run_against_each_other(bench, known, schedule)
    assert watchdog.changed == []
    assert bench.subnets().keys() == {*NODES, "lb"}
    assert bench.subnets()["node3"] == "172.11.0.0/28"
    assert bench.vnis() == bench.tenants()
    assert bench.vnis().keys() == set(NAMESPACES)
    assert (bench.vnis()["blue"], bench.vnis()["kube-system"]) == (12, 0)


@settings(max_examples=60, deadline=None)
@given(schedules)
def test_a_controller_with_old_facts_takes_nothing_from_the_others(
    schedule: list[tuple[int, bool]],
) -> None:
    """The first has not heard of node2 and red, which the second serves: it must not delete their records."""
    bench = Bench(store=SteppedStore(SMALL), cluster=SteppedCluster())
    bench.nodes(node1="192.0.2.1", node2="192.0.2.2")
    bench.namespaces("red", "blue")
    old = Facts(nodes={"node1": bench.facts.nodes["node1"]}, namespaces={"blue"})
    services = RoundServices(bench.store, bench.cluster, bench.metrics, lambda: True)
    controllers = [Rounds(services, old), bench.controller()]
    watchdog = Watchdog(bench)
    bench.settle(controllers[1])
    running = [controller.once() for controller in controllers]
    for who, _ in schedule:
        try:
            running[who].send(None)
        except StopIteration:
            running[who] = controllers[who].once()
        watchdog.look()
        assert bench.subnets() == {"node1": "172.11.0.0/28", "node2": "172.11.0.16/28"}
        assert bench.vnis() == {"blue": 10, "red": 11}
    for coroutine in running:
        coroutine.close()
    assert watchdog.changed == []
