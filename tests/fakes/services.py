"""Services and EndpointSlices in few words, for the tests of model and flows."""

from ipaddress import IPv4Address

from k8s_ovs.model.services import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort

PORTS = {"web": (Protocol.TCP, 80, 8080), "dns": (Protocol.UDP, 53, 5353)}
"""Name, protocol, port and target port of what every Service here has."""


def service(
    namespace: str,
    name: str,
    *addresses: str,
    node_port: int = 0,
    affinity: int | None = None,
    local_only: bool = False,
) -> Service:
    """A Service with the ports of `PORTS`; the node port is that of the first."""
    ports = tuple(
        ServicePort(title, protocol, port, node_port if protocol is Protocol.TCP else 0)
        for title, (protocol, port, _) in PORTS.items()
    )
    return Service(namespace, name, tuple(map(IPv4Address, addresses)), ports, affinity, local_only)


def endpoint_slice(namespace: str, name: str, *endpoints: object, number: int = 1) -> EndpointSlice:
    """The Service's slice with this number; an endpoint is itself, or an address (then ready)."""
    ports = tuple(EndpointPort(title, protocol, port) for title, (protocol, _, port) in PORTS.items())
    made = tuple(
        given if isinstance(given, Endpoint) else Endpoint(IPv4Address(str(given))) for given in endpoints
    )
    return EndpointSlice(namespace, f"{name}-{number}", name, ports, made)
