"""Which host has which subnet: the plan from what is recorded to what should be.

Called by `worker` with a snapshot and the Nodes; pure, and the same for any order of its input. Rules:

- A Node gets a record under its InternalIP, with a free subnet. A subnet that is given is never changed. If its
  record was deleted, by hand or because the Node was gone for a while, it gets the subnet back that it had: its
  pods are still in it (`former`). An empty Subnet asks for another one.
- A Node whose address changed takes its record along to the new key, in one transaction with the old key's end.
- A Node that is gone loses its record; a new Node at the same address (a machine under a new name) takes the record
  over with its subnet, since the same machine's pods are in it. So does a Node whose record was given the name of
  another one by hand.
- The record of an external host (Assign true) is its administrator's: it gets a subnet if it asks, nothing else.
- What is ambiguous is left as it is and reported; the record of a Node that exists is never deleted for it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import NetworkConfig
from k8s_ovs.controller.batch import Writes, next_batch
from k8s_ovs.controller.claims import HostNode, Records, resolve_claims
from k8s_ovs.controller.former import fits, known_formers, remember
from k8s_ovs.controller.plan import (
    MAX_OPERATIONS,
    Malformed,
    Plan,
    Problem,
    ProblemKind,
    Subject,
    record_problem,
)
from k8s_ovs.errors import ExhaustedError
from k8s_ovs.model.alloc import SubnetAllocator
from k8s_ovs.model.types import HostSubnet
from k8s_ovs.sources.store import Change, Snapshot


def plan_subnets(
    snapshot: Snapshot,
    nodes: Iterable[HostNode],
    config: NetworkConfig,
    held: Collection[IPv4Network] = (),
    *,
    former: Mapping[str, IPv4Network] = {},
    limit: int = MAX_OPERATIONS,
    allocator: SubnetAllocator | None = None,
) -> Plan:
    """The next change of host subnets, with at most `limit` writes.

    `held` are subnets that no readable record shows but that may be in use: those of records that became
    malformed. `former` is what the caller has seen hosts have, which counts more than what the snapshot
    says of those that are gone. `allocator` knows where the last plan
    stopped, so that a subnet that was just freed is not the next to be given; it goes on from there whether or not
    the plan is carried out. What somebody had is given to others only when nothing else is left.
    """
    by_name = {node.name: node for node in nodes}
    malformed = Malformed.of(snapshot).host_ips
    claims = resolve_claims(by_name, snapshot.host_subnets, config)
    former = known_formers(snapshot.former, former)
    spared = former.values()
    pool = _Pool.of(config, snapshot.host_subnets, held, spared, allocator or SubnetAllocator(config))
    free = pool.free
    draft = _Draft(snapshot.host_subnets, by_name.keys(), claims.addresses, pool, former)
    for name, address in sorted(claims.addresses.items(), key=draft.takes_its_turn):
        if address in malformed:  # the record is reported as malformed; nobody writes over it
            draft.keep_records_of(name)
        else:
            draft.settle_node(name, address)
    for address in sorted(snapshot.host_subnets):
        draft.settle_other(snapshot.host_subnets[address], claims.addresses)
    batch = next_batch(draft.writes, draft.moves, limit)
    problems = [*claims.problems, *draft.problems, *_judge(snapshot.host_subnets, config)]
    return Plan(
        _change(snapshot, batch, config),
        tuple(sorted(problems)),
        free=free,
        allocated=sum(1 for record in batch.values() if record is not None and record.subnet in pool.given),
        absent=sorted({snapshot.host_subnets[key].host for key in batch.keys() & draft.orphans}),
    )


@dataclass(slots=True)
class _Pool:
    """The subnets that may be given, and those given in this plan."""

    config: NetworkConfig
    allocator: SubnetAllocator
    taken: set[IPv4Network]
    spared: Iterable[IPv4Network] = ()
    """Given only when no other is left: somebody had them, who may come back and still have pods there."""
    given: set[IPv4Network] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        config: NetworkConfig,
        records: Records,
        held: Collection[IPv4Network],
        spared: Iterable[IPv4Network],
        allocator: SubnetAllocator,
    ) -> "_Pool":
        # What is deleted in this plan counts as taken once more: agents may still send there.
        recorded = {record.subnet for record in records.values() if record.subnet is not None}
        return cls(config, allocator, recorded | set(held), spared)

    @property
    def free(self) -> int:
        """How many host subnets overlap nothing that is taken."""
        base, bits = int(self.config.network.network_address), self.config.host_bits
        used, counted_to = 0, -1
        for subnet in sorted(self.taken):
            if subnet.overlaps(self.config.network):
                first = max(int(subnet.network_address) - base >> bits, counted_to + 1)
                last = min(int(subnet.broadcast_address) - base >> bits, self.config.host_subnets - 1)
                used += max(0, last - max(first, 0) + 1)
                counted_to = max(counted_to, last)
        return self.config.host_subnets - used

    def give(self, former: IPv4Network | None = None) -> IPv4Network:
        """A subnet that overlaps no other; `former` if that is so. Raises ExhaustedError."""
        back = former if former is not None and self._can_come_back(former) else None
        subnet = back or self._next(former)
        self.taken.add(subnet)
        self.given.add(subnet)
        return subnet

    def _next(self, former: IPv4Network | None) -> IPv4Network:
        try:
            return self.allocator.allocate(self.taken.union(self.spared) - ({former} - self.taken))
        except ExhaustedError:
            return self.allocator.allocate(self.taken)

    def _can_come_back(self, subnet: IPv4Network) -> bool:
        return fits(subnet, self.config) and not any(subnet.overlaps(other) for other in self.taken)


class _Draft:
    """The writes that lead from the records to what should be, in full; `moves` maps old keys to new ones."""

    def __init__(
        self,
        records: Records,
        living: Collection[str],
        claimed: Mapping[str, IPv4Address],
        pool: _Pool,
        former: Mapping[str, IPv4Network],
    ) -> None:
        self.writes: Writes[IPv4Address, HostSubnet] = {}
        self.moves: dict[IPv4Address, IPv4Address] = {}
        self.orphans: set[IPv4Address] = set()
        self.problems: list[Problem] = []
        self._records = records
        self._living = living
        self._claimed = claimed
        self._pool = pool
        self._former = former
        self._kept: set[IPv4Address] = set()
        self._by_host: dict[str, list[HostSubnet]] = {}
        for address in sorted(records):
            self._by_host.setdefault(records[address].host, []).append(records[address])

    def takes_its_turn(self, claim: tuple[str, IPv4Address]) -> tuple[bool, str]:
        """Sorts claims: who gets back what it had comes first, before the pool gives that to another."""
        name, address = claim
        return name not in self._former or self._own(name, address) is not None, name

    def settle_node(self, name: str, address: IPv4Address) -> None:
        """The record of a Node whose address is undisputed."""
        own = self._own(name, address)
        base = own or HostSubnet(name, address, None)
        former = self._former.get(name) if own is None else None
        subnet = base.subnet or self._give(Subject("Node", name), f"node {name}", former)
        if subnet is None:
            if own is not None:
                self._kept.add(own.host_ip)
            return
        self._kept.add(address)
        if own is not None and own.host_ip != address:
            self.moves[own.host_ip] = address
        self._put(replace(base, host=name, host_ip=address, subnet=subnet))

    def keep_records_of(self, name: str) -> None:
        """The records of a living Node that cannot be settled now stay: its pods go on using the subnet."""
        self._kept.update(record.host_ip for record in self._by_host.get(name, []))

    def settle_other(self, record: HostSubnet, claimed: Mapping[str, IPv4Address]) -> None:
        """A record that may have no Node: an external host's, or one that outlived its Node or address."""
        address = record.host_ip
        if record.assign:
            self._settle_external(record)
        elif address not in self._kept and (record.host not in self._living or record.host in claimed):
            self.writes[address] = None
            self._note_orphan(record)

    def _settle_external(self, record: HostSubnet) -> None:
        key = f"subnets/{record.host_ip}"
        if record.host in self._living:
            problem = record_problem(
                ProblemKind.SHARED_NAME,
                key,
                f"external host {record.host} has the name of a Node",
                "write the record under another Host, and start the external agent with that --hostname",
            )
            self.problems.append(problem)
        if record.subnet is None:
            subnet = self._give(Subject("Record", key), f"external host {record.host}")
            if subnet is not None:
                self._put(replace(record, subnet=subnet))

    def _own(self, name: str, address: IPv4Address) -> HostSubnet | None:
        """The record that the Node has, wherever it is; else what is at its address under a name that has no use for it."""
        at_address = self._records.get(address)
        if at_address is not None and at_address.host == name:
            return at_address
        mine = [record for record in self._by_host.get(name, []) if not record.assign]
        if mine:
            return min(mine, key=lambda record: (record.subnet is None, record.host_ip))
        if at_address is not None and not self._used_by_its_host(at_address):
            return at_address
        return None

    def _used_by_its_host(self, record: HostSubnet) -> bool:
        """Whether the host that the record names lives, and has no other record where it is."""
        if record.host not in self._living:
            return False
        home = self._claimed.get(record.host)
        at_home = self._records.get(home) if home is not None else None
        return at_home is None or at_home == record or at_home.host != record.host

    def _give(self, subject: Subject, who: str, former: IPv4Network | None = None) -> IPv4Network | None:
        try:
            return self._pool.give(former)
        except ExhaustedError as err:
            message = f"{who}: gets no subnet: {err.message}"
            remedy = err.remedy or "remove hosts that are no longer needed"
            self.problems.append(Problem(subject, ProblemKind.NO_SUBNET_LEFT, message, remedy))
            return None

    def _put(self, record: HostSubnet) -> None:
        before = self._records.get(record.host_ip)
        if before != record:
            self.writes[record.host_ip] = record
            if before is not None:
                self._note_orphan(before)

    def _note_orphan(self, record: HostSubnet) -> None:
        if not record.assign and record.host not in self._living:
            self.orphans.add(record.host_ip)


