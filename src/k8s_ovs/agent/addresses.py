"""Which pod addresses are free: what no lease in OVSDB names and no running ADD has taken.

For the agent's pods. The leases are asked for each time; only what is not in OVSDB yet is kept here, and the place
where the rotation stands.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.model.alloc import AddressPool


class AddressBook:
    """Hands out addresses of the host subnet in rotation. `leased` gives the addresses of all leases now."""

    def __init__(self, leased: Callable[[], Iterable[IPv4Address]]) -> None:
        self._leased = leased
        self._reserved: set[IPv4Address] = set()
        self._pool: AddressPool | None = None

    @property
    def reserved(self) -> frozenset[IPv4Address]:
        """Addresses that a running ADD has taken."""
        return frozenset(self._reserved)

    @contextmanager
    def take(self, subnet: IPv4Network, gateway: IPv4Address) -> Iterator[IPv4Address]:
        """A free address, kept for the block: from its end on, only a lease keeps it. Raises ExhaustedError."""
        leased = set(self._leased())
        pool = self._pool_of(subnet, gateway, leased)
        with self.keep(pool.take(leased | self._reserved)) as address:
            yield address

    @contextmanager
    def keep(self, address: IPv4Address) -> Iterator[IPv4Address]:
        """Keep `address` from being taken for the block, also while its lease is replaced."""
        self._reserved.add(address)
        try:
            yield address
        finally:
            self._reserved.discard(address)

    def _pool_of(self, subnet: IPv4Network, gateway: IPv4Address, leased: set[IPv4Address]) -> AddressPool:
        pool = self._pool
        if pool is None or (pool.subnet, pool.gateway) != (subnet, gateway):
            # After a restart, go on behind the highest lease: what was freed last is most likely below it.
            after = max((address for address in leased if address in subnet), default=None)
            pool = self._pool = AddressPool(subnet, gateway, after=after)
        return pool
