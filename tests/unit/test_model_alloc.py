"""Allocators: nothing twice, nothing outside, rotation, clear exhaustion, and no scan of what is free."""

import time
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.errors import ExhaustedError
from k8s_ovs.model.alloc import AddressPool, SubnetAllocator, VniAllocator
from k8s_ovs.model.types import MAX_VNI, Vni, gateway_of

PROPERTY = settings(max_examples=60, deadline=None)
POOL = IPv4Network("172.11.4.0/29")


def config_of(network: str, host_bits: int) -> NetworkConfig:
    return NetworkConfig("x", IPv4Network(network), host_bits, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT)


def test_addresses_are_all_but_network_gateway_and_broadcast() -> None:
    pool = AddressPool(POOL, gateway_of(POOL))
    used: list[IPv4Address] = []
    while len(used) < pool.size:
        used.append(pool.take(used))
    assert used == [IPv4Address(f"172.11.4.{last}") for last in range(2, 7)]
    with pytest.raises(
        ExhaustedError, match=r"no free address in 172\.11\.4\.0/29 \(5 in use\): delete pods"
    ):
        pool.take(used)


def test_the_address_freed_last_is_given_last() -> None:
    pool = AddressPool(POOL, gateway_of(POOL))
    first = pool.take([])
    assert [pool.take([]) for _ in range(5)] == [first + 1, first + 2, first + 3, first + 4, first]


@PROPERTY
@given(st.sets(st.integers(0, 9)))
def test_there_is_room_as_long_as_an_address_can_be_taken(used: set[int]) -> None:
    """Whatever else is in use: the gateway, addresses of other subnets."""
    in_use = {POOL.network_address + number for number in used}
    pool = AddressPool(POOL, gateway_of(POOL))
    try:
        pool.take(in_use)
    except ExhaustedError:
        assert not pool.has_room(in_use)
    else:
        assert pool.has_room(in_use)


@pytest.mark.parametrize(("after", "expected"), [("172.11.4.4", "172.11.4.5"), ("172.11.4.6", "172.11.4.2")])
def test_a_pool_goes_on_after_the_last_address_given_before_a_restart(after: str, expected: str) -> None:
    pool = AddressPool(POOL, gateway_of(POOL), after=IPv4Address(after))
    assert pool.take([]) == IPv4Address(expected)


@PROPERTY
@given(st.integers(2, 8), st.sets(st.integers(0, 260)), st.integers(1, 300))
def test_an_address_is_never_in_use_and_always_a_pods(bits: int, used: set[int], rounds: int) -> None:
    subnet = IPv4Network((int(IPv4Address("172.11.4.0")), 32 - bits))
    in_use = {subnet.network_address + number for number in used}
    pods = set(list(subnet.hosts())[1:])
    pool = AddressPool(subnet, gateway_of(subnet))
    assert pool.size == len(pods)
    for _ in range(rounds):
        if pods <= in_use:
            with pytest.raises(ExhaustedError):
                pool.take(in_use)
            return
        assert pool.take(in_use) in pods - in_use


@pytest.mark.parametrize(
    ("network", "bits", "count"),
    [
        ("10.0.0.0/8", 24, 1),
        ("10.0.0.0/8", 22, 4),
        ("172.11.0.0/16", 10, 64),
        ("172.11.0.0/30", 2, 1),
        ("172.11.0.0/24", 3, 32),
    ],
)
def test_every_piece_of_the_network_is_given_once(network: str, bits: int, count: int) -> None:
    config = config_of(network, bits)
    allocator = SubnetAllocator(config)
    given_out = [allocator.allocate([]) for _ in range(count)]
    assert given_out == list(config.network.subnets(new_prefix=32 - bits))
    assert allocator.allocate([]) == given_out[0]
    with pytest.raises(ExhaustedError, match=r"no free host subnet in .*remove unused"):
        allocator.allocate(given_out)


@PROPERTY
@given(
    st.integers(2, 6),
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 1023), st.integers(18, 32)), max_size=40),
)
def test_a_subnet_overlaps_nothing_taken_whatever_its_size(
    bits: int, rounds: int, foreign: list[tuple[int, int]]
) -> None:
    config = config_of("172.11.0.0/22", bits)
    base = int(IPv4Address("172.11.0.0"))
    taken = [IPv4Network((base + number, length), strict=False) for number, length in foreign]
    taken.append(IPv4Network("192.168.0.0/16"))
    allocator = SubnetAllocator(config)
    pieces = list(config.network.subnets(new_prefix=32 - bits))
    free = {piece for piece in pieces if not any(piece.overlaps(other) for other in taken)}
    for _ in range(rounds + 1):
        if not free:
            with pytest.raises(ExhaustedError):
                allocator.allocate(taken)
            return
        subnet = allocator.allocate(taken)
        assert subnet in free
        free.remove(subnet)
        taken.append(subnet)


def test_the_subnet_freed_last_is_given_last() -> None:
    allocator = SubnetAllocator(config_of("172.11.0.0/22", 8))
    first, second = allocator.allocate([]), allocator.allocate([])
    third = allocator.allocate([first])
    assert len({first, second, third}) == 3
    assert allocator.allocate([first]) == IPv4Network("172.11.3.0/24")
    assert allocator.allocate([first]) == second


def test_a_million_pieces_are_not_looked_at_one_by_one() -> None:
    allocator = SubnetAllocator(config_of("10.0.0.0/8", 4))
    taken = [IPv4Network((int(IPv4Address("10.0.0.0")) + (number << 4), 28)) for number in range(2000)]
    start = time.process_time()
    for _ in range(20):
        assert allocator.allocate([*taken, IPv4Network("10.0.0.0/9")]).subnet_of(IPv4Network("10.128.0.0/9"))
    assert time.process_time() - start < 2.0


def test_vnis_start_at_ten_and_go_round() -> None:
    allocator = VniAllocator()
    assert [allocator.allocate([]) for _ in range(3)] == [10, 11, 12]
    assert allocator.allocate([Vni(10)]) == 13  # 11 and 12 were freed just now


def test_a_fresh_allocator_goes_on_after_the_highest_taken() -> None:
    assert VniAllocator().allocate([Vni(0), Vni(10), Vni(40)]) == 41
    assert VniAllocator().allocate([MAX_VNI, Vni(10)]) == 11
    assert VniAllocator(after=Vni(20)).allocate([Vni(21)]) == 22


@PROPERTY
@given(st.sets(st.integers(10, 40)), st.integers(1, 60))
def test_a_vni_is_never_taken_and_never_reserved(taken: set[int], rounds: int) -> None:
    used = {Vni(vni) for vni in taken}
    allocator = VniAllocator(after=MAX_VNI)
    for _ in range(rounds):
        vni = allocator.allocate(used)
        assert vni not in used
        assert 10 <= vni <= MAX_VNI
        used.add(vni)


def test_vnis_can_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k8s_ovs.model.alloc.MAX_VNI", Vni(12))
    allocator = VniAllocator()
    with pytest.raises(ExhaustedError, match=r"no free VNI \(3 in use, 10 to 12\): delete unused Namespaces"):
        allocator.allocate([Vni(10), Vni(11), Vni(12)])
