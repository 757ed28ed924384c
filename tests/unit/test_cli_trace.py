"""`k8s-ovs trace`: what it says of a Service, with and without endpoints, and what comes next. The switch is canned."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.cli import CommandLine
from fakes.dataplane import FakeFlowTable
from fakes.dataplane_examples import attachment
from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import trace
from k8s_ovs.dataplane.unixctl import Answer
from k8s_ovs.flows.example import example_flows, example_groups
from k8s_ovs.flows.names import Drop, StageId, cookie_of, drop_cookie
from k8s_ovs.model.types import Attachment, OfPort

POD = replace(attachment(0), namespace="red", pod="web", address=IPv4Address("172.11.0.2"), ofport=OfPort(3))
SERVICE, EMPTY, NOBODYS = "10.96.0.10", "10.96.0.12", "172.11.99.9"
BEGIN = f"""20. ip,in_port=3, priority 200, cookie {cookie_of(StageId.POD_IN):#x}
    set_field:0xa/0xffffff->reg0
"""
TRACKED = f"""60. tcp,reg0=0xa/0xffffff, priority 300, cookie {cookie_of(StageId.SERVICE):#x}
    ct(table=62,zone=1,nat)
"""
CHOICE = f"""62. ct_state=+new+trk,tcp, priority 200, cookie {cookie_of(StageId.SERVICE_NEW, 2):#x}
    group:2
     -> no live bucket
"""
NO_CHOICE = f"""62. ct_state=+new+trk,tcp, priority 200, cookie {cookie_of(StageId.SERVICE_NEW):#x}
    goto_table:68
"""
TO_POD = """    set_field:0xa/0xffffff->reg1
     -> output port is 3
"""
TO_HOST = """    set_field:0/0xffffff->reg1
     -> output port is 2
"""
TO_TUNNEL = """    set_field:192.0.2.2->tun_dst
     -> output port is 1
"""
LOST = f"70. ip, priority 100, cookie {drop_cookie(StageId.ROUTE, Drop.NO_SUCH_HOST):#x}\n    drop\n"
SAID = {
    SERVICE: BEGIN + TRACKED + CHOICE,
    EMPTY: BEGIN + TRACKED + NO_CHOICE + TO_HOST,
    NOBODYS: BEGIN + LOST,
    "172.11.0.2": BEGIN + TO_POD,
    "172.11.4.2": BEGIN + TO_TUNNEL,
    "10.96.0.99": BEGIN
    + f"61. ip, priority 300, cookie {drop_cookie(StageId.SERVICE_REPLY, Drop.NO_SERVICE):#x}\n    drop\n",
}


class Control:
    """Answers ofproto/trace by the packet's destination."""

    async def call(self, command: str, bridge: str, packet: str) -> Answer:
        fields = dict(part.partition("=")[::2] for part in packet.split(","))
        return Answer(SAID[fields["nw_dst"]])


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    table = FakeFlowTable()
    table.load([*example_groups(), *example_flows()])

    @asynccontextmanager
    async def connect(rundir: Path, deadline: float, what: str) -> AsyncIterator[Control]:
        yield Control()

    async def leases(settings: SwitchSettings) -> list[Attachment]:
        return [POD]

    monkeypatch.setattr(trace, "OfctlFlowTable", lambda target: table)
    monkeypatch.setattr(trace, "connect", connect)
    monkeypatch.setattr(trace, "read_leases", leases)
    return CommandLine(capsys)


def test_a_service_is_followed_to_its_endpoints(k8s_ovs: CommandLine) -> None:
    said, here, there = k8s_ovs("trace", "red/web", f"{SERVICE}:80").out.splitlines()[-3:]
    assert said == (
        "red/web (NetID 10) to 10.96.0.10:80: a Service; its connections go to 172.11.0.2:8080, 172.11.4.2:8080"
    )
    assert here.startswith("  172.11.0.2:8080 (NetID 10): delivered to red/web. Next,")
    assert there.startswith("  172.11.4.2:8080: sent through the tunnel to host 192.0.2.2, which")
    found = json.loads(k8s_ovs("trace", "red/web", f"{SERVICE}:80", "-o", "json").out)
    assert [(one["endpoint"], one["ports"]) for one in found["endpoints"]] == [
        ("172.11.0.2:8080", ["3"]),
        ("172.11.4.2:8080", ["1"]),
    ]


def test_a_service_without_endpoints_is_refused(k8s_ovs: CommandLine) -> None:
    said = k8s_ovs("trace", "red/web", EMPTY).out.splitlines()[-1]
    assert said.startswith("red/web (NetID 10) to 10.96.0.12: a Service without endpoints: this host refuses")
    assert "Next: `kubectl get endpointslices -A`" in said
    assert json.loads(k8s_ovs("trace", "red/web", EMPTY, "-o", "json").out)["refused"] is True


@pytest.mark.parametrize(("target", "next_step"), [(NOBODYS, "subnet list"), ("10.96.0.99", "get services")])
def test_where_nobody_is_the_next_step_is_told(k8s_ovs: CommandLine, target: str, next_step: str) -> None:
    said = k8s_ovs("trace", "red/web", target).out.splitlines()[-1]
    assert "dropped at stage" in said
    assert next_step in said.partition(" Next: ")[2]


def test_a_name_without_a_port_here(k8s_ovs: CommandLine) -> None:
    ended = k8s_ovs("trace", "red/web", "blue/shop:80")
    assert (ended.code, ended.out) == (2, "")
    assert "no pod blue/shop has a port on this host's bridge br0: give a Service, or a pod of" in ended.err
    assert "by its address (kubectl -n blue get services,pods -o wide)" in ended.err
    ended = k8s_ovs("trace", "blue/shop", SERVICE)
    assert "no pod blue/shop has a port on this host's bridge br0: run this on the node" in ended.err
