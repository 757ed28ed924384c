"""How evenly a Service's group spreads connections: the switch's own way of dealing out hashes, over the groups we make."""

from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest

from k8s_ovs.flows.flow import Action
from k8s_ovs.flows.group import MAX_BUCKETS, Bucket, Group, GroupId
from k8s_ovs.flows.stages.frontends import DP_HASH_MOST, groups
from k8s_ovs.model.records import BackendKey, Frontend, FrontendKey
from k8s_ovs.model.services import Protocol

FIRST = IPv4Address("172.11.0.2")


def frontend(endpoints: int, affinity: int | None = None, protocol: Protocol = Protocol.TCP) -> Frontend:
    key = FrontendKey(IPv4Address("10.96.0.10"), protocol, 80)
    backends = tuple(BackendKey(FIRST + number, protocol, 8080) for number in range(endpoints))
    return Frontend(key, "red", "web", (), True, backends, affinity)


def hashes_of(group: Group) -> int:
    """How many hashes the switch uses (ofproto-dpif.c, group_setup_dp_hash_table): a power of two, 16 or more."""
    weights = [bucket.weight for bucket in group.buckets]
    slots = -(-sum(weights) // min(weights))
    return max(16, 1 << (slots - 1).bit_length())


def deal(buckets: Sequence[Bucket], count: int) -> Counter[tuple[Action, ...]]:
    """Webster's method, by which it gives hashes to buckets (same place); the hashes of each endpoint."""
    got = [0] * len(buckets)
    for _ in range(count):
        winner = max(range(len(buckets)), key=lambda index: buckets[index].weight / (2 * got[index] + 1))
        got[winner] += 1
    dealt: Counter[tuple[Action, ...]] = Counter()
    for bucket, number in zip(buckets, got, strict=True):
        dealt[bucket.actions] += number
    return dealt


@pytest.mark.parametrize("endpoints", range(1, DP_HASH_MOST + 1))
def test_every_endpoint_gets_about_the_mean(endpoints: int) -> None:
    """Far enough from half and twice the mean that chance, in 20,000 connections, does not get there."""
    (group,) = groups(frontend(endpoints), GroupId(1))
    count = hashes_of(group)
    dealt = deal(group.buckets, count)
    assert group.method == "dp_hash"
    assert count <= 256, "with more the switch takes another method"
    assert len(dealt) == endpoints
    mean = count / endpoints
    assert 0.66 * mean <= min(dealt.values())
    assert max(dealt.values()) <= 1.5 * mean


def test_few_endpoints_need_few_hashes() -> None:
    """Each hash is a cached flow for each client."""
    wanted = {1: 16, 2: 16, 3: 16, 7: 16, 9: 32, 10: 32, 100: 256}
    found = {endpoints: hashes_of(next(groups(frontend(endpoints), GroupId(1)))) for endpoints in wanted}
    assert found == wanted


@pytest.mark.parametrize("endpoints", [2, 10, 30, 100, 128, 129, MAX_BUCKETS, MAX_BUCKETS + 1])
def test_choices_have_ids_of_their_own_and_weights(endpoints: int) -> None:
    for group in groups(frontend(endpoints), GroupId(1)):
        assert len({bucket.id for bucket in group.buckets}) == len(group.buckets) <= MAX_BUCKETS
        assert all(bucket.weight > 0 for bucket in group.buckets)


@pytest.mark.parametrize(("endpoints", "affinity"), [(DP_HASH_MOST + 1, None), (30, 60)])
def test_hash_gives_each_endpoint_one_choice(endpoints: int, affinity: int | None) -> None:
    (group,) = groups(frontend(endpoints, affinity), GroupId(1))
    assert group.method.startswith("hash")
    assert {bucket.weight for bucket in group.buckets} == {100}
    assert len(group.buckets) == endpoints


@pytest.mark.parametrize("protocol", Protocol)
def test_hash_takes_the_clients_port_of_every_protocol(protocol: Protocol) -> None:
    """By default the switch leaves out the ports of UDP: seen with OVS 3.1."""
    (group,) = groups(frontend(DP_HASH_MOST + 1, protocol=protocol), GroupId(1))
    assert group.method == f"hash,fields(ip_src,{protocol.name.lower()}_src)"
