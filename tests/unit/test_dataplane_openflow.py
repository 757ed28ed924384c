"""Reading what ovs-ofctl prints: dumps, differences and complaints. The samples are of ovs-ofctl 3.1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.dataplane_examples import group, meter
from k8s_ovs.dataplane.bridge import FlowStats, SyncResult
from k8s_ovs.dataplane.openflow_compare import LEARNED, Repair, Wanted
from k8s_ovs.dataplane.openflow_text import explain, parse_flow, parse_groups, parse_meters
from k8s_ovs.errors import OpenFlowError

SAMPLES = {
    " cookie=0x5, duration=0.008s, table=0, n_packets=7, n_bytes=420, idle_age=0, "
    "priority=1,ip,nw_dst=1.2.3.4 actions=set_field:0x3->reg1,goto_table:3": FlowStats(
        0, 1, 5, 7, 420, "ip,nw_dst=1.2.3.4", "set_field:0x3->reg1,goto_table:3"
    ),
    " cookie=0x0, duration=0.032s, table=0, n_packets=0, n_bytes=0, idle_age=0, actions=drop": FlowStats(
        0, 32768, 0, 0, 0, "", "drop"
    ),
    " cookie=0x0, duration=0.008s, table=3, n_packets=0, n_bytes=0, idle_timeout=60, send_flow_rem idle_age=0, "
    "priority=3,reg1=0x1/0xf actions=drop": FlowStats(3, 3, 0, 0, 0, "reg1=0x1/0xf", "drop"),
    " cookie=0xff, duration=1s, table=9, n_packets=1, n_bytes=2, priority=0 actions=output:2": FlowStats(
        9, 0, 255, 1, 2, "", "output:2"
    ),
    " cookie=0x0, duration=3.1s, table=2, n_packets=0, n_bytes=0, reset_counts in_port=4 actions=drop": FlowStats(
        2, 32768, 0, 0, 0, "in_port=4", "drop"
    ),
    " cookie=0x1, duration=3.1s, table=2, n_packets=0, n_bytes=0, actions=learn(table=1,priority=4,actions=x)": (
        FlowStats(2, 32768, 1, 0, 0, "", "learn(table=1,priority=4,actions=x)")
    ),
    " cookie=0x1, duration=3.1s, table=2, n_packets=0, n_bytes=0, importance=4, idle_timeout=9, actions=drop": (
        FlowStats(2, 32768, 1, 0, 0, "", "drop")
    ),
}


@pytest.mark.parametrize(("line", "flow"), SAMPLES.items())
def test_a_line_of_a_dump(line: str, flow: FlowStats) -> None:
    assert parse_flow(line) == flow


def test_what_is_no_flow_is_an_error() -> None:
    with pytest.raises(OpenFlowError, match="not a flow: 'NXST_FLOW reply'"):
        parse_flow("NXST_FLOW reply")


@given(
    st.integers(0, 254),
    st.integers(0, 65535),
    st.integers(0, 2**64 - 1),
    st.lists(
        st.sampled_from(["ip", "nw_dst=10.0.0.0/8", "reg1=0x4/0xff", "in_port=3", "tp_dst=80"]), unique=True
    ),
)
def test_dumps_are_read_whatever_is_matched(table: int, priority: int, cookie: int, match: list[str]) -> None:
    words = ",".join([f"priority={priority}", *match])
    head = f" cookie={cookie:#x}, duration=1.5s, table={table}, n_packets=3, n_bytes=9, idle_age=1, "
    flow = parse_flow(f"{head}{words} actions=resubmit(,5),output:2")
    assert flow == FlowStats(table, priority, cookie, 3, 9, ",".join(match), "resubmit(,5),output:2")


DIFFERENCE = """\
- actions=drop
-priority=1,ip,nw_dst=1.2.3.4 cookie=0x5 actions=set_field:0x3->reg1,goto_table:3
+priority=1,ip,nw_dst=1.2.3.4 cookie=0x6 actions=set_field:0x3->reg1,goto_table:3
-table=3 priority=3,reg1=0x1/0xf idle_timeout=60 actions=drop
+table=9 priority=3,reg1=0x1/0xf cookie=0x4 actions=drop
"""


GROUPS = """\
OFPST_GROUP_DESC reply (OF1.5) (xid=0x2):
 group_id=9,type=select,selection_method=dp_hash,bucket=bucket_id:1,weight:100,actions=ct(commit,nat(dst=1.2.3.4:80))
 group_id=5,type=select,selection_method=dp_hash,bucket=bucket_id:1,weight:100,actions=group:9
