"""`k8s-ovs drops`: the table and the JSON."""

import json

import pytest

from fakes.cli import CommandLine
from fakes.dataplane import FakeFlowTable
from fakes.dataplane_examples import flow
from k8s_ovs.cli import drops
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.names import Drop, StageId, drop_cookie

NO_POD = drop_cookie(StageId.ROUTE, Drop.NO_SUCH_POD)
SPOOFED = drop_cookie(StageId.POD_IN, Drop.POD_SPOOFED_IP)


@pytest.fixture
def flows(monkeypatch: pytest.MonkeyPatch) -> FakeFlowTable:
    table = FakeFlowTable()
    table.load([flow(f"cookie={SPOOFED:#x},table=20,ip,actions=drop")])
    table.count(4)
    lines = [f"cookie={SPOOFED:#x},table=20,ip,actions=drop", f"cookie={NO_POD:#x},table=60,ip,actions=drop"]
    table.load(map(flow, lines))

    def open_table(target: str) -> FakeFlowTable:
        table.calls.append(target)
        return table

    monkeypatch.setattr(drops, "OfctlFlowTable", open_table)
    return table


@pytest.fixture
def k8s_ovs(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def test_the_table_shows_what_has_counted(k8s_ovs: CommandLine, flows: FakeFlowTable) -> None:
    ended = k8s_ovs("drops")
    assert (ended.code, ended.err) == (0, "")
    head, line = ended.out.splitlines()
    assert head.split() == ["STAGE", "REASON", "PACKETS", "MEANING"]
    assert line.split(maxsplit=3) == ["pod-in", "pod-spoofed-ip", "4", Drop.POD_SPOOFED_IP.meaning]
    assert flows.calls[0] == "unix:/run/openvswitch/br0.mgmt"


def test_all_of_them(k8s_ovs: CommandLine, flows: FakeFlowTable) -> None:
    assert len(k8s_ovs("drops", "--all", "--bridge=br7", "--ovs-rundir=/run/x").out.splitlines()) == 3
    assert flows.calls[0] == "unix:/run/x/br7.mgmt"


def test_json_is_for_programs(k8s_ovs: CommandLine, flows: FakeFlowTable) -> None:
    ended = k8s_ovs("drops", "-o", "json", "--all")
    assert [(drop["stage"], drop["reason"], drop["packets"]) for drop in json.loads(ended.out)] == [
        ("pod-in", "pod-spoofed-ip", 4),
        ("route", "no-such-pod", 0),
    ]
    assert all(drop["meaning"] for drop in json.loads(ended.out))
    flows.clear()
    assert json.loads(k8s_ovs("drops", "-o", "json").out) == []


def test_a_switch_that_is_away(k8s_ovs: CommandLine, flows: FakeFlowTable) -> None:
    flows.fail_next("dump", OpenFlowError("no answer from br0.mgmt", remedy="start ovs-vswitchd"))
    ended = k8s_ovs("drops")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "k8s-ovs: no answer from br0.mgmt: start ovs-vswitchd\n"


def test_columns_stay_aligned_below_long_names(k8s_ovs: CommandLine, flows: FakeFlowTable) -> None:
    known = (
        (StageId.POD_IN, Drop.POD_SPOOFED_IP),
        (StageId.SERVICE_REPLY, Drop.NO_SERVICE),
        (StageId.SERVICE, Drop.SERVICE_TENANT_MISMATCH),
    )
    flows.load(
        [
            flow(f"cookie={drop_cookie(*one):#x},table={number},ip,actions=drop")
            for number, one in enumerate(known)
        ]
    )
    flows.count(1)
    head, *lines = k8s_ovs("drops").out.splitlines()
    assert len(lines) == len(known)
    for line in lines:
        assert line.index(" " + line.split()[1]) + 1 == head.index("REASON")
        assert line[head.index("MEANING") - 2 :].startswith("  ")
        assert line[head.index("MEANING")] != " "


def test_nothing_dropped_is_said(k8s_ovs: CommandLine, flows: FakeFlowTable) -> None:
    flows.load([flow(f"cookie={NO_POD:#x},table=60,ip,actions=drop")])
    assert k8s_ovs("drops").out == "nothing was dropped\n"
    flows.clear()
    assert "is it an agent's?" in k8s_ovs("drops").out
