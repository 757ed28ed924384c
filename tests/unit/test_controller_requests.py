"""Requests to change a tenant: how each one ends, step by step, and for whom a change waits."""

import pytest

from fakes.planning import HOSTS, Planner, kinds, new_memory, record
from k8s_ovs.controller.changes import ABSENT_SECONDS, STUCK_SECONDS
from k8s_ovs.controller.plan import ProblemKind
from k8s_ovs.model.types import HostSubnet, NetNamespace, Tenant
from k8s_ovs.sources.records import error_of
from k8s_ovs.sources.store import MAX_NEEDS


@pytest.fixture
def planner() -> Planner:
    """red 10, blue 11, green 12 with yellow; two nodes."""
    planner = Planner()
    for name, vni in {"red": 10, "blue": 11, "green": 12, "yellow": 12}.items():
        planner.have(name, vni)
    planner.nodes("node1", "node2")
    return planner


def others(planner: Planner, name: str) -> dict[str, Tenant]:
    return {other: tenant for other, tenant in planner.tenants.items() if other != name}


# what becomes of each request


@pytest.mark.parametrize(
    ("name", "action", "other", "vni"),
    [
        ("red", "join", "blue", 11),
        ("yellow", "join", "red", 10),
        ("red", "global", "", 0),
        ("yellow", "isolate", "", 13),
    ],
)
def test_a_request_is_served_and_answered(
    planner: Planner, name: str, action: str, other: str, vni: int
) -> None:
    unmoved = others(planner, name)
    planner.ask(name, action, other)
    steps = []
    while planner.step().change is not None:
        steps.append((planner.step_of(name), planner.records[name].action))
    assert steps == [("accept", action), ("send", action), ("close", action), ("", "")]
    assert planner.tenants[name] == Tenant(name, planner.tenants[name].vni)
    assert (planner.tenant_vnis()[name], planner.vnis()[name]) == (vni, vni)
    assert (planner.records[name].other, error_of(planner.records[name])) == ("", "")
    assert others(planner, name) == unmoved


def test_what_a_change_is_begun_upon_must_be_there_still(planner: Planner) -> None:
    """Request, tenant and the one that is joined: a deletion does not show in the range that is compared."""
    planner.ask("red", "join", "blue")
    change = planner.plan().change
    assert change is not None
    assert (change.needs_tenants, change.needs_namespaces) == (["blue", "red"], ["red"])


def test_no_plan_needs_more_than_a_transaction_compares(planner: Planner) -> None:
    for number in range(80):
        planner.have(f"n{number}", 100 + number)
        planner.ask(f"n{number}", "join", f"m{number}")
        planner.have(f"m{number}", 200 + number)
    while (change := planner.step().change) is not None:
        assert len(change.needs_tenants) + len(change.needs_namespaces) <= MAX_NEEDS
    assert all(planner.vnis()[f"n{number}"] == 200 + number for number in range(80))


def test_a_global_namespace_is_joined_and_isolated(planner: Planner) -> None:
    planner.have("kube-system", 0)
    planner.ask("red", "join", "kube-system")
    planner.settle()
    assert planner.vnis()["red"] == 0
    planner.ask("red", "isolate")
    planner.settle()
    assert planner.vnis()["red"] == 13
    assert planner.vnis()["kube-system"] == 0


@pytest.mark.parametrize(
    ("name", "action", "other"),
    [("red", "isolate", ""), ("green", "join", "yellow")],
    ids=["isolated already", "joined already"],
)
def test_what_is_so_already_is_answered_at_once(planner: Planner, name: str, action: str, other: str) -> None:
    before = dict(planner.tenants)
    planner.ask(name, action, other)
    change = planner.step().change
    assert change is not None
    assert (change.put_tenants, [r.action for r in change.put_namespaces]) == ([], [""])
    assert planner.tenants == before


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (record("red", 10, "join", "nowhere"), "there is no Namespace nowhere: create it first"),
        (record("red", 10, "join", "red"), "red cannot join itself: name another Namespace"),
        (record("red", 11, "join", "blue"), "NetID 11 is not that of red, which is 10"),
        (record("red", 0, "global"), "NetID 0 is not that of red, which is 10"),
    ],
    ids=["unknown", "itself", "foreign NetID", "global NetID"],
)
def test_a_request_that_cannot_be_served_is_refused_and_nothing_but_the_answer_is_written(
    planner: Planner, wish: NetNamespace, reason: str
) -> None:
    before = dict(planner.tenants)
    planner.records["red"] = wish
    result = planner.step()
    change = result.change
    assert change is not None
    assert (change.put_tenants, change.delete_tenants, change.delete_namespaces) == ([], [], [])
    (answer,) = change.put_namespaces
    assert (answer.net_id, answer.action, answer.other) == (10, "", "")
    assert error_of(answer).startswith(reason)
    assert planner.tenants == before
    result = planner.plan()
    assert (result.change, kinds(result)) == (None, {"red": ProblemKind.REFUSED_REQUEST})
    assert f"its last request was refused ({error_of(answer)}): write another" in str(result.problems[0])


