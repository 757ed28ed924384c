"""What sources tell the model: one event says what one object is now.

Events are levels, not edges: `Set` carries the whole object as it is now, `Gone` that it does not exist. Repeats do no
harm, and events of different objects may come in any order. `Synced` says that a source has delivered everything that
existed when it was read: only from then on does "absent" mean "does not exist".
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from k8s_ovs.config import NetworkConfig
from k8s_ovs.model.types import Attachment, AttachmentKey, HostSubnet, NetNamespace


class Source(StrEnum):
    """Where objects come from; each syncs on its own."""

    CONFIG = "config"
    HOST_SUBNETS = "host-subnets"
    NET_NAMESPACES = "net-namespaces"
    ATTACHMENTS = "attachments"


@dataclass(frozen=True, slots=True)
class ConfigSet:
    """The network config is this."""

    config: NetworkConfig


@dataclass(frozen=True, slots=True)
class HostSubnetSet:
    """The host subnet of `record.host_ip` is this."""

    record: HostSubnet


@dataclass(frozen=True, slots=True)
class HostSubnetGone:
    """No host subnet exists for this host address."""

    host_ip: IPv4Address


@dataclass(frozen=True, slots=True)
class NetNamespaceSet:
    """The tenant record of `record.name` is this."""

    record: NetNamespace


@dataclass(frozen=True, slots=True)
class NetNamespaceGone:
    """No tenant record exists for this Namespace."""

    name: str


@dataclass(frozen=True, slots=True)
class AttachmentSet:
    """A pod is attached to the bridge of this host."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class AttachmentGone:
    """The attachment does not exist on this host."""

    key: AttachmentKey


@dataclass(frozen=True, slots=True)
class Synced:
    """The source has delivered everything it knows."""

    source: Source


Event = (
    ConfigSet
    | HostSubnetSet
    | HostSubnetGone
    | NetNamespaceSet
    | NetNamespaceGone
    | AttachmentSet
    | AttachmentGone
    | Synced
)
