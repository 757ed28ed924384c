"""Planning host subnets: pools that run out, records that somebody wrote by hand, more than a transaction holds."""

import dataclasses

from fakes.subnet_plans import CONFIG, deletes, ip, kinds, net, node, plan, puts, record
from k8s_ovs.controller.plan import ProblemKind
from k8s_ovs.controller.subnets import plan_subnets
from k8s_ovs.sources.store import Snapshot


def test_an_exhausted_pool_is_reported_for_each_that_gets_nothing() -> None:
    small = dataclasses.replace(CONFIG, network=net("172.11.0.0/21"))
    nodes = [node(f"node{n}", f"192.0.2.{n}") for n in range(1, 5)]
    result = plan(nodes, record("gone", "192.0.2.9", "172.11.0.0/22"), config=small)
    assert puts(result) == {"192.0.2.1": ("node1", "172.11.4.0/22", False)}
    assert deletes(result) == {"192.0.2.9"}
    assert kinds(result) == dict.fromkeys(["node2", "node3", "node4"], ProblemKind.NO_SUBNET_LEFT)
    assert "172.11.0.0/21" in result.problems[0].message
    assert result.problems[0].remedy


def test_a_node_that_gets_nothing_keeps_its_request_wherever_it_is() -> None:
    small = dataclasses.replace(CONFIG, network=net("172.11.0.0/22"))
    result = plan(
        [node("node1", "192.0.2.1"), node("node2", "192.0.2.9")],
        record("node1", "192.0.2.1", "172.11.0.0/22"),
        record("node2", "192.0.2.2", None),
        config=small,
    )
    assert result.change is None
    assert kinds(result) == {"node2": ProblemKind.NO_SUBNET_LEFT}


def test_a_record_that_moves_away_goes_even_if_its_successor_gets_nothing() -> None:
    small = dataclasses.replace(CONFIG, network=net("172.11.0.0/22"))
    result = plan(
        [node("node1", "192.0.2.9"), node("node2", "192.0.2.1")],
        record("node1", "192.0.2.1", "172.11.0.0/22"),
        config=small,
    )
    assert puts(result) == {"192.0.2.9": ("node1", "172.11.0.0/22", False)}
    assert deletes(result) == {"192.0.2.1"}


def test_subnets_written_by_hand_stay_and_are_reported() -> None:
    result = plan(
        [node(f"node{n}", f"192.0.2.{n}") for n in range(1, 6)],
        record("node1", "192.0.2.1", "172.11.0.0/22"),
        record("node2", "192.0.2.2", "172.11.0.0/22"),
        record("node3", "192.0.2.3", "10.200.0.0/22"),
        record("node4", "192.0.2.4", "172.11.4.0/24"),
    )
    assert puts(result) == {"192.0.2.5": ("node5", "172.11.8.0/22", False)}
    assert kinds(result) == {
        "subnets/192.0.2.2": ProblemKind.OVERLAPPING_SUBNET,
        "subnets/192.0.2.3": ProblemKind.FOREIGN_SUBNET,
        "subnets/192.0.2.4": ProblemKind.FOREIGN_SUBNET,
    }
    overlap = next(p for p in result.problems if p.kind is ProblemKind.OVERLAPPING_SUBNET)
    assert "node1" in overlap.message
    assert "node2" in overlap.message


def test_a_subnet_that_contains_others_is_reported_for_each_of_them() -> None:
    result = plan(
        [],
        record("big", "192.0.2.1", "172.11.0.0/20", assign=True),
        record("in1", "192.0.2.2", "172.11.0.0/22", assign=True),
        record("in2", "192.0.2.3", "172.11.12.0/22", assign=True),
        record("out", "192.0.2.4", "172.11.16.0/22", assign=True),
    )
    overlaps = {p.subject.name for p in result.problems if p.kind is ProblemKind.OVERLAPPING_SUBNET}
    assert overlaps == {"subnets/192.0.2.2", "subnets/192.0.2.3"}
    assert result.free == 64 - 5


def test_nobody_writes_over_a_malformed_record_and_what_it_held_is_not_given_away() -> None:
    result = plan(
        [node("node1", "192.0.2.1"), node("node2", "192.0.2.2")],
        problems=["/k8s.ovs.com/ovs/network/k8ssdn/subnets/192.0.2.1"],
        held=["172.11.0.0/22"],
    )
    assert puts(result) == {"192.0.2.2": ("node2", "172.11.4.0/22", False)}


def test_a_foreign_range_does_not_count_as_used() -> None:
    assert plan([], held=["10.0.0.0/8"]).free == 64
    assert plan([], held=["172.0.0.0/8"]).free == 0
    assert plan([], held=["172.11.0.0/24", "172.11.1.0/24", "172.11.3.0/24"]).free == 63


def test_many_writes_are_cut_into_transactions() -> None:
    nodes = [node(f"node{n:03}", f"192.0.2.{n}") for n in range(1, 31)]
    result = plan(nodes, limit=10)
    assert len(puts(result)) == 10
    assert result.allocated == 10


def test_a_chain_of_moves_longer_than_a_transaction_goes_from_its_end() -> None:
    """Every node takes the address of the next: the last moves must be first, and none is missing between."""
    records = {
        ip(f"192.0.2.{n}"): record(f"node{n}", f"192.0.2.{n}", f"172.11.{4 * n}.0/22") for n in range(1, 21)
    }
    nodes = [node(f"node{n}", f"192.0.2.{n + 1}") for n in range(1, 21)]
    for _ in range(20):
        result = plan_subnets(Snapshot(7, records, {}), nodes, CONFIG, limit=6)
        if result.change is None:
            break
        assert len(result.change.put_subnets) + len(result.change.delete_subnets) <= 6
        records = {key: r for key, r in records.items() if key not in result.change.delete_subnets}
        records |= {r.host_ip: r for r in result.change.put_subnets}
        assert {r.host: r.subnet for r in records.values()} == {
            f"node{n}": net(f"172.11.{4 * n}.0/22") for n in range(1, 21)
        }
    assert {r.host: str(key) for key, r in records.items()} == {
        f"node{n}": f"192.0.2.{n + 1}" for n in range(1, 21)
    }


def test_a_ring_of_moves_longer_than_a_transaction_is_not_torn() -> None:
    records = [record(f"node{n}", f"192.0.2.{n}", f"172.11.{4 * n}.0/22") for n in range(8)]
    nodes = [node(f"node{n}", f"192.0.2.{(n + 1) % 8}") for n in range(8)]
    others = [node("alone", "192.0.2.100")]
    assert len(puts(plan([*nodes, *others], *records, limit=4))) == 8


def test_a_node_that_moves_to_a_malformed_record_keeps_what_it_has() -> None:
    """Its pods go on using the subnet: were the old record deleted, the subnet would be given to another host."""
    old = record("node1", "192.0.2.1", "172.11.0.0/22")
    result = plan([node("node1", "192.0.2.2")], old, problems=["/p/k8ssdn/subnets/192.0.2.2"])
    assert result.change is None
    assert [problem.kind for problem in result.problems] == []