def _change(
    snapshot: Snapshot, batch: Writes[IPv4Address, HostSubnet], config: NetworkConfig
) -> Change | None:
    formers = remember(snapshot.host_subnets, batch, snapshot.former, config)
    if not batch and not formers:
        return None
    return Change(
        based_on=snapshot.revision,
        put_subnets=[record for record in batch.values() if record is not None],
        delete_subnets=[key for key, record in batch.items() if record is None],
        put_former=[former for former in formers.values() if former is not None],
        delete_former=[host for host, former in formers.items() if former is None],
    )


def _judge(records: Records, config: NetworkConfig) -> Iterator[Problem]:
    """Subnets that we would not have given: written by hand, or under another network config. They stay."""
    given = sorted(
        ((record.subnet, record) for record in records.values() if record.subnet is not None),
        key=lambda pair: (int(pair[0].network_address), pair[0].prefixlen, pair[1].host_ip),
    )
    widest: HostSubnet | None = None
    last = IPv4Address(0)
    for subnet, record in given:
        key = f"subnets/{record.host_ip}"
        if not fits(subnet, config):
            yield record_problem(
                ProblemKind.FOREIGN_SUBNET,
                key,
                f"subnet {subnet} of host {record.host} is none of the /{config.host_prefix} "
                f"subnets of the pod network {config.network}",
                "drain the host and write the record with an empty Subnet to get another one",
            )
        if widest is not None and subnet.network_address <= last:
            yield record_problem(
                ProblemKind.OVERLAPPING_SUBNET,
                key,
                f"subnet {subnet} of host {record.host} overlaps {widest.subnet} of host {widest.host} "
                f"(subnets/{widest.host_ip})",
                "drain one of the hosts and write its record with an empty Subnet to get another one",
            )
        if widest is None or subnet.broadcast_address > last:
            widest, last = record, subnet.broadcast_address
