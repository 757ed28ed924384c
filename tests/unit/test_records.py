import json
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import (
    MAX_VNI,
    MIN_TENANT_VNI,
    AgentReport,
    HostSubnet,
    NetNamespace,
    StillUsed,
    Tenant,
    TenantChange,
    TenantStep,
    Vni,
)
from k8s_ovs.sources.jsonrecord import MAX_RECORD
from k8s_ovs.sources.records import (
    ForbiddenNetId,
    Keys,
    config_key,
    config_keys,
    decode_namespace,
    decode_report,
    decode_subnet,
    decode_tenant,
    encode_report,
    error_of,
    range_end,
    with_error,
)

KEYS = Keys(DEFAULT_PREFIX, "k8ssdn")
SUBNET_KEY = "/k8s.ovs.com/ovs/network/k8ssdn/subnets/192.0.2.1"
RED_KEY = "/k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/red"
TENANT_KEY = "/k8s.ovs.com/ovs/network/k8ssdn/tenants/red"
REPORT_KEY = "/k8s.ovs.com/ovs/network/agents/k8ssdn/192.0.2.1"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(
    st.text().filter(
        lambda key: (
            key not in ("Host", "HostIP", "Subnet", "Assign", "NetName", "NetID", "Action", "Namespace")
        )
    ),
    json_values,
    max_size=3,
)
labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
hosts = st.from_regex(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,60}", fullmatch=True)
net_ids = st.none() | st.just(0) | st.integers(MIN_TENANT_VNI, MAX_VNI)
subnets = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(8, 30),
)
host_subnets = st.builds(
    HostSubnet,
    hosts,
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.none() | subnets,
    st.booleans(),
    extras,
)
net_namespaces = st.builds(
    lambda name, net_id, action, extra: NetNamespace(name, net_id, *action, extra),
    labels,
    net_ids.map(lambda number: None if number is None else Vni(number)),
    st.tuples(st.sampled_from(["", "isolate", "global"]), st.just("") | labels)
    | st.tuples(st.just("join"), labels),
    extras,
)
vnis = (st.just(0) | st.integers(MIN_TENANT_VNI, MAX_VNI)).map(Vni)
tenants = st.builds(
    Tenant,
    labels,
    vnis,
    st.none()
    | st.builds(
        TenantChange,
        st.from_regex(r"[0-9a-f]{1,16}", fullmatch=True),
        st.sampled_from(TenantStep),
        vnis,
        vnis,
        st.sampled_from(["join", "isolate", "global", ""]),
        st.just("") | labels,
    ),
    uid=st.text(max_size=40),
)
reports = st.builds(
    AgentReport,
    hosts,
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.dictionaries(labels, st.text(max_size=30), max_size=3),
)
someones_json = st.fixed_dictionaries(
    {},
    optional={
        key: json_values | st.sampled_from(["192.0.2.1", "red", "172.11.0.0/22", "join", 10, True])
        for key in (
            *("Host", "HostIP", "Subnet", "Assign", "NetName", "NetID", "Action", "Namespace"),
            *("Change", "Applied"),
        )
    },
).map(lambda data: json.dumps(data).encode())


def test_the_keys_are_the_seeds() -> None:
    assert KEYS.subnet(IPv4Address("192.0.2.1")) == SUBNET_KEY
    assert KEYS.namespace("red") == RED_KEY
    assert KEYS.tenant("red") == TENANT_KEY
    assert KEYS.report(IPv4Address("192.0.2.1")) == REPORT_KEY
    assert config_key(DEFAULT_PREFIX) == "/k8s.ovs.com/ovs/network/config"
    assert config_keys(DEFAULT_PREFIX, None) == ("/k8s.ovs.com/ovs/network/config",)
    assert config_keys("p", "blue") == ("/p/blue/config", "/p/config")


@pytest.mark.parametrize(
    ("prefix", "key"), [("/a/b/", "/a/b/config"), ("a", "/a/config"), ("/", "/config"), ("", "/config")]
)
def test_slashes_around_the_prefix_do_not_matter(prefix: str, key: str) -> None:
    assert config_key(prefix) == key


def test_only_keys_of_records_are_owned() -> None:
    assert KEYS.owns(SUBNET_KEY)
    assert KEYS.owns(RED_KEY)
    assert KEYS.owns(TENANT_KEY)
    assert not KEYS.owns(REPORT_KEY)
    assert not KEYS.owns(KEYS.root + "config")
    assert not KEYS.owns("/k8s.ovs.com/ovs/network/other/subnets/192.0.2.1")


