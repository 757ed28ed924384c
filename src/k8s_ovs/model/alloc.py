"""Who gives out what there is only once: pod addresses, host subnets, VNIs.

Used by the agent (addresses) and the controller (subnets, VNIs). An allocator remembers only where it stopped; what is
taken is told with each call, from the records that are the truth. All three go round (next fit): what was freed last is
given again last, so that nobody inherits connections, caches or flows that are still on their way out.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import ExhaustedError
from k8s_ovs.model.types import MAX_VNI, MIN_TENANT_VNI, Vni


class AddressPool:
    """The pod addresses of one host subnet: all but the network, broadcast and gateway address."""

    def __init__(
        self, subnet: IPv4Network, gateway: IPv4Address, *, after: IPv4Address | None = None
    ) -> None:
        """`after` is the address to go on after (the last one given before a restart), if known."""
        self.subnet = subnet
        self.gateway = gateway
        self._first = int(subnet.network_address) + 1
        self._last = int(subnet.broadcast_address) - 1
        self._next = self._first if after is None else int(after) + 1

    @property
    def size(self) -> int:
        """How many pods the subnet has addresses for."""
        return self._last - self._first + 1 - (self._first <= int(self.gateway) <= self._last)

    def has_room(self, in_use: Iterable[IPv4Address]) -> bool:
        """Whether `take` finds an address."""
        numbers = {int(address) for address in in_use} - {int(self.gateway)}
        return sum(self._first <= number <= self._last for number in numbers) < self.size

    def take(self, in_use: Iterable[IPv4Address]) -> IPv4Address:
        """The next address that is not in use. Raises ExhaustedError."""
        used = {int(address) for address in in_use}
        used.add(int(self.gateway))
        total = self._last - self._first + 1
        start = self._next - self._first
        for step in range(min(total, len(used) + 1)):
            candidate = self._first + (start + step) % total
            if candidate not in used:
                self._next = candidate + 1
                return IPv4Address(candidate)
        raise ExhaustedError(
            f"no free address in {self.subnet} ({self.size} in use)",
            remedy="delete pods on this node or enlarge HostSubnetLength",
        )


class SubnetAllocator:
    """The host subnets of a cluster: the pod network cut into pieces of `1 << host_bits` addresses."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self._next = 0

    def allocate(self, taken: Iterable[IPv4Network]) -> IPv4Network:
        """The next piece that overlaps none of `taken`, whatever their sizes. Costs O(taken), not O(pieces).

        Raises ExhaustedError.
        """
        config = self.config
        blocked = self._blocked(taken)
        piece = _first_gap(blocked, self._next, config.host_subnets)
        if piece is None:
            piece = _first_gap(blocked, 0, config.host_subnets)
        if piece is None:
            raise ExhaustedError(
                f"no free host subnet in {config.network} ({config.host_subnets} of /{config.host_prefix}, all taken)",
                remedy="remove unused host subnets, or plan a larger Network or a smaller HostSubnetLength",
            )
        self._next = (piece + 1) % config.host_subnets
        return IPv4Network(
            (int(config.network.network_address) + (piece << config.host_bits), config.host_prefix)
        )

    def _blocked(self, taken: Iterable[IPv4Network]) -> list[tuple[int, int]]:
        """First and last number of the pieces that each taken subnet touches, sorted."""
        network, bits = self.config.network, self.config.host_bits
        base, top = int(network.network_address), int(network.broadcast_address)
        ranges = []
        for subnet in taken:
            first, last = int(subnet.network_address), int(subnet.broadcast_address)
            if first <= top and last >= base:
                ranges.append(((max(first, base) - base) >> bits, (min(last, top) - base) >> bits))
        return sorted(ranges)


class VniAllocator:
    """The VNIs of tenants: 10 to 16777215. 0 is global, 1 to 9 are reserved."""

    def __init__(self, *, after: Vni | None = None) -> None:
        """`after` is the VNI to go on after; None goes on after the highest taken, as a fresh leader should."""
        self._next = None if after is None else after + 1

    def allocate(self, taken: Iterable[Vni]) -> Vni:
        """The next VNI that is not taken. Raises ExhaustedError."""
        used = {vni for vni in taken if MIN_TENANT_VNI <= vni <= MAX_VNI}
        total = MAX_VNI - MIN_TENANT_VNI + 1
        if self._next is None:
            self._next = max(used, default=MIN_TENANT_VNI - 1) + 1
        start = self._next - MIN_TENANT_VNI
        for step in range(min(total, len(used) + 1)):
            candidate = Vni(MIN_TENANT_VNI + (start + step) % total)
            if candidate not in used:
                self._next = candidate + 1
                return candidate
        raise ExhaustedError(
            f"no free VNI ({total} in use, {MIN_TENANT_VNI} to {MAX_VNI})",
            remedy="delete unused Namespaces, or join Namespaces into one tenant",
        )


def _first_gap(blocked: list[tuple[int, int]], start: int, total: int) -> int | None:
    """The first number from `start` below `total` that no range of `blocked` (sorted) contains."""
    candidate = start
    for first, last in blocked:
        if last < candidate:
            continue
        if first > candidate:
            break
        candidate = last + 1
    return candidate if candidate < total else None
