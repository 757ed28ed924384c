"""What Nodes that are gone had: remembered in the store, whoever leads when they return, and never without bounds."""

import dataclasses
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.rounds import SMALL, Bench, SteppedCluster, SteppedStore, finish
from fakes.subnet_plans import CONFIG, deletes, ip, net, node, puts, record
from k8s_ovs.config import NetworkConfig
from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.plan import Plan
from k8s_ovs.controller.subnets import plan_subnets
from k8s_ovs.model.types import FormerSubnet, HostSubnet
from k8s_ovs.sources.store import Change, Snapshot

TIGHT = dataclasses.replace(CONFIG, network=net("172.11.0.0/20"))
"""Four host subnets."""


def former(host: str, subnet: str, **extra: object) -> FormerSubnet:
    return FormerSubnet(host, net(subnet), extra)


def plan(
    nodes: Sequence[HostNode],
    *records: HostSubnet,
    formers: Sequence[FormerSubnet] = (),
    config: NetworkConfig = CONFIG,
    limit: int = 100,
) -> Plan:
    """By a controller that has seen nothing before."""
    now = Snapshot(7, {r.host_ip: r for r in records}, {}, former={f.host: f for f in formers})
    return plan_subnets(now, nodes, config, limit=limit)


def remembered(result: Plan) -> dict[str, str | None]:
    """What is written of former subnets, by host; None: deleted."""
    assert result.change is not None
    written: dict[str, str | None] = {f.host: str(f.subnet) for f in result.change.put_former}
    return written | dict.fromkeys(result.change.delete_former)


GONE = record("node1", "192.0.2.1", "172.11.0.0/22")
LB = record("lb", "192.0.2.9", "172.11.4.0/22", assign=True)
ASKS = record("lb", "192.0.2.9", None, assign=True)


def test_what_a_node_had_is_written_by_the_transaction_that_deletes_its_record() -> None:
    result = plan([], GONE, LB)
    assert (deletes(result), remembered(result)) == ({"192.0.2.1"}, {"node1": "172.11.0.0/22"})


def test_a_node_that_returns_gets_it_back_and_it_is_forgotten_in_the_same_transaction() -> None:
    result = plan(
        [node("node0", "192.0.2.7"), node("node1", "192.0.2.8")], formers=[former("node1", "172.11.0.0/22")]
    )
    assert puts(result) == {
        "192.0.2.8": ("node1", "172.11.0.0/22", False),
        "192.0.2.7": ("node0", "172.11.4.0/22", False),
    }
    assert remembered(result) == {"node1": None}


def test_what_is_remembered_is_given_to_others_only_when_nothing_else_is_left() -> None:
    away = [former("node1", "172.11.0.0/22")]
    result = plan([], ASKS, formers=away)
    assert (puts(result), remembered(result)) == ({"192.0.2.9": ("lb", "172.11.4.0/22", True)}, {})
    result = plan([], ASKS, formers=away, config=dataclasses.replace(CONFIG, network=net("172.11.0.0/22")))
    assert puts(result) == {"192.0.2.9": ("lb", "172.11.0.0/22", True)}
    assert remembered(result) == {"node1": None}


def test_what_goes_on_under_another_name_or_address_is_nothing_to_remember() -> None:
    for heir in (node("new", "192.0.2.1"), node("node1", "192.0.2.5")):
        assert remembered(plan([heir], GONE)) == {}


def test_of_two_records_of_a_node_the_one_that_goes_last_is_remembered() -> None:
    twice = (GONE, record("node1", "192.0.2.2", "172.11.4.0/22"))
    result = plan([], *twice, limit=1)
    assert (deletes(result), remembered(result)) == ({"192.0.2.1"}, {})
    assert remembered(plan([], twice[1])) == {"node1": "172.11.4.0/22"}
    assert remembered(plan([], *twice)) == {"node1": "172.11.0.0/22"}


@pytest.mark.parametrize("subnet", ["10.0.0.0/22", "172.11.0.0/23", "172.11.4.0/22"])
def test_what_cannot_come_back_is_forgotten(subnet: str) -> None:
    """None of the pod network's host subnets, or what somebody has: an older controller may have given it."""
    assert remembered(plan([], LB, formers=[former("node1", subnet)])) == {"node1": None}


def test_of_two_that_had_the_same_one_is_forgotten() -> None:
    formers = [former("node1", "172.11.0.0/22"), former("node2", "172.11.0.0/22")]
    assert remembered(plan([], formers=formers)) == {"node2": None}
    assert remembered(plan([], GONE, formers=formers[1:])) == {"node1": "172.11.0.0/22", "node2": None}


def test_a_record_outside_the_grid_takes_what_it_overlaps() -> None:
    wide = record("wide", "192.0.2.9", "172.11.0.0/21", assign=True)
    assert remembered(plan([], wide, formers=[former("node1", "172.11.4.0/22")])) == {"node1": None}


def test_nothing_to_forget_is_no_change() -> None:
    assert plan([], LB, formers=[former("node1", "172.11.0.0/22")]).change is None


def test_unknown_keys_stay_when_it_is_written_anew() -> None:
    result = plan([], GONE, formers=[former("node1", "172.11.8.0/22", note="mine")])
    assert result.change is not None
    assert [(f.subnet, f.extra) for f in result.change.put_former] == [
        (net("172.11.0.0/22"), {"note": "mine"})
    ]


