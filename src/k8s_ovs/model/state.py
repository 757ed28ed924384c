"""The cluster as the sources tell it: objects by key, nothing derived.

Held by `NodeView` (agent) and by the controller. Applying events in any order, with repeats, ends in the same state as
reading everything at once: the last word on each object counts. No I/O, no decisions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TypeVar

from k8s_ovs.config import NetworkConfig
from k8s_ovs.model.events import (
    AttachmentGone,
    AttachmentSet,
    ConfigSet,
    Event,
    HostSubnetGone,
    HostSubnetSet,
    NetNamespaceGone,
    NetNamespaceSet,
    Source,
    Synced,
)
from k8s_ovs.model.types import Attachment, AttachmentKey, HostSubnet, NetNamespace

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class ClusterState:
    """Every object known, by key. `synced` holds the sources that have delivered all they know."""

    config: NetworkConfig | None = None
    host_subnets: dict[IPv4Address, HostSubnet] = field(default_factory=dict)
    net_namespaces: dict[str, NetNamespace] = field(default_factory=dict)
    attachments: dict[AttachmentKey, Attachment] = field(default_factory=dict)
    synced: set[Source] = field(default_factory=set)

    @classmethod
    def from_snapshot(
        cls,
        *,
        config: NetworkConfig | None = None,
        host_subnets: Iterable[HostSubnet] = (),
        net_namespaces: Iterable[NetNamespace] = (),
        attachments: Iterable[Attachment] = (),
        synced: Iterable[Source] = (),
    ) -> "ClusterState":
        """The state that consists of these objects."""
        return cls(
            config=config,
            host_subnets={record.host_ip: record for record in host_subnets},
            net_namespaces={record.name: record for record in net_namespaces},
            attachments={attachment.key: attachment for attachment in attachments},
            synced=set(synced),
        )

    def apply(self, event: Event) -> bool:
        """Take in one event. True if that changed anything that counts (unknown extra keys of records do not)."""
        match event:
            case ConfigSet(config):
                changed = self.config != config
                self.config = config
                return changed
            case HostSubnetSet(record):
                return _put(self.host_subnets, record.host_ip, record)
            case HostSubnetGone(host_ip):
                return self.host_subnets.pop(host_ip, None) is not None
            case NetNamespaceSet(namespace):
                return _put(self.net_namespaces, namespace.name, namespace)
            case NetNamespaceGone(name):
                return self.net_namespaces.pop(name, None) is not None
            case AttachmentSet(attachment):
                return _put(self.attachments, attachment.key, attachment)
            case AttachmentGone(key):
                return self.attachments.pop(key, None) is not None
            case Synced(source):
                new = source not in self.synced
                self.synced.add(source)
                return new

    def events(self) -> Iterator[Event]:
        """The events that tell this state to somebody who knows nothing."""
        if self.config is not None:
            yield ConfigSet(self.config)
        yield from map(HostSubnetSet, self.host_subnets.values())
        yield from map(NetNamespaceSet, self.net_namespaces.values())
        yield from map(AttachmentSet, self.attachments.values())
        yield from map(Synced, sorted(self.synced))


def _put(mapping: dict[K, V], key: K, value: V) -> bool:
    changed = mapping.get(key) != value
    mapping[key] = value
    return changed
