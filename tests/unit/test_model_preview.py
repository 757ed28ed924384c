"""Who newly reaches whom: examples, and that the preview says what the oracle says, for every change."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.config import Mode
from k8s_ovs.model.preview import (
    Preview,
    Reach,
    Workloads,
    after_global,
    after_isolate,
    after_join,
    preview,
    tenancies_of,
)
from k8s_ovs.model.tenancy import may_reach, pod, service
from k8s_ovs.model.types import Tenant, TenantChange, TenantStep, Vni

RED, BLUE, GREEN = Vni(10), Vni(11), Vni(12)
THREE = {"red": RED, "blue": BLUE, "green": GREEN, "kube-system": Vni(0)}
WORKLOADS = Workloads(
    pods={"red": ("r1", "r2"), "blue": ("b1",), "kube-system": ("dns",)},
    services={"blue": ("web",), "kube-system": ("dns",)},
)


def look(
    after: Mapping[str, Vni], before: Mapping[str, Vni] = THREE, workloads: Workloads = WORKLOADS
) -> Preview:
    return preview(before, after, workloads, Mode.MULTITENANT)


def test_a_join_opens_both_ways_with_pods_and_services() -> None:
    assert look(after_join(THREE, "red", "blue")) == Preview(
        opened=(
            Reach("blue", "red", ("b1",), ("r1", "r2"), ()),
            Reach("red", "blue", ("r1", "r2"), ("b1",), ("web",)),
        )
    )


def test_a_join_leaves_the_former_company() -> None:
    joined = after_join(THREE, "red", "blue")
    found = look(after_join(joined, "red", "green"), joined)
    assert [(way.source, way.destination) for way in found.opened] == [("green", "red"), ("red", "green")]
    assert [(way.source, way.destination) for way in found.closed] == [("blue", "red"), ("red", "blue")]
    assert found.closed[1].services == ("web",)


def test_isolate_closes_what_was_shared_and_nothing_else() -> None:
    joined = after_join(THREE, "red", "blue")
    apart = after_isolate(joined, "red")
    assert apart["red"] not in {*joined.values()}
    found = look(apart, joined)
    assert not found.opened
    assert [(way.source, way.destination) for way in found.closed] == [("blue", "red"), ("red", "blue")]


def test_isolate_of_one_that_shares_nothing_changes_nothing() -> None:
    assert after_isolate(THREE, "red") == THREE
    assert look(after_isolate(THREE, "red")).empty


def test_global_opens_to_everybody_who_was_not_open_before() -> None:
    found = look(after_global(THREE, "red"))
    assert {(way.source, way.destination) for way in found.opened} == {
        ("red", "blue"),
        ("blue", "red"),
        ("red", "green"),
        ("green", "red"),
    }
    back = look(after_isolate(after_global(THREE, "red"), "red"), after_global(THREE, "red"))
    assert {(way.source, way.destination) for way in back.closed} == {
        (way.source, way.destination) for way in found.opened
    }


def test_the_api_servers_service_is_open_before_and_after() -> None:
    tenancies = {"red": RED, "default": BLUE}
    workloads = Workloads(services={"default": ("kubernetes", "web")})
    found = look(after_join(tenancies, "red", "default"), tenancies, workloads)
    assert {way.destination: way.services for way in found.opened} == {"default": ("web",), "red": ()}


def test_in_single_tenant_mode_nothing_changes_anything() -> None:
    assert preview(THREE, after_join(THREE, "red", "blue"), WORKLOADS, Mode.SUBNET).empty


def test_a_change_that_is_under_way_counts_as_completed() -> None:
    change = TenantChange("1a2b3c4d", TenantStep.ACCEPT, RED, BLUE, "join", "blue")
    assert tenancies_of([Tenant("red", RED, change), Tenant("blue", BLUE)]) == {"red": BLUE, "blue": BLUE}


names = st.sampled_from("abcde")
vnis = st.sampled_from([0, 10, 11, 12]).map(Vni)
worlds = st.fixed_dictionaries(dict.fromkeys("abcde", vnis))


@given(worlds, worlds)
def test_it_is_the_difference_of_the_oracle(before: dict[str, Vni], after: dict[str, Vni]) -> None:
    workloads = Workloads(services=dict.fromkeys("abcde", ("web", "kubernetes")))
    found = preview(before, after, workloads, Mode.MULTITENANT)
    for ways, was, becomes in ((found.opened, before, after), (found.closed, after, before)):
        expected = {
            (source, destination)
            for source in was
            for destination in was
            if source != destination
            and may_reach(pod(becomes[source]), pod(becomes[destination]), Mode.MULTITENANT)
            and not may_reach(pod(was[source]), pod(was[destination]), Mode.MULTITENANT)
        }
        assert {(way.source, way.destination) for way in ways} == expected
        assert len(ways) == len(expected)
        for way in ways:
            for name in way.services:
                there = service(was[way.destination], way.destination, name)
                assert not may_reach(pod(was[way.source]), there, Mode.MULTITENANT)


@given(worlds, names)
def test_isolate_ends_with_a_vni_of_its_own(before: dict[str, Vni], name: str) -> None:
    after = after_isolate(before, name)
    assert after[name] != 0
    assert [other for other, vni in after.items() if vni == after[name]] == [name]
    assert {other: vni for other, vni in after.items() if other != name} == {
        other: vni for other, vni in before.items() if other != name
    }
