"""`k8s-ovs status`: what is a problem, what is said of it, and what monitoring is told."""

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from fakes.cli import CommandLine
from fakes.statuses import Cluster, lease, node
from fakes.store import FakeStore
from fakes.virtual_time import virtual_time
from k8s_ovs.cli import cluster_etcd, status, status_facts, status_here
from k8s_ovs.cli.main import program_name
from k8s_ovs.cli.status_facts import Facts, Leader, ThisNode, look_twice, read_leader, under_way
from k8s_ovs.cli.status_here import parse_metrics, parse_readyz
from k8s_ovs.cli.status_judge import Judged, judge
from k8s_ovs.cli.status_text import as_data, as_text
from k8s_ovs.config import EXAMPLE, NetworkConfig
from k8s_ovs.errors import KubeNotFound, RecordError
from k8s_ovs.model.types import HostSubnet, NetNamespace, Tenant, TenantChange, TenantStep, Vni

CHANGE = TenantChange("1f", TenantStep.ACCEPT, Vni(10), Vni(11), "isolate")


def only(cluster: Cluster) -> Judged:
    (found,) = judge(cluster.facts())
    return found


def test_a_healthy_cluster_has_no_problems() -> None:
    cluster = Cluster()
    assert judge(cluster.facts()) == []
    data = as_data(cluster.facts(), [], 0)
    assert as_text(data).endswith("Healthy.")


def spoil_subnet(cluster: Cluster) -> None:
    cluster.nodes["node4"] = node("node4")


def spoil_ready(cluster: Cluster) -> None:
    cluster.nodes["node1"] = node("node1", ready=False)


def spoil_report(cluster: Cluster) -> None:
    del cluster.reports[cluster.ip("node2")]


def spoil_agent(cluster: Cluster) -> None:
    cluster.health("node1", trouble="ovsdb-server does not answer: start it")


def spoil_news(cluster: Cluster) -> None:
    cluster.health("node1", notes="the API server does not answer")


def spoil_revision(cluster: Cluster) -> None:
    cluster.health("node1", revision=49)
    cluster.lasting = under_way(cluster.snapshot())


def spoil_leader(cluster: Cluster) -> None:
    cluster.leader = Leader("control_ab", stale=True)


def spoil_tenant(cluster: Cluster) -> None:
    cluster.tenants["red"] = Tenant("red", Vni(10), CHANGE)
    for ip in list(cluster.reports):
        cluster.reports[ip] = replace(cluster.reports[ip], applied={"red": CHANGE.token})
    cluster.reports[cluster.ip("node3")] = replace(cluster.reports[cluster.ip("node3")], applied={})
    cluster.lasting = under_way(cluster.snapshot())


def spoil_addresses(cluster: Cluster) -> None:
    cluster.health("node1", pods=1000)


def spoil_drops(cluster: Cluster) -> None:
    cluster.health("node1", dropping={"tunnel/tunnel-unknown-host": 12})


def spoil_repairs(cluster: Cluster) -> None:
    cluster.health("node1", repairs={"flow": 2, "rule": 1})


def spoil_mtu(cluster: Cluster) -> None:
    cluster.health("node1", mtu=8950)


def spoil_pool(cluster: Cluster) -> None:
    smaller = json.loads(EXAMPLE) | {"Network": "172.11.0.0/19"}
    cluster.config = NetworkConfig.from_json(json.dumps(smaller))
    for number in (5, 6):
        ip = IPv4Address(f"192.0.2.{number}")
        cluster.subnets[ip] = replace(cluster.subnets[cluster.ip("node1")], host_ip=ip)
        cluster.reports[ip] = cluster.reports[cluster.ip("node1")]


def spoil_external(cluster: Cluster) -> None:
    ip = IPv4Address("192.0.2.9")
    cluster.subnets[ip] = HostSubnet("lb2", ip, None, assign=True)


@pytest.mark.parametrize(
    ("spoil", "kind", "about", "says"),
    [
        (spoil_subnet, "NodeWithoutSubnet", "node4", "node node4 has no host subnet: see that a controller leads"),
        (spoil_ready, "NodeNotReady", "node1", "node node1 is not Ready (no network): kubectl describe node node1"),
        (spoil_report, "AgentSilent", "node2", "the agent of node node2 (192.0.2.2) does not report: see whether"),
        (spoil_agent, "AgentNotReady", "node1", "the agent of node node1 cannot serve pods: ovsdb-server does not"),
        (spoil_news, "AgentOutage", "node1", "the agent of node node1 works, but with an outage: the API server"),
        (spoil_revision, "RevisionBehind", "node1", "node node1 is behind the records: it has applied revision 49 of 50"),
        (spoil_leader, "NoLeader", "", "no controller leads (control_ab was the last): new nodes get no subnet"),
        (spoil_tenant, "TenantChangeStuck", "red", "red (isolate) is stuck at its step accept: it waits for node3"),
        (spoil_addresses, "AddressesNearlyUsedUp", "node1", "node node1 has 21 of 1021 pod addresses left: put pods"),
        (spoil_drops, "DropsRising", "node1", "node node1 drops at stage tunnel (tunnel-unknown-host: 12 packets"),
        (spoil_repairs, "RepairsRepeated", "node1", "something else changes the switch or the rules of node node1: 3 repairs"),
        (spoil_mtu, "MtuDiffers", "node1", "pods of node1 have the MTU 8950, those of other nodes 1450: larger packets"),
        (spoil_pool, "SubnetsNearlyUsedUp", "", "2 host subnets are left of 8 in 172.11.0.0/19: new nodes"),
        (spoil_external, "HostWithoutSubnet", "lb2", "external host lb2 (192.0.2.9) has no subnet yet: see whether"),
    ],
)  # fmt: skip
def test_each_problem_is_one_sentence_with_the_next_step(
    spoil: Callable[[Cluster], None], kind: str, about: str, says: str
) -> None:
    cluster = Cluster()
    spoil(cluster)
    found = only(cluster)
    assert (found.kind, found.about, found.note) == (kind, about, False)
    assert says in str(found)
    assert found.remedy
    assert status.exit_code(cluster.facts(), [found]) == 1


