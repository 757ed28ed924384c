"""`k8s-ovs trace` on a real Open vSwitch: what ofproto/trace prints is read rightly, and judged in one sentence."""

import json
from typing import Any

import pytest

from fakes.cli import CommandLine
from fakes.clusters import Cluster, Node, Pod, network_config
from fakes.services import endpoint_slice, service
from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import trace
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.types import Attachment, Vni

pytestmark = [pytest.mark.root, pytest.mark.ovs]

HERE, THERE = Node(0), Node(1)
RED, OTHER, FAR = Pod(HERE, 0, "red"), Pod(HERE, 1, "red"), Pod(THERE, 0, "red")
MANY = 130
"""Endpoints: so many that the group chooses by hash, and the switch would tell of one of them."""
CLUSTER = Cluster(
    network_config(),
    [HERE, THERE],
    {"red": Vni(10), "blue": Vni(11)},
    [RED, OTHER, FAR],
    [
        service("red", "plain", "10.96.0.10", node_port=30080),
        service("red", "sticky", "10.96.0.11", affinity=60),
        service("red", "empty", "10.96.0.12"),
        service("red", "empty-sticky", "10.96.0.13", affinity=60),
        service("red", "many", "10.96.0.14"),
        service("blue", "foreign", "10.96.0.15"),
    ],
    [
        *(endpoint_slice("red", name, RED.ip, OTHER.ip, FAR.ip) for name in ("plain", "sticky")),
        endpoint_slice("red", "many", *(THERE.gateway + number for number in range(1, MANY + 1))),
    ],
)


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bridge: Any) -> CommandLine:
    async def leases(settings: SwitchSettings) -> list[Attachment]:
        return [RED.attachment, OTHER.attachment]

    monkeypatch.setattr(trace, "read_leases", leases)
    monkeypatch.setenv("K8S_OVS_OVS_RUNDIR", str(bridge.ovs.rundir))
    desired = DesiredFlows()
    desired.update(CLUSTER.view(HERE))
    bridge.replace(desired.all())
    return CommandLine(capsys)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("172.11.0.2", "(NetID 10) to 172.11.0.2 (NetID 10): delivered to red/pod0."),
        ("red/pod1:8080", "(NetID 10) to red/pod1:8080 (NetID 10): delivered to red/pod1."),
        ("172.11.4.9", "(NetID 10) to 172.11.4.9: sent through the tunnel to host 192.0.2.2, which compares"),
        ("172.11.0.9", "(NetID 10) to 172.11.0.9: dropped at stage route (no-such-pod)"),
        ("172.11.99.9", "(NetID 10) to 172.11.99.9: dropped at stage route (no-such-host): address of the"),
        ("203.0.113.5:443", "(NetID 10) to 203.0.113.5:443 (NetID 0): handed to this host"),
        ("10.96.0.99", "(NetID 10) to 10.96.0.99: dropped at stage service-reply (no-service)"),
        ("10.96.0.15", "(NetID 10) to 10.96.0.15: dropped at stage service (service-tenant-mismatch)"),
    ],
)
def test_a_trace_is_read_in_the_pipelines_own_words(k8s_ovs: CommandLine, target: str, says: str) -> None:
    ended = k8s_ovs("trace", "red/pod0", target)
    assert (ended.code, ended.err) == (0, "")
    assert f"red/pod0 {says}" in ended.out
    assert "Next" in ended.out.splitlines()[-1]
    assert [line.split()[0] for line in ended.out.splitlines()[1:3]] == ["classify", "pod-in"]


@pytest.mark.parametrize("target", ["10.96.0.10:80", "10.96.0.11:80", "192.0.2.2:30080"])
def test_to_a_service_the_way_to_each_endpoint_is_told(k8s_ovs: CommandLine, target: str) -> None:
    *table, said, itself, other, far = k8s_ovs("trace", "red/pod0", target).out.splitlines()
    assert "service-new: group" in table[-2]
    assert said == (
        f"red/pod0 (NetID 10) to {target}: a Service; its connections go to 172.11.0.2:8080, 172.11.0.3:8080, 172.11.4.2:8080"
    )
    assert itself.startswith("  172.11.0.2:8080 (NetID 10): delivered to red/pod0.")
    assert other.startswith("  172.11.0.3:8080 (NetID 10): delivered to red/pod1.")
    assert far.startswith(
        "  172.11.4.2:8080: sent through the tunnel to host 192.0.2.2, which compares the tenants."
    )


def test_the_ways_to_the_endpoints_for_programs(k8s_ovs: CommandLine) -> None:
    found = json.loads(k8s_ovs("trace", "red/pod0", "10.96.0.10:53", "--protocol=udp", "-o", "json").out)
    assert (found["drop"], found["source_vni"], found["refused"]) == (None, 10, False)
    assert [(one["endpoint"], one["ports"], one["destination_vni"]) for one in found["endpoints"]] == [
        ("172.11.0.2:5353", ["3"], 10),
        ("172.11.0.3:5353", ["4"], 10),
        ("172.11.4.2:5353", ["1"], None),
    ]
    assert found["endpoints"][2]["tunnel_to"] == "192.0.2.2"
    assert found["endpoints"][1]["verdict"].startswith("delivered to red/pod1")


def test_of_very_many_endpoints_some_are_traced(k8s_ovs: CommandLine) -> None:
    found = json.loads(k8s_ovs("trace", "red/pod0", "10.96.0.14", "-o", "json").out)
    assert [step["about"] for step in found["steps"]][-1].startswith("service-new: group")
    assert len(found["endpoints"]) == trace.MOST_ENDPOINTS
    assert f", {MANY - trace.MOST_ENDPOINTS} more\n" in found["verdict"]


@pytest.mark.parametrize("target", ["10.96.0.12", "10.96.0.13"])
def test_to_a_service_without_endpoints_the_host_refuses(k8s_ovs: CommandLine, target: str) -> None:
    said = k8s_ovs("trace", "red/pod0", target).out.splitlines()[-1]
    assert f"to {target}: a Service without endpoints: this host refuses the connection. Next:" in said
    assert "kubectl get endpointslices" in said
    found = json.loads(k8s_ovs("trace", "red/pod0", target, "-o", "json").out)
    assert (found["refused"], found["endpoints"]) == (True, [])
