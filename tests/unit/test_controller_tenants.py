"""Planning net namespaces: what each situation leads to."""

import dataclasses
from collections.abc import Iterable
from ipaddress import IPv4Network

import pytest

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.plan import Plan, ProblemKind, record_problems
from k8s_ovs.controller.tenants import plan_tenants
from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import MAX_VNI, MIN_TENANT_VNI, NetNamespace, Vni
from k8s_ovs.sources.store import Snapshot

CONFIG = NetworkConfig(
    "k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
)
FLAT = dataclasses.replace(CONFIG, mode=Mode.SUBNET)
POOL = MAX_VNI - MIN_TENANT_VNI + 1


def record(name: str, vni: int | None, action: str = "", other: str = "", **extra: object) -> NetNamespace:
    return NetNamespace(name, None if vni is None else Vni(vni), action, other, extra)


def plan(
    namespaces: Iterable[str],
    *records: NetNamespace,
    config: NetworkConfig = CONFIG,
    problems: Iterable[str] = (),
    held: Iterable[int] = (),
    limit: int = 100,
) -> Plan:
    errors = {key: RecordError(key, "not JSON", remedy="write it anew") for key in problems}
    snapshot = Snapshot(7, {}, {r.name: r for r in records}, errors)
    return plan_tenants(snapshot, namespaces, config, [Vni(v) for v in held], limit=limit)


def puts(result: Plan) -> dict[str, int | None]:
    assert result.change is not None
    assert result.change.based_on == 7
    return {r.name: r.net_id for r in result.change.put_namespaces}


def kinds(result: Plan) -> dict[str, ProblemKind]:
    return {problem.subject.name: problem.kind for problem in result.problems}


def test_every_namespace_gets_a_vni_and_kube_system_is_global() -> None:
    result = plan(["red", "kube-system", "default"])
    assert puts(result) == {"default": 10, "kube-system": 0, "red": 11}
    assert (result.problems, result.allocated, result.free) == ((), 2, POOL)


def test_nothing_to_do_is_no_change() -> None:
    result = plan(["red"], record("red", 10))
    assert (result.change, result.problems, result.free) == (None, (), POOL - 1)


def test_a_record_without_net_id_gets_one_and_keeps_its_unknown_keys() -> None:
    result = plan(["red"], record("red", None, note="mine"))
    assert puts(result) == {"red": 10}
    assert result.change is not None
    assert result.change.put_namespaces[0].extra == {"note": "mine"}


def test_the_record_of_a_namespace_that_is_gone_is_deleted_and_its_name_is_to_be_confirmed() -> None:
    result = plan([], record("red", 10), record("blue", 11, "join", "red"))
    assert result.change is not None
    assert sorted(result.change.delete_namespaces) == ["blue", "red"]
    assert (sorted(result.absent), result.problems) == (["blue", "red"], ())


def test_a_vni_freed_is_not_given_again_in_the_same_transaction() -> None:
    assert puts(plan(["blue"], record("red", 10))) == {"blue": 11}


def test_a_vni_written_by_hand_is_accepted() -> None:
    assert plan(["red"], record("red", 4711)).change is None
    assert puts(plan(["red", "blue"], record("red", MAX_VNI))) == {"blue": 10}


def test_kube_system_may_be_given_another_vni_by_hand() -> None:
    assert plan(["kube-system"], record("kube-system", 99)).change is None


def test_a_request_is_left_as_it_is_and_reported() -> None:
    joining = record("red", None, "join", "blue")
    result = plan(["red", "blue"], joining, record("blue", 10))
    assert result.change is None
    assert kinds(result) == {"red": ProblemKind.UNSUPPORTED_ACTION}
    assert "join" in result.problems[0].message


def test_shared_vnis_stay_and_are_reported_for_both() -> None:
    result = plan(["red", "blue", "green"], record("red", 10), record("blue", 10), record("green", 11))
    assert result.change is None
    assert kinds(result) == {"red": ProblemKind.SHARED_VNI, "blue": ProblemKind.SHARED_VNI}
    assert "blue" in next(p.message for p in result.problems if p.subject.name == "red")


def test_many_global_namespaces_share_nothing() -> None:
    assert plan(["red", "blue"], record("red", 0), record("blue", 0)).problems == ()


def test_a_malformed_record_is_not_written_over_and_what_it_held_is_not_given_away() -> None:
    key = "/k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/red"
    result = plan(["red", "blue"], problems=[key], held=[10])
    assert puts(result) == {"blue": 11}


def test_malformed_records_become_problems_with_key_reason_and_remedy() -> None:
    snapshot = Snapshot(7, {}, {}, {"/x/netnamespaces/red": RecordError("/x/netnamespaces/red", "not JSON")})
    (problem,) = record_problems(snapshot)
    assert str(problem) == "/x/netnamespaces/red: not JSON: write it anew, or delete it"


def test_single_tenant_mode_makes_no_record_and_keeps_those_of_living_namespaces() -> None:
    assert plan(["red", "blue"], record("red", 10), config=FLAT).change is None
    gone = plan(["red"], record("red", 10), record("blue", 11), config=FLAT)
    assert gone.change is not None
    assert list(gone.change.delete_namespaces) == ["blue"]


def test_a_switch_back_to_multitenant_mode_keeps_what_was_and_adds_what_came() -> None:
    assert puts(plan(["red", "new"], record("red", 10))) == {"new": 11}


def test_many_writes_are_cut_into_transactions() -> None:
    result = plan([f"ns{n:03}" for n in range(250)])
    assert len(puts(result)) == 100
    assert result.allocated == 100


def test_an_exhausted_pool_is_reported_and_stops_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("k8s_ovs.model.alloc", "k8s_ovs.controller.tenants"):
        monkeypatch.setattr(f"{module}.MAX_VNI", 12)  # the real pool takes minutes to fill
    result = plan(["red", "kube-system", "old1", "old2"], record("old1", 10), record("old2", 11), held=[12])
    assert puts(result) == {"kube-system": 0}
    assert kinds(result) == {"red": ProblemKind.NO_VNI_LEFT}
    assert result.free == 0
    assert result.problems[0].remedy
