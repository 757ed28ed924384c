"""Planning tenants: who gets which VNI, what is adopted, what is left alone. Requests: test_controller_requests."""

import pytest

from fakes.planning import CONFIG, FLAT, Planner, kinds, namespace_key, record
from k8s_ovs.controller.plan import ProblemKind, record_problems
from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import MAX_VNI, MIN_TENANT_VNI, Tenant, Vni
from k8s_ovs.sources.records import error_of
from k8s_ovs.sources.store import Snapshot

POOL = MAX_VNI - MIN_TENANT_VNI + 1


@pytest.fixture
def planner() -> Planner:
    return Planner()


@pytest.fixture
def ruled() -> Planner:
    """Not a first start: red has VNI 10 already."""
    planner = Planner()
    planner.have("red", 10)
    return planner


# who gets what


def test_every_namespace_gets_a_vni_and_kube_system_is_global(planner: Planner) -> None:
    planner.living = {"red", "kube-system", "default"}
    result = planner.step()
    assert planner.vnis() == {"default": 10, "kube-system": 0, "red": 11}
    assert (result.problems, result.allocated, result.free) == ((), 2, POOL)


def test_tenant_and_net_namespace_are_written_in_one_change_on_top_of_the_snapshot(planner: Planner) -> None:
    planner.living = {"red"}
    change = planner.plan().change
    assert change is not None
    assert change.put_tenants == [Tenant("red", Vni(10))]
    assert [(r.name, r.net_id, r.action) for r in change.put_namespaces] == [("red", 10, "")]
    assert change.based_on == planner.snapshot().revision


def test_nothing_to_do_is_no_change(ruled: Planner) -> None:
    result = ruled.plan()
    assert (result.change, result.problems, result.free, result.wake_at) == (
        None,
        (),
        POOL - 1,
        float("inf"),
    )


def test_a_namespace_made_anew_under_its_name_is_another_tenant(ruled: Planner) -> None:
    """Nobody has seen that the one before it was deleted: what that one was joined with is not the new one's."""
    ruled.have("blue", 10)
    ruled.have("kube-system", 0)
    ruled.have("gold", 0)
    ruled.uids = {name: f"{name}-1" for name in ruled.living}
    ruled.step()
    assert {tenant.uid for tenant in ruled.tenants.values()} == set(ruled.uids.values())
    assert ruled.vnis() == {"red": 10, "blue": 10, "kube-system": 0, "gold": 0}
    assert ruled.plan().change is None
    ruled.uids |= {"red": "red-2", "gold": "gold-2", "kube-system": "kube-system-2"}
    ruled.step()
    assert ruled.vnis() == {"gold": 11, "red": 12, "blue": 10, "kube-system": 0}
    assert {name: record.net_id for name, record in ruled.records.items()} == ruled.vnis()
    assert {ruled.tenants[name].uid for name in ("red", "gold")} == {"red-2", "gold-2"}
    assert ruled.plan().change is None


def test_what_a_namespace_made_anew_asks_for_is_served(ruled: Planner) -> None:
    ruled.have("blue", 11)
    ruled.uids = {"red": "1", "blue": "1"}
    ruled.step()
    ruled.uids["red"] = "2"
    ruled.ask("red", "join", "blue")
    for _ in range(6):
        ruled.step()
    assert ruled.vnis() == {"red": 11, "blue": 11}
    assert (ruled.records["red"].action, error_of(ruled.records["red"])) == ("", "")
    assert ruled.tenants["red"] == Tenant("red", Vni(11), uid="2")


def test_a_vni_freed_is_not_given_again_in_the_same_transaction(ruled: Planner) -> None:
    ruled.living = {"blue"}
    ruled.step()
    assert ruled.vnis() == {"blue": 11}


def test_what_belongs_to_a_namespace_that_is_gone_is_deleted_and_its_name_is_to_be_confirmed(
    ruled: Planner,
) -> None:
    ruled.have("blue", 11)
    ruled.records["blue"] = record("blue", 11, "join", "red")
    ruled.living = set()
    result = ruled.step()
    assert result.change is not None
    assert result.change.delete_namespaces == result.change.delete_tenants == ["blue", "red"]
    assert (sorted(result.absent), result.problems) == (["blue", "red"], ())
    assert (ruled.tenants, ruled.records) == ({}, {})


def test_the_malformed_record_of_a_namespace_that_is_gone_goes_with_its_tenant(ruled: Planner) -> None:
    ruled.malform("red")
    ruled.living = {"blue"}
    change = ruled.plan().change
    assert change is not None
    assert change.delete_namespaces == ["red"]


def test_many_writes_are_cut_into_transactions(ruled: Planner) -> None:
    ruled.living |= {f"ns{n:03}" for n in range(250)}
    assert [ruled.step().allocated for _ in range(3)] == [100, 100, 50]
    assert len(set(ruled.vnis().values())) == 251
    ruled.living = set()
    result = ruled.plan()
    assert len(result.absent) == 100


# adoption


