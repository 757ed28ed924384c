"""Health in agents' reports: there and back, whatever else is there, and nobody's business but people's."""

import json
from dataclasses import asdict, fields
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.controller.changes import Patience
from k8s_ovs.controller.plan import ProblemKind
from k8s_ovs.model.types import AgentHealth, AgentReport, HostSubnet, Tenant, TenantChange, TenantStep, Vni
from k8s_ovs.sources.etcd.rangewatch import Batch, Listing
from k8s_ovs.sources.etcd.reportsaid import ReportsSaid, told_by
from k8s_ovs.sources.healthrecord import MAX_TEXT, encode_health
from k8s_ovs.sources.records import decode_report, encode_report
from k8s_ovs.sources.store import Snapshot

KEY = "/k8s.ovs.com/ovs/network/agents/k8ssdn/192.0.2.1"
IP = IPv4Address("192.0.2.1")
HEALTH = AgentHealth(
    version="0.1.0",
    since="2026-01-31T12:00:00Z",
    revision=7,
    trouble="no flows",
    notes="no news",
    pods=3,
    mtu=1450,
    drops={"pod-in/pod-spoofed-ip": 5},
    dropping={"pod-in/pod-spoofed-ip": 2},
    repairs={"flow": 1},
    last_error="no flows",
    last_error_at="2026-01-31T12:00:01Z",
)
HEALTH_NAMES = sorted(msgspec.convert(encode_health(HEALTH)["Health"], dict[str, object]))
texts, counts = (
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=8), st.integers(1, 1 << 60), max_size=3),
)
numbers = st.integers(0)
healths = st.builds(
    AgentHealth,
    *(texts, texts, numbers, texts, texts, numbers, numbers, counts, counts, counts, texts, texts),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def value(health: AgentHealth | None, applied: str = "") -> bytes:
    return encode_report(KEY, AgentReport("node1", IP, {"red": applied} if applied else {}, health=health))


@given(healths)
def test_health_survives_the_store(health: AgentHealth) -> None:
    assert decode_report(KEY, value(health)).health == health


def test_the_keys_of_the_json_are_what_other_versions_read() -> None:
    assert encode_health(HEALTH) == {
        "Health": {
            "Version": "0.1.0",
            "Since": "2026-01-31T12:00:00Z",
            "Revision": 7,
            "Trouble": "no flows",
            "Notes": "no news",
            "Pods": 3,
            "MTU": 1450,
            "Drops": {"pod-in/pod-spoofed-ip": 5},
            "Dropping": {"pod-in/pod-spoofed-ip": 2},
            "Repairs": {"flow": 1},
            "LastError": "no flows",
            "LastErrorAt": "2026-01-31T12:00:01Z",
        }
    }
    assert len(asdict(HEALTH)) == len(fields(AgentHealth)) == 12


def test_long_reasons_are_cut() -> None:
    found = decode_report(KEY, value(AgentHealth(trouble="x" * 10_000))).health
    assert found is not None
    assert len(found.trouble) == MAX_TEXT


@given(st.dictionaries(st.sampled_from(HEALTH_NAMES), anything) | anything)
def test_health_that_nobody_can_read_never_spoils_a_report(body: object) -> None:
    raw = json.dumps({"Host": "node1", "HostIP": str(IP), "Applied": {"red": "1f/send"}, "Health": body})
    report = decode_report(KEY, raw.encode())
    assert report.applied == {"red": "1f/send"}
    assert (report.health is None) == (not isinstance(body, dict))


def test_a_report_of_a_version_before_has_none() -> None:
    assert decode_report(KEY, b'{"Host":"node1","HostIP":"192.0.2.1","Applied":{}}').health is None


def test_health_alone_wakes_nobody_who_waits_for_reports() -> None:
    said = ReportsSaid()
    assert said.differs(Listing({KEY: value(None)}))
    assert not said.differs(Batch(2, [(KEY, value(HEALTH))]))
    assert said.differs(Batch(3, [(KEY, value(HEALTH, "1f/send"))]))
    assert not said.differs(Batch(4, [(KEY, value(None, "1f/send"))]))
    assert not said.differs(Batch(4, []))
    assert said.differs(Batch(5, [(KEY, None)]))
    assert not said.differs(Batch(6, [(KEY, None)]))
    assert said.differs(Batch(7, [(KEY, b"broken")]))
    assert said.differs(Batch(8, [(KEY, b"otherwise")]))
    assert said.differs(Listing({}))


@pytest.mark.parametrize(
    ("news", "revision"),
    [(Listing({}), 0), (Listing({"a": b"", "b": b""}, {"a": 7, "b": 5}), 7), (Batch(9, []), 9)],
)
def test_up_to_where_the_records_are_known(news: Listing | Batch, revision: int) -> None:
    assert told_by(news) == revision


def test_a_node_that_a_change_was_made_without_stays_named_although_it_tells_of_its_health() -> None:
    """What counts is what it has applied: an agent that hangs at its switch goes on telling how it fares."""
    change = TenantChange("1f", TenantStep.ACCEPT, Vni(10), Vni(11))
    subnet = HostSubnet("node1", IP, IPv4Network("172.11.0.0/22"))

    def snapshot(health: AgentHealth) -> Snapshot:
        report = decode_report(KEY, value(health))
        return Snapshot(
            1, {IP: subnet}, {}, tenants={"red": Tenant("red", Vni(10), change)}, reports={IP: report}
        )

    patience = Patience()
    tenant = snapshot(HEALTH).tenants["red"]
    assert not patience.through(tenant, snapshot(HEALTH), 0)
    assert patience.through(tenant, snapshot(HEALTH), 100)
    patience.forget(snapshot(AgentHealth(pods=9)))
    assert [problem.kind for problem in patience.problems(snapshot(HEALTH))] == [ProblemKind.NODE_BEHIND]
