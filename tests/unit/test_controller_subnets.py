"""Planning host subnets: what each situation leads to."""

import dataclasses

import pytest

from fakes.subnet_plans import CONFIG, deletes, kinds, net, node, plan, puts, record
from k8s_ovs.controller.plan import ProblemKind


def test_new_nodes_get_subnets_in_the_order_of_their_names() -> None:
    result = plan([node("node2", "192.0.2.2"), node("node1", "192.0.2.1")])
    assert puts(result) == {
        "192.0.2.1": ("node1", "172.11.0.0/22", False),
        "192.0.2.2": ("node2", "172.11.4.0/22", False),
    }
    assert (deletes(result), result.problems, result.allocated, result.free) == (set(), (), 2, 64)


def test_nothing_to_do_is_no_change() -> None:
    result = plan([node("node1", "192.0.2.1")], record("node1", "192.0.2.1", "172.11.8.0/22"))
    assert (result.change, result.problems, result.free) == (None, (), 63)


def test_a_subnet_asked_for_is_given_and_unknown_keys_are_kept() -> None:
    asked = record("node1", "192.0.2.1", None, note="mine")
    result = plan([node("node1", "192.0.2.1")], asked)
    assert puts(result) == {"192.0.2.1": ("node1", "172.11.0.0/22", False)}
    assert result.change is not None
    assert result.change.put_subnets[0].extra == {"note": "mine"}


def test_a_node_that_is_gone_loses_its_record_and_its_name_is_to_be_confirmed() -> None:
    result = plan([], record("node1", "192.0.2.1", "172.11.0.0/22"))
    assert (puts(result), deletes(result), result.absent) == ({}, {"192.0.2.1"}, ["node1"])


def test_a_subnet_freed_is_not_given_again_in_the_same_transaction() -> None:
    result = plan([node("node2", "192.0.2.2")], record("node1", "192.0.2.1", "172.11.0.0/22"))
    assert puts(result) == {"192.0.2.2": ("node2", "172.11.4.0/22", False)}
    assert deletes(result) == {"192.0.2.1"}


def test_a_changed_address_moves_the_record_with_its_subnet_and_extras() -> None:
    result = plan([node("node1", "192.0.2.9")], record("node1", "192.0.2.1", "172.11.8.0/22", note="x"))
    assert puts(result) == {"192.0.2.9": ("node1", "172.11.8.0/22", False)}
    assert deletes(result) == {"192.0.2.1"}
    assert result.change is not None
    assert result.change.put_subnets[0].extra == {"note": "x"}
    assert (result.allocated, result.absent) == (0, [])


def test_nodes_that_swap_addresses_keep_their_subnets() -> None:
    result = plan(
        [node("node1", "192.0.2.2"), node("node2", "192.0.2.1")],
        record("node1", "192.0.2.1", "172.11.0.0/22"),
        record("node2", "192.0.2.2", "172.11.4.0/22"),
    )
    assert puts(result) == {
        "192.0.2.1": ("node2", "172.11.4.0/22", False),
        "192.0.2.2": ("node1", "172.11.0.0/22", False),
    }
    assert deletes(result) == set()


def test_a_second_address_does_not_move_the_record() -> None:
    result = plan([node("node1", "192.0.2.100", "192.0.2.1")], record("node1", "192.0.2.1", "172.11.0.0/22"))
    assert result.change is None


def test_a_machine_under_a_new_name_takes_over_what_is_recorded_at_its_address() -> None:
    result = plan([node("new", "192.0.2.1")], record("old", "192.0.2.1", "172.11.12.0/22"))
    assert puts(result) == {"192.0.2.1": ("new", "172.11.12.0/22", False)}
    assert (deletes(result), result.absent) == (set(), ["old"])


def test_a_node_that_moves_to_the_address_of_one_that_is_gone_brings_its_own_subnet() -> None:
    result = plan(
        [node("node1", "192.0.2.2")],
        record("node1", "192.0.2.1", "172.11.0.0/22"),
        record("gone", "192.0.2.2", "172.11.4.0/22"),
    )
    assert puts(result) == {"192.0.2.2": ("node1", "172.11.0.0/22", False)}
    assert (deletes(result), result.absent) == ({"192.0.2.1"}, ["gone"])


def test_of_two_records_of_a_node_the_one_at_its_address_stays() -> None:
    result = plan(
        [node("node1", "192.0.2.2")],
        record("node1", "192.0.2.1", "172.11.0.0/22"),
        record("node1", "192.0.2.2", "172.11.4.0/22"),
    )
    assert (puts(result), deletes(result), result.absent) == ({}, {"192.0.2.1"}, [])


def test_a_lost_record_is_written_back_before_others_get_what_it_held() -> None:
    """The last free subnet is the lost one: node1, which comes first by its name, has to wait."""
    small = dataclasses.replace(CONFIG, network=net("172.11.0.0/21"))
    result = plan(
        [node("node1", "192.0.2.1"), node("node2", "192.0.2.2"), node("node3", "192.0.2.3")],
        record("node3", "192.0.2.3", "172.11.0.0/22"),
        config=small,
        former={"node2": "172.11.4.0/22"},
    )
    assert puts(result) == {"192.0.2.2": ("node2", "172.11.4.0/22", False)}
    assert kinds(result) == {"node1": ProblemKind.NO_SUBNET_LEFT}