"""
METERS = """\
OFPST_METER_CONFIG reply (OF1.5) (xid=0x2):
meter=3 kbps burst stats bands=
type=drop rate=2000 burst_size=100

meter=14 kbps burst stats bands=
type=drop rate=5 burst_size=6
"""


def test_nothing_is_sent_when_nothing_differs() -> None:
    wanted = Wanted.of(
        [
            meter(3, 2000, 100),
            meter(14, 5, 6),
            group(5, "group:9"),
            group(9, "ct(commit,nat(dst=1.2.3.4:80))"),
        ]
    )
    repair = Repair.of(wanted, "", GROUPS, METERS, LEARNED)
    assert repair == Repair([], [], [], SyncResult(added=0, deleted=0))


def test_flows_groups_and_meters_change_in_the_order_in_which_they_refer_to_each_other() -> None:
    wanted = Wanted.of([meter(3), group(5, "group:8"), group(8, "drop")])
    repair = Repair.of(wanted, DIFFERENCE, GROUPS, METERS, LEARNED)
    assert repair.meters == [meter(3)]
    assert repair.stale_meters == [14]
    assert repair.lines == [
        f"group add_or_mod {group(8, 'drop').to_ofctl()}",
        f"group add_or_mod {group(5, 'group:8').to_ofctl()}",
        "flow delete_strict table=0",
        "flow delete_strict table=3,priority=3,reg1=0x1/0xf",
        "flow add table=0,priority=1,ip,nw_dst=1.2.3.4,cookie=0x6,actions=set_field:0x3->reg1,goto_table:3",
        "flow add table=9,priority=3,reg1=0x1/0xf,cookie=0x4,actions=drop",
        "group delete group_id=9",
    ]
    assert repair.result == SyncResult(added=5, deleted=4)


def test_flows_that_the_switch_has_learned_stay() -> None:
    cookie, _ = LEARNED
    learned = f"-table=61 priority=9,tcp cookie={cookie | 0xA0B0C0D:#x} hard_timeout=60 actions=drop\n"
    repair = Repair.of(Wanted.of([]), learned, "", "", LEARNED)
    assert repair == Repair([], [], [], SyncResult(added=0, deleted=0))
    assert Repair.of(Wanted.of([]), learned, "", "", (0, 0xFFFF)).result.deleted == 1


def test_what_is_no_difference_is_an_error() -> None:
    with pytest.raises(OpenFlowError, match="not a flow: 'strange'"):
        Repair.of(Wanted.of([]), "-strange", "", "", LEARNED)


def test_groups_and_meters_are_read_as_we_spell_them() -> None:
    assert parse_groups(GROUPS)[5] == group(5, "group:9").to_ofctl()
    assert parse_meters(METERS) == {3: meter(3, 2000, 100).to_ofctl(), 14: meter(14, 5, 6).to_ofctl()}


LINES = ["add table=0,actions=drop", "add table=1,foo=3,actions=drop"]


@pytest.mark.parametrize(
    ("stderr", "explained"),
    [
        ("ovs-ofctl: -:2: unknown keyword foo\n", f"unknown keyword foo in line 2: {LINES[1]!r}"),
        (
            "2026-01-01T00:00:00Z|00001|ofp_port|WARN|port 70000 is outside\n"
            "ovs-ofctl: /dev/stdin:1: 70000: output to unknown port\n",
            f"70000: output to unknown port in line 1: {LINES[0]!r}",
        ),
        (
            "Error OFPBAC_BAD_OUT_GROUP for: OFPT_FLOW_MOD (OF1.5) (xid=0x7): ADD table:1 priority=3 actions=group:9\n"
            "Error OFPBFC_MSG_FAILED for: OFPT_BUNDLE_CONTROL (OF1.5) (xid=0xa):\n bundle_id=0 type=COMMIT_REQUEST\n"
            "ovs-ofctl: talking to unix:/x (Protocol error)\n",
            "OFPBAC_BAD_OUT_GROUP for the flow 'ADD table:1 priority=3 actions=group:9'",
        ),
        (
            "ovs-ofctl: connecting to unix:/x (No such file or directory)\n",
            "connecting to unix:/x (No such file or directory)",
        ),
        ("ovs-ofctl: -:99: strange\n", "strange in line 99: '?'"),
        ("", "no reason given"),
    ],
)
def test_complaints_quote_the_flow(stderr: str, explained: str) -> None:
    assert explain(stderr, LINES) == explained