def test_the_next_request_that_is_accepted_takes_the_error_away(planner: Planner) -> None:
    planner.ask("red", "join", "nowhere")
    planner.settle()
    planner.ask("red", "join", "blue")
    assert planner.settle().problems == ()
    assert planner.records["red"].extra == {}


def test_a_request_without_net_id_keeps_the_keys_of_others(planner: Planner) -> None:
    planner.records["red"] = record("red", None, "join", "blue", note="mine")
    planner.settle()
    assert (planner.vnis()["red"], planner.records["red"].extra) == (11, {"note": "mine"})


# requests that meet


def test_unrelated_changes_run_side_by_side_and_related_ones_one_after_the_other(planner: Planner) -> None:
    planner.ask("red", "join", "blue")
    planner.ask("green", "global")
    planner.ask("yellow", "join", "red")
    planner.step()
    assert [planner.step_of(name) for name in ("red", "green", "yellow")] == ["accept", "accept", ""]
    assert planner.records["yellow"].action == "join"
    planner.settle()
    assert planner.vnis() == {"red": 11, "blue": 11, "green": 0, "yellow": 11}


def test_two_that_join_each_other_are_joined(planner: Planner) -> None:
    planner.ask("red", "join", "blue")
    planner.ask("blue", "join", "red")
    planner.settle()
    assert planner.vnis()["red"] == planner.vnis()["blue"]
    assert not any(one.action for one in planner.records.values())


def test_a_request_rewritten_during_its_change_is_served_after_it(planner: Planner) -> None:
    planner.ask("red", "join", "blue")
    planner.step()
    planner.ask("red", "global")
    seen = []
    while planner.step().change is not None:
        change = planner.tenants["red"].change
        seen.append(None if change is None else (change.action, change.new))
    assert seen == [("join", 11)] * 2 + [None] + [("global", 0)] * 3 + [None]
    assert planner.vnis()["red"] == 0
    assert planner.records["red"].action == ""


def test_a_request_taken_back_during_its_change_does_not_stop_it(planner: Planner) -> None:
    planner.ask("red", "join", "blue")
    planner.step()
    planner.ask("red", "")
    planner.settle()
    assert (planner.vnis()["red"], error_of(planner.records["red"])) == (11, "")


@pytest.mark.parametrize("action", ["", "join", "global"])
def test_a_foreign_net_id_written_during_a_change_is_refused_after_it(planner: Planner, action: str) -> None:
    planner.ask("red", "join", "blue")
    planner.step()
    planner.records["red"] = record("red", 12, action, "blue" if action == "join" else "")
    planner.settle()
    assert (planner.tenant_vnis()["red"], planner.vnis()["red"]) == (11, 11)
    assert "NetID 12 is not that of red, which is 11" in error_of(planner.records["red"])


def test_a_record_that_is_deleted_or_malformed_or_forbidden_during_its_change_does_not_stop_it(
    planner: Planner,
) -> None:
    for name in ("red", "green", "yellow"):
        planner.ask(name, "join", "blue")
    planner.step()
    del planner.records["red"]
    planner.malform("green")
    planner.forbid("yellow", 3)
    planner.settle()
    assert planner.tenant_vnis() == {"red": 11, "blue": 11, "green": 11, "yellow": 11}
    assert (planner.vnis()["red"], planner.vnis()["yellow"]) == (11, 11)
    assert "reserved" in error_of(planner.records["yellow"])


def test_a_namespace_deleted_in_mid_change_and_created_again_begins_anew(planner: Planner) -> None:
    planner.ask("red", "join", "blue")
    planner.step()
    planner.living -= {"red"}
    planner.settle()
    assert "red" not in planner.tenants
    planner.living |= {"red"}
    planner.settle()
    assert planner.tenants["red"] == Tenant("red", planner.tenants["red"].vni)
    assert planner.vnis()["red"] == 13


def test_the_namespace_that_is_joined_may_go_in_mid_change(planner: Planner) -> None:
    planner.ask("red", "join", "blue")
    planner.step()
    planner.living -= {"blue"}
    planner.living |= {"new"}
    planner.settle()
    assert planner.vnis() == {"red": 11, "green": 12, "yellow": 12, "new": 13}


def test_both_ends_of_a_change_are_held(planner: Planner) -> None:
    planner.ask("yellow", "isolate")
    planner.silent = {"node1"}
    planner.step()
    planner.living -= {"red", "blue", "green"}
    planner.living |= {"new"}
    planner.step()
    change = planner.tenants["yellow"].change
    assert change is not None
    assert planner.tenant_vnis()["new"] not in {change.old, change.new}
    planner.silent = set()
    planner.settle()
    assert len(set(planner.tenant_vnis().values())) == 2


# for whom a change waits


def begin(planner: Planner, name: str = "red") -> None:
    planner.ask(name, "join", "blue")
    planner.step()
    assert planner.step_of(name) == "accept"


def test_every_step_waits_for_the_reports_of_all_live_nodes(planner: Planner) -> None:
    begin(planner)
    for step, after in (("accept", "send"), ("send", "close"), ("close", "")):
        planner.stuck = {"node2"}
        for _ in range(3):
            assert planner.step().change is None
            assert planner.step_of("red") == step
        planner.stuck = set()
        planner.step()
        assert planner.step_of("red") == after


