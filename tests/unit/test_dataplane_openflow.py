"""Reading what ovs-ofctl prints: dumps, differences and complaints. The samples are of ovs-ofctl 3.1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.dataplane.bridge import FlowStats, SyncResult
from k8s_ovs.dataplane.openflow import count_differences, explain, parse_flow
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


def test_differences_are_counted_by_flow() -> None:
    assert count_differences(DIFFERENCE) == SyncResult(added=2, deleted=2)
    assert count_differences("") == SyncResult(added=0, deleted=0)


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