def test_a_first_start_over_old_records_adopts_them_all_and_equal_net_ids_are_joined(
    planner: Planner,
) -> None:
    """As a whole, beyond the limit: what came later would be taken for a foreign NetID."""
    old = {f"ns{n:03}": 10 + n // 2 for n in range(250)} | {"zero": 0, "kube-system": 77}
    for name, vni in old.items():
        planner.have(name, vni, tenant=False)
    planner.living |= {"new"}
    planner.step()
    assert planner.tenant_vnis() == old
    assert all(error_of(one) == "" for one in planner.records.values())
    planner.settle()
    assert planner.tenant_vnis() == {**old, "new": 135}


def test_a_first_start_serves_the_requests_that_wait(planner: Planner) -> None:
    planner.have("blue", 11, tenant=False)
    planner.have("red", 10, "join", "blue", tenant=False)
    planner.step()
    change = planner.tenants["red"].change
    assert change is not None
    assert (change.old, change.new) == (10, 11)
    planner.settle()
    assert planner.vnis() == {"red": 11, "blue": 11}


def test_a_record_with_a_free_net_id_is_adopted_as_it_stands(ruled: Planner) -> None:
    ruled.have("blue", 4711, tenant=False)
    result = ruled.step()
    assert result.change is not None
    assert result.change.put_namespaces == []
    assert ruled.tenant_vnis() == {"red": 10, "blue": 4711}


@pytest.mark.parametrize("foreign", [10, 0], ids=["taken", "global"])
def test_a_new_namespace_cannot_choose_a_foreign_net_id(ruled: Planner, foreign: int) -> None:
    ruled.have("blue", foreign, "join", "red", tenant=False, note="mine")
    ruled.settle()
    assert ruled.tenant_vnis() == {"red": 10, "blue": 11}
    answer = ruled.records["blue"]
    assert (answer.net_id, answer.action, answer.extra["note"]) == (11, "", "mine")
    assert f"NetID {foreign} is taken or global" in error_of(answer)
    assert kinds(ruled.plan()) == {"blue": ProblemKind.REFUSED_REQUEST}


@pytest.mark.parametrize("started", [True, False], ids=["later", "first start"])
def test_a_reserved_net_id_is_refused(planner: Planner, started: bool) -> None:
    if started:
        planner.have("red", 10)
    planner.forbid("blue", 5)
    planner.settle()
    assert planner.vnis()["blue"] not in (5, 0, None)
    assert "NetID 5 is reserved" in error_of(planner.records["blue"])


def test_a_vni_that_a_change_leaves_or_reaches_cannot_be_adopted(ruled: Planner) -> None:
    ruled.ask("red", "global")
    ruled.step()
    ruled.have("blue", 10, tenant=False)
    ruled.step()
    assert ruled.tenant_vnis()["blue"] == 11
    assert error_of(ruled.records["blue"])


def test_of_two_new_namespaces_with_one_net_id_the_first_gets_it(ruled: Planner) -> None:
    ruled.have("a", 99, tenant=False)
    ruled.have("b", 99, tenant=False)
    ruled.settle()
    assert ruled.vnis() == {"red": 10, "a": 99, "b": 100}


def test_a_net_id_that_a_record_names_is_not_given_to_another(ruled: Planner) -> None:
    ruled.have("blue", 11, tenant=False)
    ruled.living |= {"a"}
    ruled.step()
    assert ruled.tenant_vnis() == {"red": 10, "a": 12, "blue": 11}


def test_a_record_without_net_id_gets_one_and_keeps_its_unknown_keys_and_its_request(ruled: Planner) -> None:
    ruled.have("blue", None, tenant=False, note="mine")
    ruled.have("green", None, "join", "red", tenant=False)
    ruled.settle()
    assert ruled.vnis() == {"red": 10, "blue": 11, "green": 10}
    assert ruled.records["blue"].extra == {"note": "mine"}


def test_kube_system_is_global_also_if_its_record_says_nothing_or_what_it_is(ruled: Planner) -> None:
    for vni in (None, 0):
        ruled.have("kube-system", vni, tenant=False)
        ruled.tenants.pop("kube-system", None)
        ruled.settle()
        assert (ruled.vnis()["kube-system"], error_of(ruled.records["kube-system"])) == (0, "")


# records that people broke


def test_a_record_deleted_by_hand_is_written_back(ruled: Planner) -> None:
    del ruled.records["red"]
    ruled.settle()
    assert ruled.vnis() == {"red": 10}


def test_a_malformed_record_stays_as_it_is_and_its_namespace_keeps_its_tenant(ruled: Planner) -> None:
    ruled.malform("red")
    ruled.living |= {"blue"}
    ruled.settle()
    assert ruled.plan().change is None
    assert ruled.tenant_vnis() == {"red": 10, "blue": 11}
    assert "red" not in ruled.records


def test_a_namespace_whose_first_record_is_malformed_waits_for_its_repair(ruled: Planner) -> None:
    ruled.malform("blue")
    ruled.living |= {"blue"}
    assert ruled.plan().change is None
    ruled.problems.clear()
    ruled.have("blue", 33, tenant=False)
    ruled.settle()
    assert ruled.tenant_vnis() == {"red": 10, "blue": 33}


def test_a_net_id_changed_by_hand_moves_nothing_and_is_answered(ruled: Planner) -> None:
    ruled.have("blue", 11)
    for vni in (11, 0, 4711):
        ruled.records["red"] = record("red", vni, note="mine")
        ruled.settle()
        assert ruled.tenant_vnis() == {"red": 10, "blue": 11}
        assert (ruled.vnis()["red"], ruled.records["red"].extra["note"]) == (10, "mine")
        assert f"NetID {vni} is not that of red, which is 10" in error_of(ruled.records["red"])


def test_a_reserved_net_id_written_over_a_record_is_answered(ruled: Planner) -> None:
    ruled.forbid("red", 9, "global")
    ruled.settle()
    assert ruled.tenant_vnis() == {"red": 10}
    assert (ruled.vnis()["red"], ruled.records["red"].action) == (10, "")
    assert "reserved" in error_of(ruled.records["red"])


def test_a_tenant_deleted_by_hand_comes_back_from_its_record_but_joined_ones_part(ruled: Planner) -> None:
    """A foreign NetID cannot be told from one that was joined: the safe side is to part."""
    del ruled.tenants["red"]
    ruled.have("blue", 11)
    ruled.have("green", 11)
    ruled.settle()
    assert ruled.tenant_vnis()["red"] == 10
    del ruled.tenants["green"]
    ruled.settle()
    assert ruled.tenant_vnis() == {"red": 10, "blue": 11, "green": 12}
    assert error_of(ruled.records["green"])


def test_malformed_records_become_problems_with_key_reason_and_remedy() -> None:
    key = namespace_key("red")
    (problem,) = record_problems(Snapshot(7, {}, {}, {key: RecordError(key, "not JSON")}))
    assert str(problem) == f"{key}: not JSON: write it anew, or delete it"


# single-tenant mode


def test_single_tenant_mode_makes_nothing_and_keeps_what_living_namespaces_have(ruled: Planner) -> None:
    ruled.config = FLAT
    ruled.living |= {"blue"}
    assert ruled.plan().change is None
    ruled.living = {"blue"}
    ruled.settle()
    assert (ruled.tenants, ruled.records) == ({}, {})


def test_single_tenant_mode_refuses_requests(ruled: Planner) -> None:
    ruled.config = FLAT
    ruled.ask("red", "global")
    ruled.have("old", None, "join", "red", tenant=False)
    ruled.settle()
    assert (ruled.vnis(), ruled.tenant_vnis()) == ({"red": 10, "old": None}, {"red": 10})
    assert all("single-tenant mode" in error_of(one) and not one.action for one in ruled.records.values())
    assert set(kinds(ruled.plan()).values()) == {ProblemKind.REFUSED_REQUEST}


def test_a_switch_back_to_multitenant_mode_goes_on_with_what_was(ruled: Planner) -> None:
    ruled.ask("red", "global")
    ruled.step()
    before = ruled.tenants["red"]
    assert before.change is not None
    ruled.config = FLAT
    ruled.settle()
    assert ruled.tenants["red"] == before
    ruled.config = CONFIG
    ruled.living |= {"new"}
    ruled.settle()
    assert ruled.tenant_vnis() == {"red": 0, "new": 11}


# the pool


def small_pool(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """The real pool takes minutes to fill."""
    for module in ("k8s_ovs.model.alloc", "k8s_ovs.controller.tenants"):
        monkeypatch.setattr(f"{module}.MAX_VNI", last)


def test_an_exhausted_pool_is_reported_and_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch, ruled: Planner
) -> None:
    small_pool(monkeypatch, 11)
    ruled.have("old", 11)
    ruled.living |= {"blue", "kube-system"}
    result = ruled.step()
    assert ruled.vnis() == {"red": 10, "old": 11, "kube-system": 0}
    assert (kinds(result), result.free) == ({"blue": ProblemKind.NO_VNI_LEFT}, 0)
    assert result.problems[0].remedy
    ruled.ask("red", "join", "blue")
    assert ruled.plan().change is None, "blue exists: red waits for its tenant"
    ruled.living -= {"old"}
    ruled.settle()
    assert ruled.vnis() == {"red": 11, "blue": 11, "kube-system": 0}


def test_an_isolation_waits_for_a_free_vni(monkeypatch: pytest.MonkeyPatch, ruled: Planner) -> None:
    small_pool(monkeypatch, 11)
    ruled.have("blue", 10)
    ruled.have("old", 11)
    ruled.ask("red", "isolate")
    result = ruled.plan()
    assert (result.change, kinds(result)) == (None, {"red": ProblemKind.NO_VNI_LEFT})
    ruled.living -= {"old"}
    ruled.settle()
    assert ruled.vnis() == {"red": 11, "blue": 10}
