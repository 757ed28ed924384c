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
    EndpointSliceGone,
    EndpointSliceSet,
    Event,
    HostSubnetGone,
    HostSubnetSet,
    ServiceGone,
    ServiceSet,
    Source,
    Synced,
    TenantGone,
    TenantSet,
)
from k8s_ovs.model.services import EndpointSlice, Service
from k8s_ovs.model.types import Attachment, AttachmentKey, HostSubnet, Tenant

ObjectName = tuple[str, str]
"""Namespace and name."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class ClusterState:
    """Every object known, by key. `synced` holds the sources that have delivered all they know."""

    config: NetworkConfig | None = None
    host_subnets: dict[IPv4Address, HostSubnet] = field(default_factory=dict)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    attachments: dict[AttachmentKey, Attachment] = field(default_factory=dict)
    services: dict[ObjectName, Service] = field(default_factory=dict)
    endpoint_slices: dict[ObjectName, EndpointSlice] = field(default_factory=dict)
    synced: set[Source] = field(default_factory=set)

    @classmethod
    def from_snapshot(
        cls,
        *,
        config: NetworkConfig | None = None,
        host_subnets: Iterable[HostSubnet] = (),
        tenants: Iterable[Tenant] = (),
        attachments: Iterable[Attachment] = (),
        services: Iterable[Service] = (),
        endpoint_slices: Iterable[EndpointSlice] = (),
        synced: Iterable[Source] = (),
    ) -> "ClusterState":
        """The state that consists of these objects."""
        return cls(
            config=config,
            host_subnets={record.host_ip: record for record in host_subnets},
            tenants={record.name: record for record in tenants},
            attachments={attachment.key: attachment for attachment in attachments},
            services={(service.namespace, service.name): service for service in services},
            endpoint_slices={(piece.namespace, piece.name): piece for piece in endpoint_slices},
            synced=set(synced),
        )

    def apply(self, event: Event) -> bool:
        """Take in one event. True if that changed anything that counts (unknown extra keys of records do not)."""
        match event:
            case ConfigSet(config):
                changed = self.config != config
                self.config = config
            case HostSubnetSet(record):
                known = self.host_subnets.get(record.host_ip)
                rewritten = known is not None and known.revision != record.revision
                changed = _put(self.host_subnets, record.host_ip, record) or rewritten
            case HostSubnetGone(host_ip):
                changed = _drop(self.host_subnets, host_ip)
            case TenantSet(tenant):
                changed = _put(self.tenants, tenant.name, tenant)
            case TenantGone(name):
                changed = _drop(self.tenants, name)
            case AttachmentSet(attachment):
                changed = _put(self.attachments, attachment.key, attachment)
            case AttachmentGone(key):
                changed = _drop(self.attachments, key)
            case Synced(source):
                changed = source not in self.synced
                self.synced.add(source)
            case ServiceSet() | ServiceGone() | EndpointSliceSet() | EndpointSliceGone():
                changed = self._apply_service(event)
        return changed

    def _apply_service(self, event: ServiceSet | ServiceGone | EndpointSliceSet | EndpointSliceGone) -> bool:
        match event:
            case ServiceSet(service):
                return _put(self.services, (service.namespace, service.name), service)
            case ServiceGone(namespace, name):
                return _drop(self.services, (namespace, name))
            case EndpointSliceSet(piece):
                return _put(self.endpoint_slices, (piece.namespace, piece.name), piece)
            case EndpointSliceGone(namespace, name):
                return _drop(self.endpoint_slices, (namespace, name))

    def events(self) -> Iterator[Event]:
        """The events that tell this state to somebody who knows nothing."""
        if self.config is not None:
            yield ConfigSet(self.config)
        yield from map(HostSubnetSet, self.host_subnets.values())
        yield from map(TenantSet, self.tenants.values())
        yield from map(AttachmentSet, self.attachments.values())
        yield from map(ServiceSet, self.services.values())
        yield from map(EndpointSliceSet, self.endpoint_slices.values())
        yield from map(Synced, sorted(self.synced))


def _put(mapping: dict[K, V], key: K, value: V) -> bool:
    changed = mapping.get(key) != value
    mapping[key] = value
    return changed


def _drop(mapping: dict[K, V], key: K) -> bool:
    return mapping.pop(key, None) is not None