@given(st.text(min_size=1))
def test_the_end_of_a_range_is_behind_all_its_keys(suffix: str) -> None:
    begin, end = KEYS.subnets.encode(), range_end(KEYS.subnets)
    assert begin < KEYS.subnets.encode() + suffix.encode(errors="surrogatepass") < end
    assert not begin <= KEYS.namespaces.encode() < end


@given(host_subnets | net_namespaces)
def test_round_trip(record: HostSubnet | NetNamespace) -> None:
    key, value = KEYS.encode(record)
    again = KEYS.decode(key, value)
    assert again == record
    assert again.extra == record.extra
    assert KEYS.encode(again) == (key, value)


@given(tenants)
def test_round_trip_of_tenants(tenant: Tenant) -> None:
    key, value = KEYS.encode(tenant)
    assert KEYS.decode(key, value) == tenant


@given(reports)
def test_round_trip_of_reports(report: AgentReport) -> None:
    key = KEYS.report(report.host_ip)
    assert decode_report(key, encode_report(key, report)) == report


@given(st.binary() | json_values.map(lambda data: json.dumps(data).encode()) | someones_json, st.text())
def test_anything_is_a_record_or_a_record_error(value: bytes, suffix: str) -> None:
    keys = [SUBNET_KEY, RED_KEY, TENANT_KEY]
    for key in (*keys, KEYS.subnets + suffix, KEYS.namespaces + suffix, KEYS.tenants + suffix):
        try:
            record = KEYS.decode(key, value)
        except RecordError as err:
            refusal = err
        else:
            assert KEYS.decode(*KEYS.encode(record)) == record
            continue
        assert refusal.key == key
        assert refusal.remedy


@given(st.binary() | json_values.map(lambda data: json.dumps(data).encode()) | someones_json)
def test_anything_is_a_report_or_a_record_error(value: bytes) -> None:
    try:
        report = decode_report(REPORT_KEY, value)
    except RecordError as err:
        refusal = err
    else:
        assert decode_report(REPORT_KEY, encode_report(REPORT_KEY, report)) == report
        return
    assert (refusal.key, bool(refusal.remedy)) == (REPORT_KEY, True)


def test_the_exact_json_of_what_is_ours_alone() -> None:
    red = Tenant("red", Vni(10))
    assert KEYS.encode(red) == (TENANT_KEY, b'{"Namespace":"red","NetID":10}')
    change = TenantChange("1f3a", TenantStep.SEND, Vni(10), Vni(12), "join", "blue")
    assert KEYS.encode(Tenant("red", Vni(10), change))[1] == (
        b'{"Namespace":"red","NetID":10,'
        b'"Change":{"ID":"1f3a","Step":"send","Old":10,"New":12,"Action":"join","Other":"blue"}}'
    )
    report = AgentReport("node1", IPv4Address("192.0.2.1"), {"red": change.token})
    assert encode_report(REPORT_KEY, report) == (
        b'{"Host":"node1","HostIP":"192.0.2.1","Applied":{"red":"1f3a/send"}}'
    )
    used = StillUsed(IPv4Network("172.11.4.0/22"), {"red": Vni(10)})
    value = encode_report(REPORT_KEY, replace(report, applied={}, used=used))
    assert value == (
        b'{"Host":"node1","HostIP":"192.0.2.1","Applied":{},'
        b'"Used":{"Subnet":"172.11.4.0/22","NetIDs":{"red":10}}}'
    )
    assert decode_report(REPORT_KEY, value).used == used


@pytest.mark.parametrize(
    ("used", "reason"),
    [
        ([], "Used is []"),
        ({"Subnet": ""}, "Used is {'Subnet': ''}"),
        ({"NetIDs": {"red": 5}}, "NetID 5 is reserved"),
        ({"Subnet": "here", "NetIDs": {}}, "Subnet is 'here'"),
    ],
)
def test_a_report_of_what_is_still_used_says_what_is_wrong(used: object, reason: str) -> None:
    body = {"Host": "node1", "HostIP": "192.0.2.1", "Applied": {}, "Used": used}
    with pytest.raises(RecordError, match=re.escape(reason)):
        decode_report(REPORT_KEY, json.dumps(body).encode())


