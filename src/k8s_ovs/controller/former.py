"""What Nodes that are gone had: which former subnets to remember in the store, and which to forget.

Called by `subnets` with the records and what is about to be written; pure. A Node that was deleted may come back,
and its pods have lived on: it shall have its subnet again, whoever leads then. Rules:

- The transaction that takes a Node's record away writes what it had. (An external host has no pods to come back to.)
- The transaction that gives a host a subnet, its own or another, ends what is remembered for it; so does the one
  that gives its subnet to somebody else.
- So no two that are remembered overlap each other or a record: there are never more of both than host subnets.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import NetworkConfig
from k8s_ovs.controller.batch import Writes
from k8s_ovs.controller.claims import Records
from k8s_ovs.model.types import FormerSubnet, HostSubnet

Formers = Mapping[str, FormerSubnet]


def fits(subnet: IPv4Network, config: NetworkConfig) -> bool:
    """Whether it is one of the host subnets of the pod network."""
    return subnet.prefixlen == config.host_prefix and subnet.subnet_of(config.network)


def known_formers(formers: Formers, seen: Mapping[str, IPv4Network]) -> dict[str, IPv4Network]:
    """What each host had: `formers` of the store, and what this controller has `seen` itself, which is newer."""
    theirs = set(seen.values())
    return {f.host: f.subnet for f in formers.values() if f.subnet not in theirs} | dict(seen)


def remember(
    records: Records, batch: Writes[IPv4Address, HostSubnet], formers: Formers, config: NetworkConfig
) -> dict[str, FormerSubnet | None]:
    """What to write together with `batch`, by host; None: the key is to go. `formers` are those of the store."""
    after = [record for key, record in records.items() if key not in batch]
    after += [record for record in batch.values() if record is not None]
    serving = {record.host for record in after if record.subnet is not None}
    taken = _Taken((record.subnet for record in after if record.subnet is not None), config)
    wanted: dict[str, FormerSubnet] = {}
    losing = [records[key] for key in sorted(batch.keys() & records.keys())]
    new = [
        FormerSubnet(record.host, record.subnet, was.extra if (was := formers.get(record.host)) else {})
        for record in losing
        if record.subnet is not None and not record.assign
    ]
    for former in (*new, *(formers[host] for host in sorted(formers))):
        if former.host not in serving and former.host not in wanted and taken.take(former.subnet):
            wanted[former.host] = former
    writes: dict[str, FormerSubnet | None] = dict.fromkeys(sorted(formers.keys() - wanted.keys()))
    return writes | {host: former for host, former in wanted.items() if former != formers.get(host)}


class _Taken:
    """The subnets that somebody has. Nearly all are of the pod network's own grid, which makes the question cheap."""

    def __init__(self, subnets: Iterable[IPv4Network], config: NetworkConfig) -> None:
        self._config = config
        self._all = set(subnets)
        self._odd = [subnet for subnet in self._all if not fits(subnet, config)]

    def take(self, subnet: IPv4Network) -> bool:
        """Whether it is a host subnet that nobody has; from now on somebody has it."""
        if not fits(subnet, self._config) or subnet in self._all:
            return False
        if any(subnet.overlaps(odd) for odd in self._odd):
            return False
        self._all.add(subnet)
        return True
