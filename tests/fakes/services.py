"""Services and EndpointSlices in few words, and Hypothesis strategies for them, for the tests of model and flows."""

from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import strategies as st

from k8s_ovs.model.events import EndpointSliceGone, EndpointSliceSet, Event, ServiceGone, ServiceSet
from k8s_ovs.model.services import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort

PORTS = {"web": (Protocol.TCP, 80, 8080), "dns": (Protocol.UDP, 53, 5353)}
"""Name, protocol, port and target port of what every Service here has."""
_PORTS = tuple(EndpointPort(title, protocol, port) for title, (protocol, _, port) in PORTS.items())


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
    made = tuple(
        given if isinstance(given, Endpoint) else Endpoint(IPv4Address(str(given))) for given in endpoints
    )
    return EndpointSlice(namespace, f"{name}-{number}", name, _PORTS, made)


_NAMESPACES = ("red", "blue", "default")
_NAMES = ("web", "kubernetes")
_ADDRESSES = ("10.96.0.1", "10.96.0.2", "203.0.113.80", "172.11.0.9")
_ENDPOINTS = ("172.11.0.2", "172.11.0.3", "172.11.4.9", "192.0.2.2", "198.51.100.7", "10.96.0.2", "127.0.0.1")


def services() -> st.SearchStrategy[Service]:
    """Services that may want the same addresses and node ports, also addresses that nobody may have."""
    return st.builds(
        lambda namespace, name, addresses, node_port, affinity, local_only: service(
            namespace, name, *addresses, node_port=node_port, affinity=affinity, local_only=local_only
        ),
        st.sampled_from(_NAMESPACES),
        st.sampled_from(_NAMES),
        st.lists(st.sampled_from(_ADDRESSES), unique=True, max_size=3),
        st.sampled_from([0, 30080, 30081]),
        st.sampled_from([None, None, 60]),
        st.booleans(),
    )


def endpoint_slices() -> st.SearchStrategy[EndpointSlice]:
    """Slices with endpoints in every state, on any node; a slice may change the Service that it belongs to."""
    endpoint = st.builds(
        Endpoint,
        st.sampled_from(_ENDPOINTS).map(IPv4Address),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["", "node1", "node2"]),
    )
    return st.builds(
        lambda namespace, name, endpoints, number, port: replace(
            endpoint_slice(namespace, name, *endpoints, number=number),
            name=f"slice-{number}",
            ports=port,
        ),
        st.sampled_from(_NAMESPACES),
        st.sampled_from(_NAMES),
        st.lists(endpoint, max_size=4),
        st.integers(1, 2),
        st.sampled_from([_PORTS, _PORTS[:1], (EndpointPort("other", Protocol.TCP, 1),), ()]),
    )


def service_events() -> st.SearchStrategy[Event]:
    """Any event about Services."""
    return st.one_of(
        st.builds(ServiceSet, services()),
        st.builds(EndpointSliceSet, endpoint_slices()),
        st.builds(ServiceGone, st.sampled_from(_NAMESPACES), st.sampled_from(_NAMES)),
        st.builds(EndpointSliceGone, st.sampled_from(_NAMESPACES), st.sampled_from(["slice-1", "slice-2"])),
    )
