"""Flows of the switch with names instead of numbers."""

import pytest

from k8s_ovs.flows.example import example_flows
from k8s_ovs.flows.shown import actions_text, match_text, table_number
from k8s_ovs.flows.tables import TABLES


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("ip,in_port=3,nw_src=172.11.0.2", "ip,in_port=3,nw_src=172.11.0.2"),
        ("reg0=0xa/0xffffff,reg1=0xa/0xffffff", "source VNI=10,destination VNI=10"),
        ("ip,reg0=0x1000000/0x3000000,nw_dst=10.96.0.0/12", "ip,origin=tunnel,nw_dst=10.96.0.0/12"),
        ("reg2=0x2", "output port=2"),
        ("reg0=0x200000a/0x3ffffff", "source VNI=10,origin=pod"),
        ("reg4=0x100000b/0x1ffffff", "second VNI=11,second VNI present=1"),
        ("reg9=0x5", "reg9=0x5"),
        ("reg0=0x80000001", "source VNI=1,origin=0,reg0=0x80000000"),
        ("", ""),
    ],
)
def test_a_match(printed: str, shown: str) -> None:
    assert match_text(printed) == shown


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("goto_table:60", "goto service"),
        (
            "set_field:0xa/0xffffff->reg0,set_field:0x2000000/0x3000000->reg0,goto_table:60",
            "source VNI:=10,origin:=pod,goto service",
        ),
        (
            "move:NXM_NX_TUN_ID[0..23]->NXM_NX_REG0[0..23],goto_table:60",
            "move:NXM_NX_TUN_ID[0..23]->source VNI,goto service",
        ),
        ("output:NXM_NX_REG2[]", "output:output port"),
        ("ct(table=62,zone=1,nat)", "ct(table=service-new,zone=service,nat)"),
        ("resubmit(,63),resubmit(,64)", "ask affinity,ask endpoint"),
        ("goto_table:7", "goto 7"),
        ("ct(table=66,zone=9,nat)", "ct(table=hairpin-reply,zone=9,nat)"),
        ("drop", "drop"),
    ],
)
def test_actions(printed: str, shown: str) -> None:
    assert actions_text(printed) == shown


def test_nothing_of_the_pipeline_keeps_a_register_or_a_table_as_a_number() -> None:
    for flow in example_flows():
        shown = f"{match_text(flow.match_text())} {actions_text(flow.actions_text())}"
        assert "reg" not in shown, shown
        assert "REG" not in shown, shown
        assert "goto_table" not in shown


def test_tables_are_found_by_their_names() -> None:
    assert {table_number(table.name) for table in TABLES.values()} == set(TABLES)
    assert table_number("nothing") is None