def test_what_somebody_had_is_given_to_others_only_when_nothing_else_is_left() -> None:
    """A Node that was deleted comes back to its pods; a host that is assigned meanwhile shall not have their addresses."""
    away = {"node1": "172.11.0.0/22"}
    asks = record("lb", "192.0.2.9", None, assign=True)
    assert puts(plan([], asks, former=away)) == {"192.0.2.9": ("lb", "172.11.4.0/22", True)}
    small = dataclasses.replace(CONFIG, network=net("172.11.0.0/22"))
    assert puts(plan([], asks, config=small, former=away)) == {"192.0.2.9": ("lb", "172.11.0.0/22", True)}


def test_an_empty_subnet_asks_for_another_one() -> None:
    result = plan(
        [node("node1", "192.0.2.1")],
        record("node1", "192.0.2.1", None),
        record("node2", "192.0.2.2", "172.11.0.0/22", assign=True),
        former={"node1": "172.11.60.0/22"},
    )
    assert puts(result) == {"192.0.2.1": ("node1", "172.11.4.0/22", False)}


@pytest.mark.parametrize("former", ["172.11.0.0/21", "10.0.0.0/22", "172.11.8.0/23"])
def test_what_does_not_fit_any_more_does_not_come_back(former: str) -> None:
    result = plan(
        [node("node1", "192.0.2.1"), node("node2", "192.0.2.2")],
        record("node2", "192.0.2.2", "172.11.0.0/22"),
        former={"node1": former},
    )
    assert puts(result) == {"192.0.2.1": ("node1", "172.11.4.0/22", False)}


def test_a_record_renamed_to_another_node_is_taken_back_with_its_subnet() -> None:
    result = plan(
        [node("node2", "192.0.2.2"), node("node3", "192.0.2.3")],
        record("node3", "192.0.2.2", "172.11.4.0/22"),
        record("node3", "192.0.2.3", "172.11.8.0/22"),
    )
    assert puts(result) == {"192.0.2.2": ("node2", "172.11.4.0/22", False)}
    assert (deletes(result), result.absent) == (set(), [])


def test_a_node_at_an_address_that_another_is_just_leaving_takes_nothing_from_it() -> None:
    result = plan(
        [node("node1", "192.0.2.9"), node("node2", "192.0.2.1")],
        record("node1", "192.0.2.1", "172.11.0.0/22"),
    )
    assert puts(result) == {
        "192.0.2.9": ("node1", "172.11.0.0/22", False),
        "192.0.2.1": ("node2", "172.11.4.0/22", False),
    }


def test_a_node_without_an_address_keeps_its_record_and_is_reported() -> None:
    result = plan([node("node1")], record("node1", "192.0.2.1", "172.11.0.0/22"))
    assert result.change is None
    assert kinds(result) == {"node1": ProblemKind.NO_ADDRESS}
    assert "--node-ip" in str(result.problems[0])


@pytest.mark.parametrize("address", ["172.11.9.9", "10.96.0.1"])
def test_a_node_address_inside_our_networks_is_refused_and_the_others_go_on(address: str) -> None:
    result = plan([node("bad", address), node("good", "192.0.2.1")])
    assert puts(result) == {"192.0.2.1": ("good", "172.11.0.0/22", False)}
    assert kinds(result) == {"bad": ProblemKind.UNUSABLE_ADDRESS}
    assert address in result.problems[0].message


def test_two_nodes_with_one_address_get_nothing() -> None:
    result = plan([node("a", "192.0.2.1"), node("b", "192.0.2.1"), node("c", "192.0.2.3")])
    assert puts(result) == {"192.0.2.3": ("c", "172.11.0.0/22", False)}
    assert kinds(result) == {"a": ProblemKind.SHARED_ADDRESS, "b": ProblemKind.SHARED_ADDRESS}


def test_the_one_that_has_the_record_keeps_it_when_another_claims_its_address() -> None:
    result = plan([node("a", "192.0.2.1"), node("b", "192.0.2.1")], record("b", "192.0.2.1", "172.11.4.0/22"))
    assert result.change is None
    assert kinds(result) == {"a": ProblemKind.SHARED_ADDRESS}


def test_an_address_of_a_node_that_has_no_other_now_is_not_taken_from_it() -> None:
    result = plan(
        [node("a"), node("b", "192.0.2.1"), node("c", "192.0.2.2")],
        record("a", "192.0.2.1", "172.11.0.0/22"),
        record("b", "192.0.2.2", "172.11.4.0/22"),
    )
    assert result.change is None  # and c does not get b's, which cannot move
    assert kinds(result) == {
        "a": ProblemKind.NO_ADDRESS,
        "b": ProblemKind.TAKEN_ADDRESS,
        "c": ProblemKind.TAKEN_ADDRESS,
    }


def test_an_external_host_gets_a_subnet_when_it_asks_and_stays_external() -> None:
    result = plan([], record("lb", "192.0.2.50", None, assign=True))
    assert puts(result) == {"192.0.2.50": ("lb", "172.11.0.0/22", True)}


def test_an_external_record_is_never_deleted() -> None:
    assert plan([], record("lb", "192.0.2.50", "172.11.0.0/22", assign=True)).change is None


def test_a_node_at_the_address_of_an_external_host_is_reported() -> None:
    result = plan(
        [node("node1", "192.0.2.50")],
        record("lb", "192.0.2.50", "172.11.0.0/22", assign=True),
        record("node1", "192.0.2.1", "172.11.4.0/22"),
    )
    assert result.change is None
    assert kinds(result) == {"node1": ProblemKind.TAKEN_ADDRESS}


def test_an_external_host_with_the_name_of_a_node_is_reported_and_both_are_served() -> None:
    result = plan([node("node1", "192.0.2.1")], record("node1", "192.0.2.50", None, assign=True))
    assert puts(result).keys() == {"192.0.2.1", "192.0.2.50"}
    assert kinds(result) == {"subnets/192.0.2.50": ProblemKind.SHARED_NAME}
