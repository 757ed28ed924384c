"""Kubernetes API objects, typed to the fields that k8s-ovs reads, and where the API keeps them.

Read by everything that talks to the API. Decoding skips what is not named here, which is most of a Pod: 10,000 of them
take 21 MB instead of 240. To read another kind, add its Struct and one `Resource` below.

Lists and maps are nullable because the API sends null for empty ones (`endpoints: null`); read them with `or ()`.
Field names follow the API in camel case, except where it writes acronyms (`podIP`), which are named explicitly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec


class KubeStruct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Base of everything here: immutable, unknown fields skipped, defaults not sent."""


class OwnerReference(KubeStruct, frozen=True, kw_only=True):
    """Who owns an object (meta/v1)."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(KubeStruct, frozen=True, kw_only=True):
    """What identifies an object and its version (meta/v1)."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None
    finalizers: tuple[str, ...] | None = None


class ListMeta(KubeStruct, frozen=True, kw_only=True):
    """What a list says of itself: its version, and the token of its next page."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")
    remaining_item_count: int | None = None


class KubeObject(KubeStruct, frozen=True, kw_only=True):
    """Anything with metadata."""

    metadata: ObjectMeta

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name); the namespace is empty for cluster-wide kinds."""
        return (self.metadata.namespace, self.metadata.name)


class NodeAddress(KubeStruct, frozen=True, kw_only=True):
    """One address of a Node; `type` is InternalIP, ExternalIP or Hostname."""

    type: str = ""
    address: str = ""


class Condition(KubeStruct, frozen=True, kw_only=True):
    """A condition of a Node or Pod; `status` is "True", "False" or "Unknown"."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class NodeSpec(KubeStruct, frozen=True, kw_only=True):
    """What the cluster wants of a Node."""

    unschedulable: bool = False


class NodeStatus(KubeStruct, frozen=True, kw_only=True):
    """What the kubelet says of its Node."""

    addresses: tuple[NodeAddress, ...] | None = None
    conditions: tuple[Condition, ...] | None = None


class Node(KubeObject, frozen=True, kw_only=True):
    """A machine of the cluster (core/v1)."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def addresses(self, kind: str = "InternalIP") -> Iterator[str]:
        """The node's addresses of one type, in the order that the node states them."""
        return (entry.address for entry in self.status.addresses or () if entry.type == kind)

    @property
    def ready(self) -> bool:
        """Whether the condition Ready is True."""
        return _is_true(self.status.conditions, "Ready")


class NamespaceStatus(KubeStruct, frozen=True, kw_only=True):
    """Whether a Namespace lives; `phase` is Active or Terminating."""

    phase: str = ""


class Namespace(KubeObject, frozen=True, kw_only=True):
    """A Namespace, which is a tenant here (core/v1)."""

    status: NamespaceStatus = NamespaceStatus()


class ContainerPort(KubeStruct, frozen=True, kw_only=True):
    """A port that a container states; `host_port` 0 means none."""

    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")
    protocol: str = "TCP"


class Container(KubeStruct, frozen=True, kw_only=True):
    """A container of a Pod, as far as the network cares."""

    name: str = ""
    ports: tuple[ContainerPort, ...] | None = None


class PodSpec(KubeStruct, frozen=True, kw_only=True):
    """Where a Pod runs and which ports it states."""

    node_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] | None = None


class PodIp(KubeStruct, frozen=True, kw_only=True):
    """One address of a Pod."""

    ip: str = ""


class HostIp(KubeStruct, frozen=True, kw_only=True):
    """One address of a Pod's host."""

    ip: str = ""


class PodStatus(KubeStruct, frozen=True, kw_only=True):
    """What the kubelet says of a Pod; `phase` is Pending, Running, Succeeded, Failed or Unknown."""

    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIp, ...] | None = msgspec.field(name="podIPs", default=None)
    host_ip: str = msgspec.field(name="hostIP", default="")
    host_ips: tuple[HostIp, ...] | None = msgspec.field(name="hostIPs", default=None)
    conditions: tuple[Condition, ...] | None = None


class Pod(KubeObject, frozen=True, kw_only=True):
    """A Pod (core/v1)."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def ports(self) -> Iterator[ContainerPort]:
        """Every port that its containers state."""
        return (port for container in self.spec.containers or () for port in container.ports or ())

    @property
    def finished(self) -> bool:
        """Whether the Pod has run to its end and never uses its address again."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def ready(self) -> bool:
        """Whether the condition Ready is True."""
        return _is_true(self.status.conditions, "Ready")


