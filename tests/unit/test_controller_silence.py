"""Agents that do not report: when that is told, of whom, and when no more."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from math import inf

from k8s_ovs.controller.plan import ProblemKind, Subject
from k8s_ovs.controller.silence import TOLD_SECONDS, Silence
from k8s_ovs.model.types import AgentHealth, AgentReport, HostSubnet
from k8s_ovs.sources.store import Snapshot

IP, LB, NEW = (IPv4Address(f"192.0.2.{number}") for number in (1, 2, 3))
HOSTS = {
    IP: HostSubnet("node1", IP, IPv4Network("172.11.0.0/22")),
    LB: HostSubnet("lb", LB, IPv4Network("172.11.4.0/22"), assign=True),
    NEW: HostSubnet("node3", NEW, None),
}


def snapshot(*reporting: IPv4Address) -> Snapshot:
    return Snapshot(1, HOSTS, {}, reports={ip: AgentReport(HOSTS[ip].host, ip) for ip in reporting})


def test_it_is_told_after_a_minute_and_no_more_once_the_agent_is_back() -> None:
    silence = Silence()
    assert silence.problems(snapshot(IP, LB), 100) == []
    assert silence.wake_at == inf
    assert silence.problems(snapshot(LB), 110) == []
    assert silence.wake_at == 110 + TOLD_SECONDS
    assert silence.problems(snapshot(LB), 110 + TOLD_SECONDS - 1) == []
    (found,) = silence.problems(snapshot(LB), 110 + TOLD_SECONDS)
    assert (found.subject, found.kind) == (Subject("Node", "node1"), ProblemKind.AGENT_SILENT)
    assert "node node1: its agent (192.0.2.1) does not report" in str(found)
    assert silence.wake_at == inf
    assert silence.problems(snapshot(IP, LB), 300) == []
    assert silence.problems(snapshot(LB), 301) == []


def test_an_external_host_is_told_too_and_a_host_without_subnet_is_not() -> None:
    silence = Silence()
    silence.problems(snapshot(), 0)
    found = silence.problems(snapshot(), TOLD_SECONDS)
    assert [problem.subject for problem in found] == [Subject("Node", "node1"), Subject("Record", "lb")]


def test_an_agent_that_says_that_it_cannot_serve() -> None:
    def troubled(trouble: str) -> Snapshot:
        report = AgentReport("node1", IP, health=AgentHealth(trouble=trouble))
        return replace(snapshot(LB), reports={**snapshot(LB).reports, IP: report})

    silence = Silence()
    assert silence.problems(troubled("no flows: start ovs-vswitchd"), 0) == []
    (found,) = silence.problems(troubled("no flows: start ovs-vswitchd"), TOLD_SECONDS)
    assert found.kind is ProblemKind.AGENT_NOT_READY
    assert str(found) == "node node1: its agent (192.0.2.1) cannot serve pods: no flows: start ovs-vswitchd"
    assert silence.problems(troubled(""), TOLD_SECONDS) == []