def test_what_may_be_meant_is_a_note_and_healthy() -> None:
    cluster = Cluster()
    cluster.health("node1", dropping={"tenant/tenant-mismatch": 3, "classify/ipv6": 900}, version="0.0.9")
    cluster.namespaces["red"] = NetNamespace("red", Vni(10), extra={"Error": "there is no Namespace green"})
    found = judge(cluster.facts())
    assert [one.kind for one in found] == ["DropsRising", "VersionSkew", "TenantRequestRefused"]
    assert all(one.note for one in found)
    assert status.exit_code(cluster.facts(), found) == 0
    assert "refused as it should be" in str(found[0])
    assert "0.0.9 on 1" in str(found[1])


def test_problems_come_before_notes() -> None:
    cluster = Cluster()
    cluster.health("node1", version="0.0.9")
    cluster.lasting = frozenset()
    spoil_report(cluster)
    assert [one.note for one in judge(cluster.facts())] == [False, True]


def test_a_record_that_nobody_can_read() -> None:
    cluster = Cluster()
    problem = RecordError("/k8s.ovs.com/x", "not JSON", remedy="write it again")
    facts = replace(
        cluster.facts(), snapshot=replace(cluster.snapshot(), problems={"/k8s.ovs.com/x": problem})
    )
    (found,) = judge(facts)
    assert (found.kind, str(found)) == ("RecordMalformed", "/k8s.ovs.com/x: not JSON: write it again")


def test_what_is_under_way_is_no_problem_until_it_lasts() -> None:
    cluster = Cluster()
    spoil_tenant(cluster)
    cluster.health("node1", revision=49)
    cluster.lasting = frozenset()
    assert judge(cluster.facts()) == []


def test_without_etcd_or_kubernetes_it_says_what_it_could_see() -> None:
    cluster = Cluster(unknown={"etcd": "no answer"})
    facts = replace(cluster.facts(), snapshot=None)
    assert status.exit_code(facts, judge(facts)) == 2
    data = as_data(facts, judge(facts), 2)
    assert (data["healthy"], data["exitCode"], data["network"]) == (False, 2, None)
    assert [row["name"] for row in data["nodes"]] == ["node1", "node2", "node3"]
    text = as_text(data)
    assert "etcd: no answer" in text
    assert "Healthy" not in text
    facts = replace(cluster.facts(), nodes=None, leader=None, unknown={"kubernetes": "no credentials"})
    data = as_data(facts, judge(facts), 2)
    assert (data["leader"], data["nodes"][0]["ready"], data["nodes"][0]["agent"]) == (None, None, "ready")


def test_the_drops_of_an_agent_that_says_nothing_are_unknown() -> None:
    cluster = Cluster()
    spoil_report(cluster)
    rows = {
        line.split()[0]: line.split()
        for line in as_text(as_data(cluster.facts(), [], 1)).splitlines()
        if line
    }
    assert (rows["node1"][-1], rows["node2"][-1]) == ("0", "-")


def test_silent_servers_together_hold_nobody_up_for_long() -> None:
    assert cluster_etcd.SECONDS + status_facts.SECONDS <= 12


