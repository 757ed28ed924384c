"""Former subnets: the exact key and JSON, what is refused and how it is said, keys of others."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import FormerSubnet
from k8s_ovs.sources.former import decode_former, encode_former
from k8s_ovs.sources.records import Keys

KEYS = Keys("/k8s.ovs.com/ovs/network", "k8ssdn")
KEY = KEYS.former("node1")


def test_the_key_is_below_the_prefix_and_outside_what_agents_watch() -> None:
    assert KEY == "/k8s.ovs.com/ovs/network/former/k8ssdn/node1"
    assert not KEY.startswith(KEYS.root)
    assert not KEYS.owns(KEY)


def test_the_exact_json_and_keys_of_others() -> None:
    former = FormerSubnet("node1", IPv4Network("172.11.4.0/22"), {"Note": "mine"})
    value = b'{"Host":"node1","Subnet":"172.11.4.0/22","Note":"mine"}'
    assert encode_former(KEY, former) == value
    assert (decode_former(KEY, value), decode_former(KEY, value).extra) == (former, {"Note": "mine"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"Host":"node2","Subnet":"172.11.4.0/22"}', "Host is 'node2'"),
        ('{"Subnet":"172.11.4.0/22"}', "Host is None"),
        ('{"Host":"node1"}', "Subnet is missing"),
        ('{"Host":"node1","Subnet":""}', "Subnet is missing"),
        ('{"Host":"node1","Subnet":7}', "Subnet is 7"),
        ('{"Host":"node1","Subnet":"172.11.4.1/22"}', "Subnet is '172.11.4.1/22'"),
        ('{"Host":"node1","Subnet":"172.11.4.0/31"}', "Subnet is '172.11.4.0/31'"),
    ],
)
def test_a_malformed_one_says_what_is_wrong_and_what_to_do(value: str, reason: str) -> None:
    with pytest.raises(RecordError) as info:
        decode_former(KEY, value.encode())
    assert info.value.key == KEY
    assert reason in info.value.reason
    assert info.value.remedy


@pytest.mark.parametrize("host", ["", "a b", "a/b"])
def test_a_key_that_names_no_host_is_refused(host: str) -> None:
    with pytest.raises(RecordError, match="cannot be a host"):
        decode_former(KEYS.former(host), b'{"Host":"x","Subnet":"172.11.4.0/22"}', in_key=host)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_stands_there_is_read_or_refused(value: bytes) -> None:
    try:
        former = decode_former(KEY, value)
    except RecordError as err:
        refusal = err
    else:
        assert decode_former(KEY, encode_former(KEY, former)) == former
        return
    assert (refusal.key, bool(refusal.remedy)) == (KEY, True)
