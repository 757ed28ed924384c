"""Which pod addresses are free: what no lease in OVSDB names, no running ADD has taken, and nobody's connections know.

For the agent's pods. The leases are asked for each time; only what is not in OVSDB yet is kept here, and the place
where the rotation stands. An agent that starts does not know who had what before: it has every address that is free cleaned.
"""

from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.agent.traces import AddressCleaner
from k8s_ovs.model.alloc import AddressPool


class AddressBook:
    """Hands out addresses of the host subnet in rotation. `leased` gives the addresses of all leases now."""

    def __init__(self, leased: Callable[[], Iterable[IPv4Address]], cleaner: AddressCleaner) -> None:
        self._leased = leased
        self._cleaner = cleaner
        self._reserved: set[IPv4Address] = set()
        self._pool: AddressPool | None = None
        self._held: set[IPv4Address] = set()

    @property
    def reserved(self) -> Set[IPv4Address]:
        """Addresses that a running ADD has taken."""
        return frozenset(self._reserved)

    def look(self, subnet: IPv4Network, gateway: IPv4Address) -> None:
        """Have every address cleaned that nobody has (any more), whatever became of its lease."""
        self._pool_of(subnet, gateway, self._look())

    async def prepare(self, subnet: IPv4Network, gateway: IPv4Address) -> None:
        """See that `take` finds a clean address, if there is any free one. Raises OpenFlowError."""
        leased = self._look()
        pool = self._pool_of(subnet, gateway, leased)
        if self._cleaner.dirty and not pool.has_room(leased | self._reserved | self._cleaner.dirty):
            await self._cleaner.clean()

    @contextmanager
    def take(self, subnet: IPv4Network, gateway: IPv4Address) -> Iterator[IPv4Address]:
        """A free and clean address, kept for the block: from its end on, only a lease keeps it. Raises ExhaustedError."""
        leased = self._look()
        pool = self._pool_of(subnet, gateway, leased)
        with self.keep(pool.take(leased | self._reserved | self._cleaner.dirty)) as address:
            yield address

    @contextmanager
    def keep(self, address: IPv4Address) -> Iterator[IPv4Address]:
        """Keep `address` from being taken for the block, also while its lease is replaced."""
        self._reserved.add(address)
        self._held.add(address)
        try:
            yield address
        finally:
            self._reserved.discard(address)
            self._look()

    def freed(self) -> None:
        """A lease is gone."""
        self._look()

    def _look(self) -> set[IPv4Address]:
        """All leased addresses. Those that were leased and are not any more are to be cleaned."""
        leased = set(self._leased())
        self._cleaner.note(self._held - leased - self._reserved)
        self._held = leased | self._reserved
        return leased

    def _pool_of(self, subnet: IPv4Network, gateway: IPv4Address, leased: set[IPv4Address]) -> AddressPool:
        pool = self._pool
        if pool is None or (pool.subnet, pool.gateway) != (subnet, gateway):
            # After a restart, go on behind the highest lease: what was freed last is most likely below it.
            after = max((address for address in leased if address in subnet), default=None)
            pool = self._pool = AddressPool(subnet, gateway, after=after)
            self._cleaner.note(set(subnet.hosts()) - leased - self._reserved - {gateway})
        return pool
