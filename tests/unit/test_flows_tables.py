"""Tables refuse what they do not declare; fields and cookies are laid out without overlap."""

from collections.abc import Callable

import pytest

from k8s_ovs.errors import PipelineError
from k8s_ovs.flows import fields as f
from k8s_ovs.flows import tables as t
from k8s_ovs.flows.flow import Flow, Goto, Move, Output, OutputInPort, SetField, match_of
from k8s_ovs.flows.names import Drop, StageId, cookie_of, describe, drop_cookie
from k8s_ovs.flows.tables import goto

IP = (f.ETH_TYPE.whole, f.IP_TYPE)
ARP = (f.ETH_TYPE.whole, f.ARP_TYPE)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (
            lambda: t.SERVICE.flow(1, [IP, (f.IP_SRC.whole, 1)], [goto(t.ROUTE)]),
            ["service", "nw_src", "may not match"],
        ),
        (lambda: t.TENANT.flow(1, [(f.ORIGIN, 1)], [goto(t.DELIVER)]), ["tenant", "reg0", "0x3000000"]),
        (
            lambda: t.SERVICE.flow(1, [IP], [SetField(f.ETH_DST.whole, 1), goto(t.ROUTE)]),
            ["service", "may not set dl_dst"],
        ),
        (lambda: t.TUNNEL_IN.flow(1, [IP], [SetField(f.REG0.whole, 1)]), ["tunnel-in", "may not set reg0"]),
        (lambda: t.POD_IN.flow(1, [IP], [Move(f.ARP_SPA.whole, f.SOURCE_VNI)]), ["pod-in", "copies 32 bits"]),
        (lambda: t.CLASSIFY.flow(1, [IP], [goto(t.DELIVER)]), ["classify", "may not go to table 100"]),
        (lambda: t.ROUTE.flow(1, [IP], [Goto(10)]), ["route", "may not go to table 10"]),
        (
            lambda: t.ROUTE.flow(1, [IP], [goto(t.TENANT), SetField(f.OUTPUT_PORT, 1)]),
            ["route", "before its last action"],
        ),
        (lambda: t.POD_IN.flow(1, [IP], [Output(f.OUTPUT_PORT)]), ["pod-in", "may not output"]),
        (lambda: t.ROUTE.flow(1, [IP], [OutputInPort()]), ["route", "may not output"]),
        (
            lambda: t.ROUTE.flow(1, [(f.IP_DST.whole, 1)], [goto(t.TENANT)]),
            ["route", "nw_dst without its protocol"],
        ),
        (
            lambda: t.POD_IN.drop(1, [IP, (f.UDP_DST.whole, 1)], Drop.POD_VXLAN),
            ["pod-in", "tp_dst without its protocol"],
        ),
        (lambda: t.ARP.flow(1, [IP], [SetField(f.ARP_OP.whole, 2)]), ["arp", "arp_op without its protocol"]),
        (lambda: t.ROUTE.flow(0, [IP], [goto(t.TENANT)]), ["route", "priority 0"]),
        (lambda: t.ROUTE.flow(1, [IP], []), ["route", "use drop()"]),
        (
            lambda: t.ROUTE.flow(1, [IP], [SetField(f.DESTINATION_VNI, 1 << 24)]),
            ["destination VNI", "does not fit"],
        ),
    ],
)
def test_a_table_refuses_what_it_does_not_declare(make: Callable[[], Flow], names: list[str]) -> None:
    with pytest.raises(PipelineError) as caught:
        make()
    for name in names:
        assert name in str(caught.value)


def test_every_table_is_reached_and_leads_forward() -> None:
    """Only conntrack leads back, and never to where a packet came in; what is called by resubmit returns to its caller."""
    waiting, reached = [t.CLASSIFY], {t.CLASSIFY.number}
    called = {number for table in t.TABLES.values() for number in table.calls}
    while waiting:
        table = waiting.pop()
        assert all(following > table.number for following in table.next)
        assert table.next or table.outputs or table.tracked or table.number in called
        assert all(number >= t.SERVICE.number for number in table.tracked)
        assert bool(table.tracked) <= bool(table.zones)
        for number in {*table.next, *table.tracked, *table.calls, *table.learns} - reached:
            reached.add(number)
            waiting.append(t.TABLES[number])
    assert reached == t.TABLES.keys()
    assert list(t.TABLES) == sorted(t.TABLES)
    assert {50, 90}.isdisjoint(t.TABLES)


def test_the_end_of_each_table_is_a_drop_that_matches_everything() -> None:
    for table in t.TABLES.values():
        end = table.end()
        assert (end.priority, end.match, end.actions) == (0, (), ())
        assert str(describe(end.cookie)) == f"{table.stage.label}: drop {table.miss.label}"


@pytest.mark.parametrize(
    "layout",
    [
        [f.SOURCE_VNI, f.Bits("late", f.REG0, 23, 2)],
        [f.Bits("wide", f.REG0, 20, 13)],
        [f.Bits("none", f.REG0, 0, 0)],
    ],
)
def test_bits_that_overlap_or_do_not_fit_are_refused(layout: list[f.Bits]) -> None:
    with pytest.raises(PipelineError):
        f.check_layout(layout)


def test_a_match_joins_bits_of_one_field_and_refuses_a_contradiction() -> None:
    (test,) = match_of([(f.SOURCE_VNI, 5), (f.ORIGIN, f.Origin.POD)])
    assert (test.value, test.mask) == (0x2000005, 0x3FFFFFF)
    with pytest.raises(PipelineError, match="reg0"):
        match_of([(f.SOURCE_VNI, 5), (f.Bits("low", f.REG0, 0, 1), 0)])


def test_the_order_in_which_a_match_is_written_makes_no_difference() -> None:
    written = [IP, (f.IN_PORT.whole, 3), (f.IP_SRC.whole, 9)]
    assert match_of(written) == match_of(reversed(written))


def test_cookies_say_what_they_were_made_of() -> None:
    for stage in StageId:
        for about in (0, 10, 0xFFFFFFFF):
            meaning = describe(cookie_of(stage, about))
            assert meaning is not None
            assert (meaning.stage, meaning.about, meaning.drop) == (stage, about, None)
        for reason in Drop:
            meaning = describe(drop_cookie(stage, reason))
            assert meaning is not None
            assert (meaning.stage, meaning.drop) == (stage, reason)
    assert str(describe(cookie_of(StageId.TENANT, 10))) == "tenant: VNI 10"
    assert str(describe(cookie_of(StageId.ROUTE, 0xAC0B0002))) == "route: 172.11.0.2"
    assert str(describe(cookie_of(StageId.ROUTE))) == "route"


@pytest.mark.parametrize(
    "cookie", [0, 5, 0x1234 << 48, 0x6B6F << 48, drop_cookie(StageId.ARP, Drop.IPV6) + 0x1000]
)
def test_foreign_and_unknown_cookies_say_nothing(cookie: int) -> None:
    assert describe(cookie) is None


def test_drops_have_different_numbers_names_and_sentences() -> None:
    assert len({int(reason) for reason in Drop}) == len(Drop)
    assert len({reason.meaning for reason in Drop}) == len(Drop)
    assert Drop(10) is Drop.VLAN_TAGGED
    assert Drop.VLAN_TAGGED.label == "vlan-tagged"
