"""Tenants that change while something is away: etcd, the API server, a readable record; and what the metrics say."""

from collections.abc import Mapping
from ipaddress import IPv4Address

import pytest

from fakes.rounds import Bench, finish
from k8s_ovs.controller.changes import ABSENT_SECONDS, STUCK_SECONDS
from k8s_ovs.controller.plan import ProblemKind
from k8s_ovs.controller.rounds import UNSEEN_SECONDS, Outcome, Rounds
from k8s_ovs.errors import EtcdUnavailable, KubeUnavailable
from k8s_ovs.model.types import AgentReport, NetNamespace, Tenant, TenantChange
from k8s_ovs.sources.records import error_of

NODES = {"node1": "192.0.2.1", "node2": "192.0.2.2"}


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.nodes(**NODES)
    bench.namespaces("red", "blue", "green")
    return bench


@pytest.fixture
def rounds(bench: Bench) -> Rounds:
    """A controller that has given everybody what they need."""
    rounds = bench.controller()
    bench.settle(rounds)
    return rounds


def ask(bench: Bench, name: str, action: str, other: str = "") -> None:
    bench.store.put(NetNamespace(name, None, action, other))


def report(bench: Bench, *hosts: str, applied: Mapping[str, str] | None = None) -> None:
    """These agents have applied what the ledger says, or what is told here."""
    tenants = bench.records().tenants.values()
    said = {t.name: t.change.token for t in tenants if t.change is not None} if applied is None else applied
    bench.store.report(*(AgentReport(host, IPv4Address(NODES[host]), said) for host in hosts))


def tenant(bench: Bench, name: str) -> Tenant:
    return bench.records().tenants[name]


def change_of(bench: Bench, name: str) -> TenantChange:
    change = tenant(bench, name).change
    assert change is not None, f"{name} does not change"
    return change


def wait(bench: Bench, rounds: Rounds, seconds: float) -> None:
    """As the worker does: until it has to look again, again and again, with nothing else happening."""
    end = bench.now + seconds
    while bench.now < end:
        bench.settle(rounds)
        bench.now = min(end, rounds.wake_at)
    bench.settle(rounds)


def test_while_hosts_are_waited_for_it_looks_often_enough_to_notice_an_outage(
    bench: Bench, rounds: Rounds
) -> None:
    ask(bench, "red", "join", "blue")
    bench.settle(rounds)
    assert rounds.wake_at == bench.now + UNSEEN_SECONDS
    wait(bench, rounds, ABSENT_SECONDS - 0.1)
    assert change_of(bench, "red").step == "accept"
    assert rounds.wake_at == pytest.approx(bench.now + 0.1)
    wait(bench, rounds, 0.2)
    assert tenant(bench, "red") == Tenant("red", tenant(bench, "blue").vni)


def test_an_outage_of_etcd_is_not_waited_time(bench: Bench, rounds: Rounds) -> None:
    """Those who could not be heard meanwhile are not given up the moment that it is over."""
    report(bench, "node1", "node2", applied={})
    ask(bench, "red", "join", "blue")
    bench.settle(rounds)
    bench.store.outage = EtcdUnavailable("no endpoint answers")
    for _ in range(10):
        bench.now += STUCK_SECONDS
        with pytest.raises(EtcdUnavailable):
            finish(rounds.once())
    bench.store.outage = None
    for host in NODES.values():
        bench.store.delete_raw(bench.store.keys.report(IPv4Address(host)))
    bench.settle(rounds)
    assert change_of(bench, "red").step == "accept"
    for step in ("send", "close"):
        report(bench, "node1", "node2")
        bench.settle(rounds)
        assert change_of(bench, "red").step == step
    report(bench, "node1", "node2")
    bench.settle(rounds)
    assert tenant(bench, "red") == Tenant("red", tenant(bench, "blue").vni)
    assert bench.metric("tenant_skips_total") == 0


