"""`k8s-ovs flows`: order, choice of table and pod, drops with their reasons, JSON."""

import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from fakes.cli import CommandLine
from fakes.dataplane import FakeFlowTable
from fakes.dataplane_examples import attachment, flow
from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import flows
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.example import example_flows, example_groups
from k8s_ovs.model.types import Attachment, OfPort

POD = replace(attachment(0), namespace="red", pod="web", address=IPv4Address("172.11.0.2"), ofport=OfPort(3))
"""The pod of the example node."""
EXAMPLE = [*example_groups(), *example_flows()]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> FakeFlowTable:
    made = FakeFlowTable()
    made.load(EXAMPLE)
    monkeypatch.setattr(flows, "OfctlFlowTable", lambda target: made)

    async def leases(settings: SwitchSettings) -> list[Attachment]:
        return [POD, replace(attachment(1), namespace="red", pod="other")]

    monkeypatch.setattr(flows, "read_leases", leases)
    return made


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def rows(k8s_ovs: CommandLine, *options: str) -> list[dict[str, Any]]:
    ended = k8s_ovs("flows", "-o", "json", *options)
    assert (ended.code, ended.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(ended.out)
    return found


def test_all_flows_in_the_order_in_which_a_packet_meets_them(
    k8s_ovs: CommandLine, table: FakeFlowTable
) -> None:
    found = rows(k8s_ovs)
    assert len(found) == len(list(example_flows()))
    keys = [(row["tableNumber"], -row["priority"]) for row in found]
    assert keys == sorted(keys)
    assert all(row["ours"] for row in found)
    assert found[0] == {
        "table": "classify",
        "tableNumber": 0,
        "priority": 300,
        "packets": 0,
        "bytes": 0,
        "match": "vlan_tci=0x1000/0x1000",
        "actions": "drop",
        "drop": "vlan-tagged",
        "meaning": "frame with a VLAN tag: pods have none, and a tag would hide what is behind it",
        "ours": True,
        "about": None,
    }


def test_one_table_for_people(k8s_ovs: CommandLine, table: FakeFlowTable) -> None:
    table.count(7)
    lines = k8s_ovs("flows", "--table", "tenant").out.splitlines()
    assert lines[0].startswith("tenant (80): at the destination's host")
    assert lines[1].split() == ["PRIORITY", "PACKETS", "BYTES", "MATCH", "ACTIONS"]
    assert any("source VNI=10,destination VNI=10" in line and "goto deliver" in line for line in lines)
    assert lines[-1].split()[1] == "7"
    assert lines[-1].endswith("drop: tenant-mismatch")
    assert k8s_ovs("flows", "--table", "nothing").code == 2


def test_only_what_concerns_a_pod(k8s_ovs: CommandLine, table: FakeFlowTable) -> None:
    table.load(
        [
            *EXAMPLE,
            flow("cookie=0x6b6f0007ac0b0014,table=70,priority=9,ip,nw_dst=172.11.0.20,actions=goto_table:80"),
        ]
    )
    found = rows(k8s_ovs, "--pod", "red/web")
    tables = {row["table"] for row in found}
    assert {"pod-in", "gateway-in", "route", "service-reply"} <= tables
    assert tables.isdisjoint({"classify", "tunnel", "tenant", "arp"})
    for row in found:
        text = row["match"] + row["actions"] + str(row["about"])
        assert "172.11.0.2" in text or "in_port=3" in text or POD.mac in text
        assert "172.11.0.20" not in text
        assert "172.11.0.0/22" not in row["match"] or "172.11.0.2," in row["match"]


def test_a_pod_that_is_elsewhere(k8s_ovs: CommandLine, table: FakeFlowTable) -> None:
    ended = k8s_ovs("flows", "--pod", "red/nobody")
    assert (ended.code, ended.out) == (2, "")
    assert "no pod red/nobody has a port on this host's bridge br0" in ended.err


def test_where_packets_are_dropped(k8s_ovs: CommandLine, table: FakeFlowTable) -> None:
    assert k8s_ovs("flows", "--dropped").out == "nothing was dropped\n"
    assert k8s_ovs("flows", "--dropped", "--table=tenant").out == "nothing was dropped by these flows\n"
    table.count(2)
    found = rows(k8s_ovs, "--dropped")
    assert len(found) > 20
    assert all(row["drop"] and row["meaning"] and row["packets"] == 2 for row in found)
    table.clear()
    assert k8s_ovs("flows", "--dropped").out == "no such flow\n"


def test_what_is_not_ours_is_said_to_be_foreign(k8s_ovs: CommandLine, table: FakeFlowTable) -> None:
    table.load([*EXAMPLE, flow("cookie=0x1234,table=0,priority=9999,ip,actions=goto_table:20")])
    found = rows(k8s_ovs)
    assert (found[0]["ours"], found[0]["about"]) == (False, None)
    assert "goto pod-in   (not ours)" in k8s_ovs("flows", "--table", "classify").out


def test_a_switch_that_is_away(k8s_ovs: CommandLine, table: FakeFlowTable) -> None:
    table.fail_next("dump", OpenFlowError("no answer from br0.mgmt", remedy="start ovs-vswitchd"))
    ended = k8s_ovs("flows")
    assert (ended.code, ended.out) == (1, "")
    assert "start ovs-vswitchd" in ended.err


@pytest.mark.parametrize("command", [("flows", "--pod", "red/web"), ("trace", "red/web", "192.0.2.1")])
def test_without_a_switch_one_sentence_says_why(
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """No record of what was tried before it."""
    monkeypatch.setattr(flows, "DEADLINE", 0.1)
    (tmp_path / "br0.mgmt").touch()
    monkeypatch.setattr(flows, "OfctlFlowTable", lambda _: FakeFlowTable())
    ended = CommandLine(capsys)(*command, "--ovs-rundir", str(tmp_path))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"k8s-ovs: no answer from {tmp_path}/db.sock within 0.1 s: start ovsdb-server\n"
