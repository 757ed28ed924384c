"""Where the network's own records live, as an interface; etcd implements it in `sources.etcd.store`.

The agent watches a Store; the controller reads snapshots of it and writes back changes that are valid only if nothing
they were computed from has changed meanwhile. That is what makes two controllers at once harmless.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol

from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import RecordError, SourceError
from k8s_ovs.model.events import Event
from k8s_ovs.model.types import HostSubnet, NetNamespace


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All records at one revision. `problems` names the malformed ones (by key), which are in neither mapping."""

    revision: int
    host_subnets: Mapping[IPv4Address, HostSubnet]
    net_namespaces: Mapping[str, NetNamespace]
    problems: Mapping[str, RecordError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """Writes to one kind of record, all or none, valid only on top of `based_on` (a snapshot's revision)."""

    based_on: int
    put_subnets: Sequence[HostSubnet] = ()
    delete_subnets: Sequence[IPv4Address] = ()
    put_namespaces: Sequence[NetNamespace] = ()
    delete_namespaces: Sequence[str] = ()


class Store(Protocol):
    """The records of one cluster's network. Methods raise EtcdUnavailable and EtcdDenied (or a backend's own SourceError)."""

    async def network_config(self) -> NetworkConfig | None:
        """The network config, or None if none is written yet. Raises ConfigError if it is invalid."""

    async def create_network_config(self, config: NetworkConfig) -> bool:
        """Write the config if there is none. False if one exists already (it is left as it is)."""

    async def snapshot(self) -> Snapshot:
        """Every record of the network now, at one revision."""

    async def commit(self, change: Change) -> bool:
        """Apply `change`, or return False if a record of a kind it writes was created or modified since `based_on`."""

    def watch(self) -> AsyncIterator[Sequence[Event]]:
        """Batches of events, without end.

        First everything that exists, in batches whose last one ends with Synced(HOST_SUBNETS) and
        Synced(NET_NAMESPACES); then what changes, one batch a revision. Outages, compaction and restarts of the server
        are survived inside: nothing is lost, nothing is told twice, and after a re-read only the differences are told
        (with Gone for what vanished meanwhile). Malformed records are skipped and listed in `problems`; a record that
        becomes malformed is told as neither Set nor Gone: what was known stays. A batch of nothing else is empty, so
        that whoever reports `problems` learns of it.
        """

    @property
    def problems(self) -> Mapping[str, RecordError]:
        """The malformed records that the watch has met and that are still there, by key."""

    @property
    def outage(self) -> SourceError | None:
        """Why the watch gets no news at the moment; None while it does, and before it has begun."""