class ServicePortSpec(KubeStruct, frozen=True, kw_only=True):
    """One port of a Service, with numbers as the API has them: 0 where none is given."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIpConfig(KubeStruct, frozen=True, kw_only=True):
    """How long ClientIP affinity lasts."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(KubeStruct, frozen=True, kw_only=True):
    """Settings of session affinity."""

    client_ip: ClientIpConfig | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(KubeStruct, frozen=True, kw_only=True):
    """What a Service asks for; `cluster_ip` is "None" if it is headless."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: tuple[str, ...] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: tuple[str, ...] | None = msgspec.field(name="externalIPs", default=None)
    ports: tuple[ServicePortSpec, ...] | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str | None = None


class LoadBalancerIngress(KubeStruct, frozen=True, kw_only=True):
    """One address of a load balancer; `ip_mode` Proxy means that packets are to go to it and not past it."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(KubeStruct, frozen=True, kw_only=True):
    """The addresses that a load balancer has given."""

    ingress: tuple[LoadBalancerIngress, ...] | None = None


class ServiceStatus(KubeStruct, frozen=True, kw_only=True):
    """What has been brought about for a Service."""

    load_balancer: LoadBalancerStatus | None = None


class Service(KubeObject, frozen=True, kw_only=True):
    """A Service (core/v1)."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointConditions(KubeStruct, frozen=True, kw_only=True):
    """Null means unknown, which readers take for: ready, serving as ready is, not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(KubeStruct, frozen=True, kw_only=True):
    """One endpoint of a slice; only the first of its addresses counts (EndpointSlice API reference)."""

    addresses: tuple[str, ...] | None = None
    conditions: EndpointConditions | None = None
    node_name: str | None = None


class SlicePort(KubeStruct, frozen=True, kw_only=True):
    """A port of all endpoints of a slice; null as number means any port."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(KubeObject, frozen=True, kw_only=True):
    """Some endpoints of the Service that its label names (discovery.k8s.io/v1)."""

    address_type: str = ""
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


class LeaseSpec(KubeStruct, frozen=True, kw_only=True):
    """Who holds a Lease. Times are RFC 3339 with microseconds, as text: nobody's clock is trusted, so none is parsed."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(KubeObject, frozen=True, kw_only=True):
    """A Lease (coordination.k8s.io/v1)."""

    spec: LeaseSpec = LeaseSpec()


class ObjectReference(KubeStruct, frozen=True, kw_only=True):
    """What an Event is about."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""


class EventSource(KubeStruct, frozen=True, kw_only=True):
    """Who reported an Event."""

    component: str = ""
    host: str = ""


class Event(KubeObject, frozen=True, kw_only=True):
    """A note for people about an object (core/v1); `type` is Normal or Warning. Shown by `kubectl describe`."""

    involved_object: ObjectReference
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    count: int = 0
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    source: EventSource = EventSource()
    reporting_component: str = ""
    reporting_instance: str = ""


class Secret(KubeObject, frozen=True, kw_only=True):
    """A Secret (core/v1); base64 is taken off `data`. What it holds appears in no message."""

    type: str = ""
    data: dict[str, bytes] | None = None

    def __repr__(self) -> str:
        return f"Secret({self.metadata.namespace}/{self.metadata.name}, keys {sorted(self.data or ())})"


class ConfigMap(KubeObject, frozen=True, kw_only=True):
    """A ConfigMap (core/v1)."""

    data: dict[str, str] | None = None


def _is_true(conditions: tuple[Condition, ...] | None, kind: str) -> bool:
    return any(entry.type == kind and entry.status == "True" for entry in conditions or ())


T = TypeVar("T", bound=KubeObject)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """A kind of object and its place in the API: `api` is `api/v1` or `apis/GROUP/VERSION`."""

    api: str
    plural: str
    kind: str
    namespaced: bool
    type: type[T]

    @property
    def api_version(self) -> str:
        """What objects of this kind carry as apiVersion: `v1` or `GROUP/VERSION`."""
        return self.api.split("/", 1)[1]

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, of one object, or of a part of it. An empty namespace means all of them."""
        parts = ["", self.api]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


NODES = Resource("api/v1", "nodes", "Node", namespaced=False, type=Node)
NAMESPACES = Resource("api/v1", "namespaces", "Namespace", namespaced=False, type=Namespace)
PODS = Resource("api/v1", "pods", "Pod", namespaced=True, type=Pod)
SERVICES = Resource("api/v1", "services", "Service", namespaced=True, type=Service)
ENDPOINT_SLICES = Resource(
    "apis/discovery.k8s.io/v1", "endpointslices", "EndpointSlice", namespaced=True, type=EndpointSlice
)
EVENTS = Resource("api/v1", "events", "Event", namespaced=True, type=Event)
LEASES = Resource("apis/coordination.k8s.io/v1", "leases", "Lease", namespaced=True, type=Lease)
SECRETS = Resource("api/v1", "secrets", "Secret", namespaced=True, type=Secret)
CONFIG_MAPS = Resource("api/v1", "configmaps", "ConfigMap", namespaced=True, type=ConfigMap)