def test_the_schema_of_the_json() -> None:
    cluster = Cluster(
        here=ThisNode(
            checks={"bridge": "", "nat": "no rules"}, metrics={"k8s_ovs_pods": 3.0, "up": 1}, flows=90
        )
    )
    cluster.health(
        "node1", last_error="no flows", last_error_at="2026-01-31T12:00:00Z", drops={"classify/ipv6": 4}
    )
    judged = judge(cluster.facts())
    data: dict[str, Any] = json.loads(json.dumps(as_data(cluster.facts(), judged, 1)))
    assert data.keys() == {
        *(
            "schema",
            "healthy",
            "exitCode",
            "leader",
            "network",
            "nodes",
            "thisNode",
            "problems",
            "notes",
            "unknown",
        )
    }
    assert data["schema"] == 1
    assert data["network"] == {
        "network": "172.11.0.0/16",
        "serviceNetwork": "10.96.0.0/12",
        "mode": "multitenant",
        "revision": 50,
        "tenants": 1,
        "changing": 0,
        "freeSubnets": 60,
        "freeNetIDs": 16777205,
    }
    assert data["nodes"][0] == {
        "name": "node1",
        "ip": "192.0.2.1",
        "external": False,
        "subnet": "172.11.4.0/22",
        "ready": True,
        "agent": "ready",
        "freeAddresses": 1018,
        "version": data["nodes"][1]["version"],
        "since": "2026-01-31T12:00:00Z",
        "revision": 50,
        "pods": 3,
        "mtu": 1450,
        "drops": {"classify/ipv6": 4},
        "dropping": {},
        "repairs": {},
        "lastError": {"message": "no flows", "at": "2026-01-31T12:00:00Z"},
    }
    assert data["nodes"][-1]["external"]
    assert data["thisNode"]["agent"] == "unready"
    assert data["thisNode"]["metrics"] == {"k8s_ovs_pods": 3.0}
    assert data["problems"][0].keys() == {"kind", "about", "message", "remedy"}
    text = as_text(data)
    assert "2026-01-31T12:00:00Z node1: no flows" in text
    assert "fails its check nat: no rules" in text


def test_this_host() -> None:
    away = ThisNode(agent_error="refused", switch_error="no answer")
    assert [one.kind for one in judge(Facts(here=away))] == ["LocalAgentAway", "LocalSwitchAway"]
    checks, notes = parse_readyz("[+] bridge: ok\n[-] nat: no rules: yet\n[!] etcd: away\nnot ok\n")
    assert (checks, notes) == ({"bridge": "", "nat": "no rules: yet"}, {"etcd": "away"})
    text = '# HELP x y\nx{stage="a b"} 3.0\ny 1e3\n'
    assert parse_metrics(text) == {'x{stage="a b"}': 3.0, "y": 1000.0}


@virtual_time
async def test_a_lease_that_looks_old_is_looked_at_again_as_clocks_differ() -> None:
    assert (await read_leader(_lease(lease()))).leads
    assert (await read_leader(_lease(lease(age=3600), lease(age=3600, version="2")))).leads
    old = await read_leader(_lease(lease(age=3600)))
    assert (old.leads, old.stale, old.identity) == (False, True, "control_ab")
    assert not (await read_leader(_lease(lease("")))).leads
    assert await read_leader(_lease()) == Leader()


def _lease(*answers: Any) -> Callable[[], Any]:
    """A Lease that is this at the first look, that at the second, and so on; without any there is none."""
    left = list(answers)

    async def read() -> Any:
        if not left:
            raise KubeNotFound("no such Lease", status=404)
        return left.pop(0) if len(left) > 1 else left[0]

    return read


@virtual_time
async def test_the_second_look_is_over_as_soon_as_nothing_is_under_way() -> None:
    store = FakeStore(NetworkConfig.from_json(EXAMPLE))
    store.put(Tenant("red", Vni(10), CHANGE))
    snapshot, lasting = await look_twice(store, 5)
    assert lasting == {f"tenant red {CHANGE.token}"}
    store.put(Tenant("red", Vni(11)))
    snapshot, lasting = await look_twice(store, 5)
    assert (lasting, snapshot.tenants["red"].change) == (frozenset(), None)


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()

    async def gather(*_: object) -> Facts:
        return cluster.facts()

    async def here(*_: object) -> ThisNode | None:
        return cluster.here

    monkeypatch.setattr(status, "gather", gather)
    monkeypatch.setattr(status, "read_here", here)
    return cluster


def test_the_command_tells_monitoring_by_its_exit_code(k8s_ovs: CommandLine, found: Cluster) -> None:
    ended = k8s_ovs("status")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Leader:   control_ab\nNetwork:  172.11.0.0/16 (multitenant)")
    spoil_report(found)
    ended = k8s_ovs("status", "-o", "json")
    assert (ended.code, json.loads(ended.out)["exitCode"]) == (1, 1)
    found.unknown = {"etcd": "no answer"}
    assert k8s_ovs("status").code == 2
    assert k8s_ovs("status", "--no-such-flag").code == 2


def test_a_host_that_is_none_of_ours(k8s_ovs: CommandLine, found: Cluster) -> None:
    assert k8s_ovs("status").code == 0
    ended = k8s_ovs("status", "--only", "node")
    assert ended.code == 2
    assert (
        "neither an agent (127.0.0.1:9640) nor the bridge br0 is on this host: run this on a node"
        in ended.out
    )


def test_kubectl_calls_it_as_its_plugin() -> None:
    assert program_name("/usr/bin/kubectl-ovs") == "kubectl ovs"
    assert program_name("/usr/sbin/k8s-ovs") == program_name("python -m k8s_ovs") == "k8s-ovs"


def test_the_log_level_of_a_running_daemon(k8s_ovs: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = k8s_ovs("loglevel", "debug", "--metrics-address", "127.0.0.1:1")
    assert (ended.code, ended.out) == (2, "")
    assert "no daemon answers at 127.0.0.1:1" in ended.err
    assert k8s_ovs("loglevel", "loud").code == 2
    assert status_here.SECONDS < 10