def test_a_report_of_another_step_or_change_does_not_count(planner: Planner) -> None:
    begin(planner)
    change = planner.tenants["red"].change
    assert change is not None
    snapshot = planner.snapshot()
    said = snapshot.reports[HOSTS["node1"].host_ip].applied
    assert said == {"red": f"{change.id}/accept"}
    planner.step()
    assert planner.step_of("red") == "send"
    again = planner.tenants["red"].change
    assert again is not None
    assert (again.id, again.token) == (change.id, f"{change.id}/send")


def test_external_hosts_and_hosts_without_a_subnet_are_not_waited_for(planner: Planner) -> None:
    planner.hosts["node2"] = HostSubnet("node2", HOSTS["node2"].host_ip, None)
    planner.hosts["lb"] = HostSubnet("lb", HOSTS["node3"].host_ip, HOSTS["node3"].subnet, assign=True)
    planner.silent = {"lb", "node2"}
    begin(planner)
    planner.settle()
    assert planner.vnis()["red"] == 11


def test_a_node_without_a_live_report_is_waited_for_ten_seconds_once(planner: Planner) -> None:
    planner.silent = {"node2"}
    begin(planner)
    began = planner.now
    assert planner.step().wake_at == began + ABSENT_SECONDS
    planner.now = began + ABSENT_SECONDS - 0.1
    assert planner.step().change is None
    planner.now = began + ABSENT_SECONDS
    result = planner.settle()
    assert planner.vnis()["red"] == 11, "once skipped, no step waits for it again"
    assert kinds(result) == {"red": ProblemKind.NODE_BEHIND}
    assert "node2 (192.0.2.2)" in result.problems[0].message
    assert result.wake_at == float("inf")
    planner.silent = set()
    assert planner.settle().problems == (), "heard again"


def test_a_node_that_lives_but_does_not_apply_is_waited_for_thirty_seconds(planner: Planner) -> None:
    planner.stuck = {"node2"}
    begin(planner)
    began = planner.now
    assert planner.step().wake_at == began + STUCK_SECONDS
    planner.now = began + STUCK_SECONDS - 0.1
    assert planner.step().change is None
    planner.now = began + STUCK_SECONDS
    result = planner.settle()
    assert planner.vnis()["red"] == 11
    assert kinds(result) == {"red": ProblemKind.NODE_BEHIND}
    assert kinds(planner.settle()) == {"red": ProblemKind.NODE_BEHIND}, "it still says nothing new"
    planner.stuck = set()
    planner.ask("red", "isolate")
    planner.settle()
    assert planner.plan().problems == ()


def test_each_step_gives_a_live_node_its_own_time(planner: Planner) -> None:
    begin(planner)
    planner.step()
    planner.stuck = {"node1"}
    planner.now += STUCK_SECONDS - 1
    assert planner.step().wake_at == planner.now + STUCK_SECONDS
    planner.now += STUCK_SECONDS - 1
    assert planner.step().change is None


def test_the_next_change_waits_for_the_node_again(planner: Planner) -> None:
    planner.silent = {"node2"}
    begin(planner)
    planner.now += ABSENT_SECONDS
    planner.settle()
    planner.ask("red", "global")
    planner.step()
    assert planner.step().wake_at == planner.now + ABSENT_SECONDS


def test_a_node_that_is_deleted_is_waited_for_no_longer(planner: Planner) -> None:
    planner.stuck = {"node2"}
    begin(planner)
    planner.nodes("node1")
    assert planner.settle().problems == ()
    assert planner.vnis()["red"] == 11


def test_what_is_behind_is_forgotten_with_the_node_or_the_namespace(planner: Planner) -> None:
    planner.silent = {"node2"}
    for name in ("red", "green"):
        begin(planner, name)
    planner.step()
    planner.now += ABSENT_SECONDS
    assert set(kinds(planner.settle())) == {"red", "green"}
    planner.living -= {"red"}
    planner.settle()
    assert set(kinds(planner.plan())) == {"green"}
    planner.nodes("node1")
    assert planner.settle().problems == ()


def test_a_refused_commit_does_not_make_it_wait_again(planner: Planner) -> None:
    """Somebody else wrote meanwhile: the plan that ends the change is made twice."""
    planner.silent = {"node2"}
    begin(planner)
    planner.step()
    planner.now += ABSENT_SECONDS
    while planner.step_of("red") != "close":
        planner.step()
    assert planner.plan().completed == 1
    assert planner.plan().completed == 1
    planner.step()
    assert planner.vnis()["red"] == 11


def test_a_new_leader_goes_on_with_the_step_and_waits_anew(planner: Planner) -> None:
    planner.silent = {"node2"}
    begin(planner)
    before = planner.tenants["red"]
    planner.now += ABSENT_SECONDS - 1
    planner.step()
    planner.memory = new_memory()
    assert planner.step().wake_at == planner.now + ABSENT_SECONDS
    assert planner.tenants["red"] == before
    planner.silent = set()
    assert planner.settle().problems == ()
    assert planner.vnis()["red"] == 11
