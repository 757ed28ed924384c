"""What `bridge.FlowTable` promises, held by the fake and by the real switch."""

from ipaddress import IPv4Address

import pytest

from fakes.dataplane import FakeFlowTable
from fakes.dataplane_examples import flow, group, meter, mod
from fakes.private_ovs import PrivateOvs
from k8s_ovs.dataplane.bridge import FlowTable, SyncResult
from k8s_ovs.dataplane.findings import Kind
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.openflow_compare import LEARNED
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.diff import Item, add, delete, in_order

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


NAT = "ct(commit,table=70,zone=1,nat(dst=172.11.4.{}:80))"
USER = flow("cookie=0x11,table=20,priority=7,ip,actions=group:1")
LIMITED = flow("cookie=0x12,table=21,priority=7,ip,actions=meter:3,goto_table:30")
SERVICE: list[Item] = [
    group(1, "group:2", "group:3"),
    group(2, NAT.format(5), NAT.format(6)),
    group(3, NAT.format(7), method="hash,fields(ip_src)"),
    group(4, NAT.format(7), method="hash,fields=ip_src"),
    group(5, NAT.format(7), method="hash,fields(ip_src,ip_dst)"),
    meter(3),
    meter(4, rate=1_100_000, burst=20_000),
    USER,
    LIMITED,
]


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


async def unchanged(table: FlowTable, items: list[Item]) -> bool:
    """A synchronisation finds nothing to do, so the switch holds exactly these."""
    return await table.replace(items) == SyncResult(added=0, deleted=0)


async def test_groups_and_meters_are_committed_with_the_flows_that_use_them(table: FlowTable) -> None:
    await table.commit(in_order(map(add, SERVICE)))
    assert await unchanged(table, SERVICE)
    changed: list[Item] = [group(1, "group:3"), group(3, "drop"), meter(4, rate=7), USER, LIMITED, meter(3)]
    mods = [*map(add, changed[:3]), *map(delete, (SERVICE[1], SERVICE[3], SERVICE[4]))]
    await table.commit(in_order(mods))
    assert await unchanged(table, changed)
    await table.commit(in_order(map(delete, changed)))
    assert await unchanged(table, [])


async def test_a_dump_tells_what_a_group_does(table: FlowTable) -> None:
    assert await table.dump_groups() == {}
    await table.commit(in_order(map(add, SERVICE)))
    groups = await table.dump_groups()
    assert groups.keys() == {1, 2, 3, 4, 5}
    assert "group:2" in groups[1]
    assert NAT.format(5) in groups[2]
    assert NAT.format(6) in groups[2]


async def test_repeating_a_commit_is_harmless(table: FlowTable) -> None:
    for _ in range(2):
        await table.commit(in_order(map(add, SERVICE)))
        assert await unchanged(table, SERVICE)
    for _ in range(2):
        await table.commit(in_order(map(delete, SERVICE)))
        assert await unchanged(table, [])


async def test_what_groups_and_meters_were_is_brought_back(table: FlowTable) -> None:
    assert await table.replace(SERVICE) == SyncResult(added=9, deleted=0)
    assert await unchanged(table, list(reversed(SERVICE)))
    await table.commit([add(group(2, NAT.format(99))), add(meter(3, rate=9)), add(group(9, "drop"))])
    assert await table.replace(SERVICE) == SyncResult(added=2, deleted=1)
    await table.commit([delete(SERVICE[0]), delete(meter(3)), add(meter(77))])
    assert await identities(table) == set()
    assert await table.replace(SERVICE) == SyncResult(added=4, deleted=1)
    assert await identities(table) == {(20, 7, 0x11), (21, 7, 0x12)}
    assert await table.replace([]) == SyncResult(added=0, deleted=9)


async def test_what_was_brought_back_is_named(table: FlowTable) -> None:
    first, *_ = FLOWS
    await table.replace([*SERVICE, flow(first)])
    await table.commit([mod("delete_strict table=0,priority=100,in_port=1"), delete(group(4, "drop"))])
    await table.commit([add(group(2, NAT.format(99))), add(meter(3, rate=9)), add(flow(FLOWS[2]))])
    result = await table.replace([*SERVICE, flow(first)])
    assert {finding.kind: finding.count for finding in result.findings} == {
        Kind.FLOW: 2,
        Kind.GROUP: 2,
        Kind.METER: 1,
    }
    told = {finding.kind: str(finding) for finding in result.findings}
    assert "in_port=1" in told[Kind.FLOW]
    assert "nw_dst=172.11.4.0/22" in told[Kind.FLOW]
    assert "group 2" in told[Kind.GROUP]
    assert "group 4" in told[Kind.GROUP]
    assert "meter 3" in told[Kind.METER]
    assert (await table.replace([*SERVICE, flow(first)])).findings == ()


async def test_a_refused_group_changes_nothing(table: FlowTable) -> None:
    with pytest.raises(OpenFlowError, match="OFPBAC_BAD_OUT_GROUP"):
        await table.commit([add(group(2, "drop")), add(USER)])
    assert await unchanged(table, [])


async def test_flows_that_the_switch_has_learned_stay(table: FlowTable) -> None:
    cookie, mask = LEARNED
    learned = mod(f"add cookie={cookie | 0x0A0B:#x},table=61,priority=9,ip,hard_timeout=600,actions=drop")
    await table.commit([learned, mod(f"add {FLOWS[0]}")])
    assert await table.replace([flow(FLOWS[1])]) == SyncResult(added=1, deleted=1)
    assert await unchanged(table, [flow(FLOWS[1])])
    assert await identities(table) == {(0, 0, 2), (61, 9, cookie | 0x0A0B)}
    assert [stats.table for stats in await table.dump(cookie, mask)] == [61]


async def test_settle_and_forget_change_no_flow(table: FlowTable) -> None:
    await table.commit([mod(f"add {text}") for text in FLOWS])
    await table.settle()
    await table.forget([(IPv4Address("172.11.4.5"), 17, 53)])
    assert await identities(table) == ALL