def test_a_host_whose_record_has_become_malformed_goes_on_and_is_waited_for(
    bench: Bench, rounds: Rounds
) -> None:
    report(bench, "node1", "node2", applied={})
    bench.store.put_raw(bench.store.keys.subnet(IPv4Address(NODES["node2"])), "{")
    ask(bench, "red", "join", "blue")
    bench.settle(rounds)
    report(bench, "node1")
    bench.settle(rounds)
    assert change_of(bench, "red").step == "accept"
    report(bench, "node2")
    bench.settle(rounds)
    assert change_of(bench, "red").step == "send"
    report(bench, "node1")
    wait(bench, rounds, STUCK_SECONDS)
    assert change_of(bench, "red").step == "close", "for so long"
    assert ProblemKind.NODE_BEHIND in {problem.kind for problem in rounds.problems}
    assert "node2 (192.0.2.2)" in " ".join(problem.message for problem in rounds.problems)


def test_a_namespace_that_no_watch_has_told_of_yet_is_asked_for_before_a_join_is_refused(
    bench: Bench, rounds: Rounds
) -> None:
    bench.cluster.add_namespaces("new")
    ask(bench, "red", "join", "new")
    assert finish(rounds.once()) is Outcome.REFUSED
    bench.settle(rounds)
    assert error_of(bench.records().net_namespaces["red"]) == ""
    assert change_of(bench, "red").new == tenant(bench, "new").vni


def test_a_join_of_nobody_is_refused_after_the_api_has_said_so(bench: Bench, rounds: Rounds) -> None:
    ask(bench, "red", "join", "nobody")
    bench.settle(rounds)
    assert bench.cluster.asked == ["nobody"]
    assert "no Namespace nobody" in error_of(bench.records().net_namespaces["red"])
    assert bench.metric("tenant_refusals_total") == 1


def test_the_api_away_delays_deletions_and_refusals_but_no_change(bench: Bench, rounds: Rounds) -> None:
    report(bench, "node1", "node2", applied={})
    ask(bench, "green", "join", "nobody")
    bench.facts.namespaces.discard("blue")
    bench.facts.nodes.pop("node2")
    ask(bench, "red", "global")
    bench.cluster.refusal = KubeUnavailable("no answer from the API server")
    for step in ("accept", "send", "close"):
        with pytest.raises(KubeUnavailable):
            finish(rounds.once())
        assert change_of(bench, "red").step == step
        report(bench, "node1", "node2")
    with pytest.raises(KubeUnavailable):
        finish(rounds.once())
    now = bench.records()
    assert now.tenants["red"] == Tenant("red", now.net_namespaces["red"].net_id or now.tenants["red"].vni)
    assert now.net_namespaces["red"].net_id == 0
    assert (now.net_namespaces["green"].action, "blue" in now.tenants) == ("join", True)
    assert IPv4Address(NODES["node2"]) in now.host_subnets
    bench.cluster.refusal = None
    bench.cluster.remove_namespaces("blue")
    bench.cluster.remove_nodes("node2")
    bench.settle(rounds)
    now = bench.records()
    assert (now.net_namespaces["green"].action, "blue" in now.tenants) == ("", False)
    assert IPv4Address(NODES["node2"]) not in now.host_subnets


def test_the_metrics_say_how_long_changes_took_and_whom_they_went_on_without(
    bench: Bench, rounds: Rounds
) -> None:
    report(bench, "node1", applied={})
    ask(bench, "red", "join", "blue")
    for _ in range(3):
        bench.settle(rounds)
        report(bench, "node1")
    wait(bench, rounds, ABSENT_SECONDS)
    for _ in range(3):
        report(bench, "node1")
        bench.settle(rounds)
    assert tenant(bench, "red").change is None
    assert bench.metric("tenant_changes_total") == 1
    assert bench.metric("tenant_skips_total") == 1
    assert bench.metric("tenant_change_seconds_count") == 1
    assert bench.metric("tenant_change_seconds_sum") == pytest.approx(ABSENT_SECONDS)