TENANT = {"Namespace": "red", "NetID": 10}
CHANGE = {"ID": "1f", "Step": "send", "Old": 10, "New": 0, "Action": "global", "Other": ""}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Namespace": "blue"}, "Namespace is 'blue'"),
        ({"NetID": None}, "NetID is missing"),
        ({"NetID": 5}, "NetID 5 is reserved"),
        ({"UID": 7}, "UID is 7"),
        ({"Change": []}, "Change is not a JSON object"),
        ({"Change": CHANGE | {"ID": "XY"}}, "ID of the Change is 'XY'"),
        ({"Change": CHANGE | {"Step": "done"}}, "Step of the Change is 'done'"),
        ({"Change": CHANGE | {"Step": ["send"]}}, "Step of the Change is ['send']"),
        ({"Change": CHANGE | {"Action": "merge"}}, "Action of the Change is 'merge'"),
        ({"Change": CHANGE | {"Other": 1}}, "Other of the Change is 1"),
        ({"Change": CHANGE | {"New": None}}, "Old or New of the Change is missing"),
        ({"Change": CHANGE | {"Old": 3}}, "NetID 3 is reserved"),
    ],
)
def test_a_wrong_tenant_says_what_is_wrong(change: dict[str, object], reason: str) -> None:
    with pytest.raises(RecordError) as info:
        decode_tenant(TENANT_KEY, json.dumps(TENANT | change).encode())
    assert info.value.key == TENANT_KEY
    assert reason in info.value.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"HostIP": "192.0.2.2"}, "HostIP is '192.0.2.2'"),
        ({"Host": ""}, "Host is ''"),
        ({"Applied": None}, "Applied is None"),
        ({"Applied": {"red": 1}}, "Applied says 1 of 'red'"),
        ({"Applied": {"Red": "x"}}, "Applied says 'x' of 'Red'"),
    ],
)
def test_a_wrong_report_says_what_is_wrong(change: dict[str, object], reason: str) -> None:
    good = {"Host": "node1", "HostIP": "192.0.2.1", "Applied": {}}
    with pytest.raises(RecordError) as info:
        decode_report(REPORT_KEY, json.dumps(good | change).encode())
    assert reason in info.value.reason


def test_a_report_under_no_address() -> None:
    with pytest.raises(RecordError, match="not in an IPv4 address"):
        decode_report(KEYS.reports + "node1", b"{}")


@pytest.mark.parametrize("number", [5, -1, 1 << 24])
def test_of_a_forbidden_net_id_all_else_can_be_read(number: int) -> None:
    body = {"NetName": "red", "NetID": number, "Action": "join", "Namespace": "blue", "x": 1}
    with pytest.raises(ForbiddenNetId) as info:
        decode_namespace(RED_KEY, json.dumps(body).encode())
    assert info.value.record == NetNamespace("red", None, "join", "blue")
    assert info.value.record.extra == {"x": 1}


def test_the_reason_of_a_refusal_stands_in_the_record_until_it_is_taken_out() -> None:
    asked = NetNamespace("red", Vni(10), extra={"x": 1})
    refused = with_error(asked, "no Namespace blue")
    assert KEYS.decode(*KEYS.encode(refused)).extra == {"x": 1, "Error": "no Namespace blue"}
    assert (error_of(refused), error_of(asked)) == ("no Namespace blue", "")
    assert with_error(refused, "").extra == {"x": 1}


def test_the_exact_json() -> None:
    subnet = HostSubnet("node1", IPv4Address("192.0.2.1"), IPv4Network("172.11.4.0/22"), extra={"x": [1]})
    assert KEYS.encode(subnet) == (
        SUBNET_KEY,
        b'{"Host":"node1","HostIP":"192.0.2.1","Subnet":"172.11.4.0/22","Assign":false,"x":[1]}',
    )
    red = NetNamespace("red", Vni(10))
    assert KEYS.encode(red) == (RED_KEY, b'{"NetName":"red","NetID":10,"Action":"","Namespace":""}')
    asked = NetNamespace("red", None, "join", "blue", {"NetName": "never"})
    assert KEYS.encode(asked)[1] == b'{"NetName":"red","Action":"join","Namespace":"blue"}'


def test_what_people_write_by_hand() -> None:
    asked = decode_subnet(SUBNET_KEY, b' {"Host":"lb","HostIP":"192.0.2.1","Subnet":"","Assign":true}\n')
    assert asked == HostSubnet("lb", IPv4Address("192.0.2.1"), None, assign=True)
    join = decode_namespace(RED_KEY, b'{"NetName":"red","Action":"join","Namespace":"blue"}')
    assert join == NetNamespace("red", None, "join", "blue")
    assert decode_namespace(RED_KEY, b'{"NetName":"red","NetID":0}') == NetNamespace("red", Vni(0))


SUBNET = {"Host": "node1", "HostIP": "192.0.2.1", "Subnet": "172.11.4.0/22", "Assign": False}


