"""The Services of a lab as destinations of the matrix: which address and port, and who answers there.

Called by `matrix`. It reads the API as any client does, and works out by itself who stands behind a Service: what the
agents make of the same objects is what the matrix is to judge.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from k8s_ovs.errors import KubeError, LabError
from k8s_ovs.lab.cluster import Cluster
from k8s_ovs.lab.probes import Protocol
from k8s_ovs.model import services as model
from k8s_ovs.sources.kube import services as convert
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import ENDPOINT_SLICES, SERVICES

_Point = tuple[IPv4Address | None, int, frozenset[tuple[IPv4Address, int]]]
"""Address, port and endpoints."""
_PROBED = {model.Protocol.TCP: Protocol.TCP, model.Protocol.UDP: Protocol.UDP}


@dataclass(frozen=True, slots=True)
class ServicePoint:
    """One port number of a Service: `protocols` spoken there, and the endpoints behind.

    `address` None: it is a node port. Protocols whose endpoints differ are different points.
    """

    namespace: str
    name: str
    address: IPv4Address | None
    port: int
    protocols: tuple[Protocol, ...]
    backends: frozenset[tuple[IPv4Address, int]]

    @property
    def title(self) -> str:
        """As the matrix names it."""
        return f"service {self.namespace}/{self.name}:{self.port}"


async def read(cluster: Cluster) -> list[ServicePoint]:
    """Every Service that has an address and an endpoint that takes connections. Raises LabError."""
    try:
        credentials = load_credentials(KubeSettings(kubeconfig=cluster.kubeconfig))
        async with KubeClient(credentials, component="lab") as kube:
            services, slices = await kube.list(SERVICES), await kube.list(ENDPOINT_SLICES)
    except KubeError as err:
        raise LabError(f"the Services are not known: {err}", remedy="see `k8s-ovs lab status`") from err
    found = [made for made in (convert.service(item).value for item in services) if made is not None]
    pieces = [piece for piece in (convert.endpoint_slice(item).value for item in slices) if piece is not None]
    return sorted(points(found, pieces), key=lambda point: point.title)


def points(
    services: Iterable[model.Service], slices: Sequence[model.EndpointSlice]
) -> Iterator[ServicePoint]:
    """What can be probed of these."""
    for service in services:
        if not service.addresses or service.local_only:
            continue
        behind: dict[_Point, list[Protocol]] = {}
        for port in service.ports:
            backends = frozenset(_backends(service, port, slices))
            if not backends or port.protocol not in _PROBED:
                continue
            behind.setdefault((service.addresses[0], port.port, backends), []).append(_PROBED[port.protocol])
            if port.node_port:
                behind.setdefault((None, port.node_port, backends), []).append(_PROBED[port.protocol])
        for (address, number, backends), protocols in behind.items():
            yield ServicePoint(service.namespace, service.name, address, number, tuple(protocols), backends)


def _backends(
    service: model.Service, port: model.ServicePort, slices: Iterable[model.EndpointSlice]
) -> Iterator[tuple[IPv4Address, int]]:
    """The ready endpoints of a port; if there is none, those that still serve while they terminate."""
    all_of_it = [
        (endpoint, behind.port)
        for piece in slices
        if (piece.namespace, piece.service) == (service.namespace, service.name)
        for behind in piece.ports
        if (behind.name, behind.protocol) == (port.name, port.protocol)
        for endpoint in piece.endpoints
    ]
    ready = [(endpoint.address, number) for endpoint, number in all_of_it if endpoint.ready]
    leaving = [
        (endpoint.address, number)
        for endpoint, number in all_of_it
        if endpoint.serving and endpoint.terminating
    ]
    yield from ready or leaving
