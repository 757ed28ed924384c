"""Which subnets overlap: an index that answers without looking at all of them.

Used by `model.hosts`. Two CIDRs overlap only if one contains the other; so each subnet is filed under every prefix that
contains it, and a question costs at most 33 look-ups plus the answers, however many subnets there are.
"""

from ipaddress import IPv4Address, IPv4Network

Prefix = tuple[int, int]
"""Network address as a number, and prefix length."""


class OverlapIndex:
    """Subnets with their owners; several owners may claim the same subnet."""

    def __init__(self) -> None:
        self._exactly: dict[Prefix, set[IPv4Address]] = {}
        self._within: dict[Prefix, set[IPv4Address]] = {}

    def add(self, subnet: IPv4Network, owner: IPv4Address) -> None:
        """File the claim of `owner`."""
        *wider, own = _chain(subnet)
        self._exactly.setdefault(own, set()).add(owner)
        for prefix in (*wider, own):
            self._within.setdefault(prefix, set()).add(owner)

    def remove(self, subnet: IPv4Network, owner: IPv4Address) -> None:
        """Forget a claim that was filed."""
        *wider, own = _chain(subnet)
        _discard(self._exactly, own, owner)
        for prefix in (*wider, own):
            _discard(self._within, prefix, owner)

    def overlapping(self, subnet: IPv4Network) -> set[IPv4Address]:
        """Everybody whose subnet shares an address with this one, the claimants of this very subnet included."""
        *wider, own = _chain(subnet)
        found = set(self._within.get(own, ()))
        for prefix in wider:
            found |= self._exactly.get(prefix, set())
        return found


def _chain(subnet: IPv4Network) -> list[Prefix]:
    """Every prefix that contains `subnet`, from 0.0.0.0/0 to itself."""
    address = int(subnet.network_address)
    return [(address >> (32 - length) << (32 - length), length) for length in range(subnet.prefixlen + 1)]


def _discard(mapping: dict[Prefix, set[IPv4Address]], prefix: Prefix, owner: IPv4Address) -> None:
    owners = mapping.get(prefix)
    if owners is not None:
        owners.discard(owner)
        if not owners:
            del mapping[prefix]
