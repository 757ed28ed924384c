"""Where the network's own records live, as an interface; etcd implements it in `sources.etcd.store`.

The agent watches a Store; the controller reads snapshots of it and writes back changes that are valid only if nothing
they were computed from has changed meanwhile. That is what makes two controllers at once harmless.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol

from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import RecordError, SourceError
from k8s_ovs.model.events import Event
from k8s_ovs.model.types import AgentReport, FormerSubnet, HostSubnet, NetNamespace, Tenant


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All records at one revision. `problems` names the malformed ones (by key), which are in no mapping.

    `reports` are those of the agents that live, or did a few seconds ago. `config` is the network config at this
    revision; a store's own snapshots always have it. `former` is what Nodes that are gone had, by name.
    """

    revision: int
    host_subnets: Mapping[IPv4Address, HostSubnet]
    net_namespaces: Mapping[str, NetNamespace]
    problems: Mapping[str, RecordError] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    reports: Mapping[IPv4Address, AgentReport] = field(default_factory=dict)
    config: NetworkConfig | None = None
    newest: int = 0
    """The revision that wrote the newest of the records that exist; agents' reports are none. 0: the store does not say."""
    former: Mapping[str, FormerSubnet] = field(default_factory=dict)


MAX_NEEDS = 100
"""etcd takes 128 comparisons in one transaction."""


@dataclass(frozen=True, slots=True)
class Change:
    """Writes of records, all or none, valid only on top of `based_on` (a snapshot's revision).

    Net namespaces and tenants are one kind here: a write to either holds only if none of both has changed. So are
    host subnets and former ones. That does not show what was deleted: `needs_tenants` and `needs_namespaces` name what has to
    be there still, together no more than MAX_NEEDS.
    """

    based_on: int
    put_subnets: Sequence[HostSubnet] = ()
    delete_subnets: Sequence[IPv4Address] = ()
    put_namespaces: Sequence[NetNamespace] = ()
    delete_namespaces: Sequence[str] = ()
    put_tenants: Sequence[Tenant] = ()
    delete_tenants: Sequence[str] = ()
    put_former: Sequence[FormerSubnet] = ()
    delete_former: Sequence[str] = ()
    needs_tenants: Collection[str] = ()
    needs_namespaces: Collection[str] = ()


class Presence(Protocol):
    """One agent's sign of life and its report, kept in the store for as long as `run` runs, and a few seconds longer."""

    async def run(self) -> None:
        """Keep the report that was told last in the store, through every outage. Until cancelled.

        Nothing is kept before something is told. Of two instances for one host, the one that began later is
        heard; the other waits until it is gone.
        """

    def tell(self, report: AgentReport) -> None:
        """Replace the report from now on. Returns at once."""


class Store(Protocol):
    """The records of one cluster's network. Methods raise EtcdUnavailable and EtcdDenied (or a backend's own SourceError)."""

    async def network_config(self) -> NetworkConfig | None:
        """The network config, or None if none is written yet. Raises ConfigError if it is invalid."""

    async def create_network_config(self, config: NetworkConfig) -> bool:
        """Write the config if there is none. False if one exists already (it is left as it is)."""

    async def snapshot(self) -> Snapshot:
        """Every record of the network now, at one revision. Raises ConfigError without a valid network config."""

    async def commit(self, change: Change) -> bool:
        """Apply `change`, or return False if a record of a kind it writes was created or modified since `based_on`."""

    def watch(self) -> AsyncIterator[Sequence[Event]]:
        """Batches of events, without end.

        It tells of host subnets and tenants; of net namespaces, which are requests and answers, only that something
        changed, with an empty batch. First everything that exists, in batches whose last one ends with
        Synced(HOST_SUBNETS) and Synced(TENANTS); then what changes, one batch a revision. Outages, compaction and
        restarts of the server are survived inside: nothing is lost, nothing is told twice, and after a re-read only
        the differences are told (with Gone for what vanished meanwhile; but see `lost`). Malformed records are
        skipped and listed in `problems`; a record that becomes malformed is told as neither Set nor Gone: what was
        known stays. A batch of nothing else is empty, so that whoever reports `problems` learns of it.
        """

    def watch_reports(self) -> AsyncIterator[None]:
        """Yield, without end, whenever some agent's report has changed, come or gone, and once at the beginning.

        What a report says of its agent's health is for people: it counts as no change.
        Survives outages like `watch`; raises ConfigError and EtcdDenied at its start like `watch`.
        """

    def presence(self) -> Presence:
        """A place for this process's agent. May be asked for before there is a network config."""

    @property
    def problems(self) -> Mapping[str, RecordError]:
        """The malformed records that the watch has met and that are still there, by key."""

    @property
    def lost(self) -> Mapping[str, HostSubnet | Tenant]:
        """What the watch has told and the store has no more although nobody has deleted it, by key.

        The store was put back to an older state, or emptied. What was told of these stays in force: they are told as
        Gone only when a record that contradicts them is written (an overlapping subnet, the VNI of another tenant).
        """

    @property
    def told(self) -> int:
        """The revision up to which the watch has told everything; 0 before it has. Compare with `Snapshot.newest`."""

    @property
    def outage(self) -> SourceError | None:
        """Why the watch gets no news at the moment; None while it does, and before it has begun."""