@pytest.mark.parametrize(
    ("change", "reason", "remedy"),
    [
        ({"HostIP": "192.0.2.2"}, "HostIP is '192.0.2.2'", '"HostIP":"192.0.2.1"'),
        ({"HostIP": None}, "HostIP is None", "as in the key"),
        ({"Host": ""}, "Host is ''", "host's name"),
        ({"Host": "a b"}, "Host is 'a b'", "host's name"),
        ({"Host": 1}, "Host is 1", "host's name"),
        ({"Assign": "yes"}, "Assign is 'yes'", "true"),
        ({"Assign": 1}, "Assign is 1", "true"),
        ({"Subnet": "172.11.4.0/33"}, "Subnet is '172.11.4.0/33'", "CIDR"),
        ({"Subnet": "172.11.4.1/22"}, "has host bits set", "CIDR"),
        ({"Subnet": "172.11.4.0"}, "Subnet is '172.11.4.0'", "/8 to /30"),
        ({"Subnet": "172.11.4.0/31"}, "Subnet is '172.11.4.0/31'", "/8 to /30"),
        ({"Subnet": "172.11.4.0/255.255.252.0"}, "Subnet is", "/8 to /30"),
        ({"Subnet": 7}, "not a string", "CIDR"),
    ],
)
def test_a_wrong_host_subnet_says_what_and_how_to_mend(
    change: dict[str, object], reason: str, remedy: str
) -> None:
    with pytest.raises(RecordError) as info:
        decode_subnet(SUBNET_KEY, json.dumps(SUBNET | change).encode())
    assert info.value.key == SUBNET_KEY
    assert reason in info.value.reason
    assert remedy in info.value.remedy


@pytest.mark.parametrize(
    ("change", "reason", "remedy"),
    [
        ({"NetName": "blue"}, "NetName is 'blue'", '"NetName":"red"'),
        ({"NetID": 9}, "NetID 9 is reserved", "10 to 16777215, or 0"),
        ({"NetID": 1}, "NetID 1 is reserved", "10 to 16777215, or 0"),
        ({"NetID": -1}, "does not fit in 24 bits", "10 to 16777215, or 0"),
        ({"NetID": 16777216}, "does not fit in 24 bits", "10 to 16777215, or 0"),
        ({"NetID": "10"}, "NetID is '10'", "a number"),
        ({"NetID": 10.0}, "NetID is 10.0", "a number"),
        ({"NetID": True}, "NetID is True", "a number"),
        ({"Action": "merge"}, "Action is 'merge'", "join, isolate or global"),
        ({"Action": ["join"]}, "Action is ['join']", "join, isolate or global"),
        ({"Action": "join", "Namespace": ""}, "Namespace is empty", '"Namespace":"blue"'),
        ({"Action": "join", "Namespace": "Blue"}, "Namespace is 'Blue'", "name of the Namespace"),
        ({"Namespace": 3}, "Namespace is 3", "name of the Namespace"),
    ],
)
def test_a_wrong_net_namespace_says_what_and_how_to_mend(
    change: dict[str, object], reason: str, remedy: str
) -> None:
    good = {"NetName": "red", "NetID": 10, "Action": "", "Namespace": ""}
    with pytest.raises(RecordError) as info:
        decode_namespace(RED_KEY, json.dumps(good | change).encode())
    assert info.value.key == RED_KEY
    assert reason in info.value.reason
    assert remedy in info.value.remedy


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"NetName":"red","x":NaN}', "NaN is no JSON number"),
        (b'{"NetName":"red","x":1e999}', "1e999 is too large"),
        (b" " * (MAX_RECORD + 1), "octets long"),
    ],
)
def test_what_is_no_json_object(value: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match="write an object like") as info:
        decode_namespace(RED_KEY, value)
    assert reason in info.value.reason


@pytest.mark.parametrize(
    "key",
    [
        KEYS.subnets + "node1",
        KEYS.subnets + "192.0.2.01",
        KEYS.subnets + "192.0.2.1/24",
        KEYS.subnets + "x/192.0.2.1",
        KEYS.subnets,
        KEYS.namespaces,
        KEYS.namespaces + "Red",
        KEYS.namespaces + "a/b",
        KEYS.namespaces + "netnamespaces/red",
    ],
)
def test_a_key_that_names_nothing(key: str) -> None:
    body = SUBNET | {"NetName": key.rpartition("netnamespaces/")[2]}
    with pytest.raises(RecordError, match="delete it, and write it under"):
        KEYS.decode(key, json.dumps(body).encode())


def test_a_record_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(RecordError, match="reserved"):
        KEYS.encode(NetNamespace("red", Vni(3)))
    with pytest.raises(RecordError, match="Host is"):
        KEYS.encode(HostSubnet("", IPv4Address("192.0.2.1"), None))
