"""Netlink attributes: what is packed is read back, and truncated input ends quietly."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.dataplane import netlink as nl

payloads = st.binary(max_size=40)
kinds = st.integers(0, 0x3FFF)


@given(st.dictionaries(kinds, payloads, max_size=8))
def test_attributes_come_back(wanted: dict[int, bytes]) -> None:
    packed = b"".join(nl.attr(kind, payload) for kind, payload in wanted.items())
    assert len(packed) % 4 == 0
    assert nl.attributes(packed) == wanted


@given(st.dictionaries(kinds, payloads, min_size=1, max_size=4), kinds)
def test_nested_attributes_come_back_without_the_flag(wanted: dict[int, bytes], outer: int) -> None:
    inner = [nl.attr(kind, payload) for kind, payload in wanted.items()]
    assert nl.attributes(nl.attributes(nl.nest(outer, *inner))[outer]) == wanted


@given(st.binary(max_size=64))
def test_any_octets_end(noise: bytes) -> None:
    for payload in nl.attributes(noise).values():
        assert len(payload) <= len(noise)


@given(st.integers(0, 2**32 - 1))
def test_numbers_come_back(value: int) -> None:
    assert nl.number(nl.attributes(nl.u32(1, value))[1]) == value
    assert nl.number(struct.pack("=B", value & 255)) == value & 255


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
def test_strings_come_back(value: str) -> None:
    assert nl.string(nl.attributes(nl.text(3, value))[3]) == value
