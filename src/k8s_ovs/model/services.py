"""Services and their endpoints as Kubernetes states them, reduced to what the network needs. Pure values.

Made by `sources.kube` from the API's objects; kept by `model.state`; `model.view` turns them into frontends with
backends. Only IPv4 is here; what has no IPv4 address arrives without one.
"""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address


class Protocol(IntEnum):
    """A transport protocol; the value is its IP protocol number (IANA)."""

    TCP = 6
    UDP = 17
    SCTP = 132


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service. `name` is empty if the Service has only one; `node_port` 0 means none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service (core/v1) with a cluster address; a headless one has no `addresses` and asks for nothing.

    `addresses` are its ClusterIP first, then external IPs and those of its load balancer. `affinity` is the timeout of
    ClientIP session affinity in seconds, None without affinity. `local_only` is internalTrafficPolicy Local.
    """

    namespace: str
    name: str
    addresses: tuple[IPv4Address, ...]
    ports: tuple[ServicePort, ...]
    affinity: int | None = None
    local_only: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of a slice. `node` is the node that it runs on, empty if not known."""

    address: IPv4Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class EndpointPort:
    """A port of all endpoints of a slice; `name` says which port of the Service it is behind."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """An EndpointSlice (discovery.k8s.io/v1) of the Service `service` of its Namespace."""

    namespace: str
    name: str
    service: str
    ports: tuple[EndpointPort, ...]
    endpoints: tuple[Endpoint, ...]