# -- any number of controllers, one after the other -------------------------------------------------------------------


def applied(now: Snapshot, change: Change) -> Snapshot:
    hosts = {k: r for k, r in now.host_subnets.items() if k not in change.delete_subnets}
    formers = {k: f for k, f in now.former.items() if k not in change.delete_former}
    hosts |= {r.host_ip: r for r in change.put_subnets}
    formers |= {f.host: f for f in change.put_former}
    return Snapshot(now.revision + 1, hosts, {}, former=formers)


names = st.sampled_from([f"node{n}" for n in range(7)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(names, max_size=4), max_size=12), st.integers(min_value=1, max_value=4))
def test_who_returns_gets_what_it_had_unless_others_needed_it(living: list[set[str]], limit: int) -> None:
    """Seven Nodes come and go where four have room; a controller plans once, and then another one leads."""
    now = Snapshot(1, {}, {})
    had: dict[str, IPv4Network] = {}
    for alive in living:
        nodes = [HostNode(name, (ip(f"192.0.2.{int(name[-1]) + 1}"),)) for name in sorted(alive)]
        while (change := plan_subnets(now, nodes, TIGHT, limit=limit).change) is not None:
            before, now = now, applied(now, change)
            for each in now.host_subnets.values():
                assert each.subnet is not None
                free = each.subnet not in {r.subnet for r in before.host_subnets.values()}
                if each.host_ip not in before.host_subnets and each.host in had and free:
                    assert each.subnet == had[each.host]
                had = {host: subnet for host, subnet in had.items() if subnet != each.subnet}
                had[each.host] = each.subnet
            held = [r.subnet for r in now.host_subnets.values()]
            held += [f.subnet for f in now.former.values()]
            assert len(held) == len(set(held)) <= TIGHT.host_subnets
            assert not now.former.keys() & {r.host for r in now.host_subnets.values()}
        assert {r.host for r in now.host_subnets.values()} == alive
        assert now.former.keys() == had.keys() - alive


def test_a_node_gets_its_subnet_back_wherever_controllers_are_killed() -> None:
    """One is killed while it deletes the record, one while it writes it again; between them somebody asks for a subnet."""
    points = 8
    reached = set()
    for first in range(points):
        for second in range(points):
            bench = Bench(store=SteppedStore(SMALL), cluster=SteppedCluster())
            bench.nodes(node1="192.0.2.1", node2="192.0.2.2")
            bench.settle(bench.controller())
            had = bench.subnets()["node1"]
            bench.facts.nodes.pop("node1")
            bench.cluster.remove_nodes("node1")
            reached.add(_advance(bench, first))
            bench.settle(bench.controller())
            assert "node1" not in bench.subnets()
            bench.store.put(HostSubnet("lb", IPv4Address("192.0.2.99"), None, assign=True))
            bench.settle(bench.controller())
            bench.nodes(node1="192.0.2.1")
            reached.add(_advance(bench, second))
            bench.settle(bench.controller())
            assert bench.subnets()["node1"] == had
            assert bench.records().former == {}
    assert max(reached) < points - 1, "every point of a round was met"


def _advance(bench: Bench, steps: int) -> int:
    """Let a controller do so many steps of a round, or all if it has fewer, and kill it there. How many it did."""
    running = bench.controller().once()
    for number in range(steps):
        try:
            running.send(None)
        except StopIteration:
            return number
    running.close()
    return steps


# -- in the store -----------------------------------------------------------------------------------------------------


def test_a_malformed_one_is_reported_and_stops_nothing() -> None:
    bench = Bench()
    keys = bench.store.keys
    for host, value in {"node1": "{", "node9": '{"Host":"node9"}'}.items():
        bench.store.put_raw(keys.former(host), value)
    bench.nodes(node1="192.0.2.1", node2="192.0.2.2")
    rounds = bench.controller()
    bench.settle(rounds)
    assert bench.subnets() == {"node1": "172.11.0.0/28", "node2": "172.11.0.16/28"}
    assert {p.subject.name for p in rounds.problems} == {keys.former("node1"), keys.former("node9")}
    bench.facts.nodes.pop("node1")
    bench.cluster.remove_nodes("node1")
    bench.settle(rounds)
    assert bench.store.raw()[keys.former("node1")] == b'{"Host":"node1","Subnet":"172.11.0.0/28"}'
    assert {p.subject.name for p in rounds.problems} == {keys.former("node9")}


def test_a_record_deleted_by_hand_counts_more_than_what_is_remembered() -> None:
    """The controller has seen it since."""
    bench = Bench()
    bench.nodes(node1="192.0.2.1")
    bench.store.put(HostSubnet("node1", IPv4Address("192.0.2.1"), net("172.11.0.32/28")))
    rounds = bench.controller()
    assert finish(rounds.once()) is not None
    bench.store.put_former(former("node1", "172.11.0.64/28"))
    bench.store.delete_raw(bench.store.keys.subnet(IPv4Address("192.0.2.1")))
    bench.settle(rounds)
    assert (bench.subnets(), bench.records().former) == ({"node1": "172.11.0.32/28"}, {})
