"""`k8s-ovs trace` on a real Open vSwitch: what ofproto/trace prints is read rightly, and judged in one sentence."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from fakes.dataplane_examples import attachment
from k8s_ovs.cli.trace import packet_text, verdict
from k8s_ovs.flows.example import example_flows, example_groups
from k8s_ovs.flows.traced import read_trace
from k8s_ovs.model.types import OfPort

pytestmark = [pytest.mark.root, pytest.mark.ovs]


@pytest.mark.parametrize(
    ("target", "port", "says"),
    [
        ("172.11.0.2", 80, "red/web (NetID 10) to there (NetID 10): delivered to red/web"),
        (
            "172.11.4.9",
            80,
            "red/web (NetID 10) to there: sent through the tunnel to host 192.0.2.2, which compares",
        ),
        ("172.11.0.9", 80, "red/web (NetID 10) to there: dropped at stage route (no-such-pod)"),
        ("203.0.113.5", 443, "red/web (NetID 10) to there (NetID 0): handed to this host"),
        ("10.96.0.99", 80, "red/web (NetID 10) to there: dropped at stage service-reply (no-service)"),
    ],
)
def test_a_trace_is_read_in_the_pipelines_own_words(bridge: Any, target: str, port: int, says: str) -> None:
    bridge.replace([*example_groups(), *example_flows()])
    pod = replace(
        attachment(0), namespace="red", pod="web", address=IPv4Address("172.11.0.2"), ofport=OfPort(3)
    )
    packet = packet_text(pod, IPv4Address(target), port, "tcp")
    found = read_trace(bridge.trace(packet).text)
    assert [step.table for step in found.steps][:2] == ["classify", "pod-in"]
    assert says in verdict(found, "red/web", "there", [pod])
