"""What sources tell the model: one event says what one object is now.

Events are levels, not edges: `Set` carries the whole object as it is now, `Gone` that it does not exist. Repeats do no
harm, and events of different objects may come in any order. `Synced` says that a source has delivered everything that
existed when it was read: only from then on does "absent" mean "does not exist".
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from k8s_ovs.config import NetworkConfig
from k8s_ovs.model.services import EndpointSlice, Service
from k8s_ovs.model.types import Attachment, AttachmentKey, HostSubnet, Tenant


class Source(StrEnum):
    """Where objects come from; each syncs on its own."""

    CONFIG = "config"
    HOST_SUBNETS = "host-subnets"
    TENANTS = "tenants"
    ATTACHMENTS = "attachments"
    SERVICES = "services"
    ENDPOINT_SLICES = "endpoint-slices"


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
class TenantSet:
    """The tenant of the Namespace `tenant.name` is this."""

    tenant: Tenant


@dataclass(frozen=True, slots=True)
class TenantGone:
    """The Namespace has no tenant."""

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
class ServiceSet:
    """The Service is this."""

    service: Service


@dataclass(frozen=True, slots=True)
class ServiceGone:
    """There is no Service of this name in this Namespace."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class EndpointSliceSet:
    """The EndpointSlice is this."""

    slice: EndpointSlice


@dataclass(frozen=True, slots=True)
class EndpointSliceGone:
    """There is no EndpointSlice of this name in this Namespace."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Synced:
    """The source has delivered everything it knows."""

    source: Source


Event = (
    ConfigSet
    | HostSubnetSet
    | HostSubnetGone
    | TenantSet
    | TenantGone
    | AttachmentSet
    | AttachmentGone
    | ServiceSet
    | ServiceGone
    | EndpointSliceSet
    | EndpointSliceGone
    | Synced
)
