"""From the API's Services and EndpointSlices to those of the model.

Called by the agent for each object that a reflector tells of, and by the lab. Pure. What cannot be used is left out and
listed, part by part: one bad port or endpoint takes nothing from the others. It looks at one object at a time and never
decides which endpoint serves whom.

Sources: API reference of Service v1 and EndpointSlice v1; what kube-proxy makes of them (a label gives a Service to
another proxy; null conditions; `ipMode: Proxy`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from typing import Generic, TypeVar

from k8s_ovs.errors import RecordError
from k8s_ovs.model.services import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from k8s_ovs.sources.kube import objects

SERVICE_NAME = "kubernetes.io/service-name"
"""The label by which a slice names its Service."""
OTHER_PROXY = "service.kubernetes.io/service-proxy-name"
"""The label of Services that another proxy than the cluster's own is to serve."""
DEFAULT_AFFINITY = 10800
MAX_AFFINITY = 86400
"""Seconds; the API refuses more."""
MAX_PORT = 65535

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Converted(Generic[T]):
    """What was made of an object (None: it says nothing to an IPv4 network), and what of it could not be used."""

    value: T | None
    problems: tuple[RecordError, ...] = ()


@dataclass(slots=True)
class _Reader:
    """Reads the parts of one object, and takes down what is wrong with them."""

    name: str
    problems: list[RecordError] = field(default_factory=list)

    def refuse(self, reason: str, remedy: str) -> None:
        self.problems.append(RecordError(self.name, reason, remedy=remedy))

    def address(self, text: str, what: str) -> IPv4Address | None:
        """A unicast IPv4 address that packets may be sent to; None for one of IPv6, which is no fault."""
        if ":" in text:
            return None
        try:
            address = IPv4Address(text)
        except AddressValueError:
            self.refuse(f"{what} {text!r} is not an IP address", "correct or delete the object")
            return None
        # The API refuses these for endpoints too: the loopback of a node is not a place that pods may reach.
        if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
            self.refuse(f"{what} {address} is no address of a host or pod", "use a unicast address")
            return None
        return address

    def protocol(self, text: str | None, what: str) -> Protocol | None:
        try:
            return Protocol[text or "TCP"]
        except KeyError:
            known = ", ".join(protocol.name for protocol in Protocol)
            self.refuse(f"protocol of {what} is {text!r}", f"use one of {known}")
            return None

    def port(self, number: int | None, what: str) -> int | None:
        if number is None or not 1 <= number <= MAX_PORT:
            self.refuse(f"{what} is {number}", f"use 1 to {MAX_PORT}")
            return None
        return number


def service(found: objects.Service) -> Converted[Service]:
    """The Service as the network needs it; without `addresses` if nothing of ours serves it (headless, ExternalName)."""
    meta, spec = found.metadata, found.spec
    reader = _Reader(f"Service {meta.namespace}/{meta.name}")
    ours = spec.type != "ExternalName" and not (meta.labels or {}).get(OTHER_PROXY)
    addresses = tuple(dict.fromkeys(_service_addresses(reader, found))) if ours else ()
    value = Service(
        namespace=meta.namespace,
        name=meta.name,
        addresses=addresses,
        ports=tuple(_service_ports(reader, spec.ports or ())),
        affinity=_affinity(reader, spec),
        local_only=spec.internal_traffic_policy == "Local",
    )
    return Converted(value, tuple(reader.problems))


def endpoint_slice(found: objects.EndpointSlice) -> Converted[EndpointSlice]:
    """The slice; None if it belongs to no Service or holds no IPv4 addresses."""
    meta = found.metadata
    name = (meta.labels or {}).get(SERVICE_NAME, "")
    if not name or found.address_type != "IPv4":
        return Converted(None)
    reader = _Reader(f"EndpointSlice {meta.namespace}/{meta.name}")
    value = EndpointSlice(
        namespace=meta.namespace,
        name=meta.name,
        service=name,
        ports=tuple(_endpoint_ports(reader, found.ports or ())),
        endpoints=tuple(_endpoints(reader, found.endpoints or ())),
    )
    return Converted(value, tuple(reader.problems))


def _service_addresses(reader: _Reader, found: objects.Service) -> Iterator[IPv4Address]:
    """The cluster address of this family first; none at all without one, as a headless Service has no other either."""
    spec = found.spec
    cluster = [text for text in spec.cluster_ips or (spec.cluster_ip or "",) if text and text != "None"]
    read = [reader.address(text, "cluster address") for text in cluster]
    yield from (address for address in read if address is not None)
    if not cluster:
        return
    for text in spec.external_ips or ():
        if (address := reader.address(text, "external address")) is not None:
            yield address
    balancer = found.status.load_balancer
    for entry in (balancer.ingress if balancer is not None else None) or ():
        direct = entry.ip if entry.ip_mode != "Proxy" else None
        if direct and (address := reader.address(direct, "load balancer's address")) is not None:
            yield address


def _service_ports(reader: _Reader, ports: Iterable[objects.ServicePortSpec]) -> Iterator[ServicePort]:
    for entry in ports:
        what = f"port {entry.name or entry.port}"
        protocol = reader.protocol(entry.protocol, what)
        number = reader.port(entry.port, what)
        node_port = reader.port(entry.node_port, f"node port of {what}") if entry.node_port else 0
        if protocol is not None and number is not None:
            yield ServicePort(entry.name or "", protocol, number, node_port or 0)


def _affinity(reader: _Reader, spec: objects.ServiceSpec) -> int | None:
    if spec.session_affinity != "ClientIP":
        return None
    config = spec.session_affinity_config
    client = config.client_ip if config is not None else None
    seconds = client.timeout_seconds if client is not None else None
    if seconds is None:
        return DEFAULT_AFFINITY
    if not 1 <= seconds <= MAX_AFFINITY:
        reader.refuse(
            f"affinity lasts {seconds} s; {DEFAULT_AFFINITY} s are used", f"use 1 to {MAX_AFFINITY} s"
        )
        return DEFAULT_AFFINITY
    return seconds


def _endpoint_ports(reader: _Reader, ports: Iterable[objects.SlicePort]) -> Iterator[EndpointPort]:
    for entry in ports:
        if entry.port is None:
            continue  # any port: of slices that stand for other things than the endpoints of a Service
        what = f"port {entry.name or entry.port}"
        protocol, number = reader.protocol(entry.protocol, what), reader.port(entry.port, what)
        if protocol is not None and number is not None:
            yield EndpointPort(entry.name or "", protocol, number)


def _endpoints(reader: _Reader, endpoints: Iterable[objects.SliceEndpoint]) -> Iterator[Endpoint]:
    for entry in endpoints:
        if not entry.addresses:
            continue
        address = reader.address(entry.addresses[0], "endpoint")
        if address is None:
            continue
        conditions = entry.conditions or objects.EndpointConditions()
        ready = conditions.ready is not False
        yield Endpoint(
            address=address,
            ready=ready,
            serving=ready if conditions.serving is None else conditions.serving,
            terminating=bool(conditions.terminating),
            node=entry.node_name or "",
        )
