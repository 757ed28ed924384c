"""What `bridge.FlowTable` promises, held by the fake and by the real switch."""

import pytest

from fakes.dataplane import FakeFlowTable
from fakes.dataplane_examples import flow, mod
from fakes.private_ovs import PrivateOvs
from k8s_ovs.dataplane.bridge import FlowTable
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.errors import OpenFlowError

FLOWS = [
    "cookie=0x1,table=0,priority=100,in_port=1,actions=goto_table:10",
    "cookie=0x2,table=0,priority=0,actions=drop",
    "cookie=0x3,table=10,priority=50,ip,nw_dst=172.11.4.0/22,actions=set_field:0x5->reg1,output:2",
    "cookie=0x4,table=10,priority=50,udp,nw_src=172.11.4.3,tp_dst=4789,actions=drop",
]


@pytest.fixture
def table(kind: str, request: pytest.FixtureRequest) -> FlowTable:
    if kind == "fake":
        return FakeFlowTable()
    ovs: PrivateOvs = request.getfixturevalue("ovs")
    ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure")
    return OfctlFlowTable(ovs.mgmt())


async def identities(table: FlowTable) -> set[tuple[int, int, int]]:
    return {(flow.table, flow.priority, flow.cookie) for flow in await table.dump()}


ALL = {(0, 100, 1), (0, 0, 2), (10, 50, 3), (10, 50, 4)}


async def test_a_new_bridge_is_empty(table: FlowTable) -> None:
    assert await table.dump() == []


async def test_replace_counts_real_differences(table: FlowTable) -> None:
    flows = [flow(text) for text in FLOWS]
    assert (await table.replace(flows)).added == 4
    assert await identities(table) == ALL
    same = await table.replace(list(reversed(flows)))
    assert (same.added, same.deleted) == (0, 0)
    changed = [flow(FLOWS[0].replace("0x1", "0x9")), flow(FLOWS[1]), flow("table=20,priority=1,actions=drop")]
    result = await table.replace(changed)
    assert (result.added, result.deleted) == (2, 2)
    assert await identities(table) == {(0, 100, 9), (0, 0, 2), (20, 1, 0)}
    assert (await table.replace([])).deleted == 3
    assert await table.dump() == []


async def test_commit_adds_changes_and_deletes(table: FlowTable) -> None:
    await table.commit([])
    await table.commit([mod(f"add {text}") for text in FLOWS])
    assert await identities(table) == ALL
    await table.commit(
        [
            mod("delete_strict table=10,priority=50,udp,nw_src=172.11.4.3,tp_dst=4789"),
            mod("delete_strict table=7,priority=3"),
            mod("add cookie=0x8,table=0,priority=100,in_port=1,actions=drop"),
        ]
    )
    assert await identities(table) == {(0, 100, 8), (0, 0, 2), (10, 50, 3)}


async def test_a_dump_tells_what_a_flow_matches_and_does(table: FlowTable) -> None:
    await table.commit([mod(f"add {FLOWS[0]}"), mod("add table=3,actions=drop")])
    first, second = sorted(await table.dump(), key=lambda flow: flow.table)
    assert (first.match, first.actions, first.packets, first.octets) == ("in_port=1", "goto_table:10", 0, 0)
    assert (second.match, second.actions, second.priority) == ("", "drop", 32768)


@pytest.mark.parametrize(
    ("bad", "quoted"),
    [
        ("table=0,priority=3,colour=2,actions=drop", "colour"),
        ("table=0,priority=3,in_port=2,actions=explode", "explode"),
        ("table=0,priority=3,in_port=2", "must specify an action"),
        ("table=5,priority=3,actions=goto_table:4", "goto_table"),
        ("table=0,priority=3,actions=group:7", "OFPBAC_BAD_OUT_GROUP"),
    ],
)
async def test_a_bad_flow_is_quoted_and_changes_nothing(table: FlowTable, bad: str, quoted: str) -> None:
    await table.replace([flow(FLOWS[1])])
    with pytest.raises(OpenFlowError, match=quoted):
        await table.commit([mod(f"add {FLOWS[0]}"), mod(f"add {bad}"), mod(f"add {FLOWS[2]}")])
    assert await identities(table) == {(0, 0, 2)}
    with pytest.raises(OpenFlowError, match=quoted):
        await table.replace([flow(FLOWS[0]), flow(bad)])
    assert await identities(table) == {(0, 0, 2)}
