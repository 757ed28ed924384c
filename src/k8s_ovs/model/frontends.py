"""Which Services can be reached where, and by which endpoints: Services and EndpointSlices as frontends and backends.

A part of `NodeView`. Frontend: an address and port of a Service, or a node port. Backend: an endpoint. An event costs
what it affects: the frontends of one Service, and the endpoints by which a slice differs from what it was. It decides
nothing about tenants, and sends nothing.

Where two Services want the same address and port, the one whose own cluster address it is gets it, else the one whose
Namespace and name come first, whoever came first in time.

Sources: kube-proxy's rules for endpoints (ready ones; if there is none, those that serve while they terminate), Kubernetes
documentation "Service", "Virtual IPs and Service Proxies", "EndpointSlices".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from k8s_ovs.errors import RecordError
from k8s_ovs.model.records import Backend, BackendKey, FrontendKey, LocalHost
from k8s_ovs.model.services import Endpoint, EndpointSlice, Protocol, Service, ServicePort
from k8s_ovs.model.types import HAIRPIN_IP

Name = tuple[str, str]
"""Namespace and name of a Service."""


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    """A Service wants a frontend. The order decides: the lowest gets it."""

    rank: int
    service: Name
    port_name: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a frontend is: the Service and the port of it."""

    service: Service
    port: ServicePort


class FrontendIndex:
    """Services and EndpointSlices as the node `host` sees them."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._services: dict[Name, Service] = {}
        self._slices: dict[Name, dict[str, EndpointSlice]] = {}
        self._claims: dict[FrontendKey, list[_Claim]] = {}
        self._of_namespace: dict[str, set[Name]] = {}
        self._backends: dict[BackendKey, int] = {}
        self.sctp = True

    def replace_service(self, name: Name, service: Service | None) -> set[FrontendKey]:
        """The Service is now this (None: gone); the frontends for which that may make a difference."""
        old = self._services.pop(name, None)
        affected: set[FrontendKey] = set()
        if old is not None:
            for key, claim in _claims(old):
                affected.add(key)
                self._claims[key].remove(claim)
                if not self._claims[key]:
                    del self._claims[key]
            self._of_namespace[name[0]].discard(name)
        if service is not None:
            self._services[name] = service
            self._of_namespace.setdefault(name[0], set()).add(name)
            for key, claim in _claims(service):
                affected.add(key)
                self._claims.setdefault(key, []).append(claim)
        return affected

    def replace_slice(
        self, old: EndpointSlice | None, new: EndpointSlice | None
    ) -> set[FrontendKey | BackendKey]:
        """A slice is now `new` (None: gone), and was `old`; what that may make a difference for."""
        affected: set[FrontendKey | BackendKey] = set()
        before = set(_backends(old)) if old is not None else set()
        after = set(_backends(new)) if new is not None else set()
        if old is not None:
            pieces = self._slices[old.namespace, old.service]
            del pieces[old.name]
            if not pieces:
                del self._slices[old.namespace, old.service]
            affected |= self._keys_of((old.namespace, old.service))
        if new is not None:
            self._slices.setdefault((new.namespace, new.service), {})[new.name] = new
            affected |= self._keys_of((new.namespace, new.service))
        for key in after - before:
            self._backends[key] = self._backends.get(key, 0) + 1
        for key in before - after:
            self._backends[key] -= 1
            if not self._backends[key]:
                del self._backends[key]
        return affected | (before ^ after)

    def in_namespace(self, namespace: str) -> set[FrontendKey]:
        """The frontends that Services of a Namespace want."""
        return {key for name in self._of_namespace.get(namespace, ()) for key in self._keys_of(name)}

    def keys(self) -> Iterator[FrontendKey | BackendKey]:
        """Everything that may have a record."""
        yield from self._claims
        yield from self._backends

    def owner(self, key: FrontendKey, local: LocalHost) -> Owner | None:
        """Whose the frontend is; None if nobody may have it."""
        claims = self._claims.get(key)
        if not claims or self._refusal(key, local) is not None:
            return None
        return self._owner(min(claims), key)

    def backends(self, owner: Owner, key: FrontendKey, local: LocalHost) -> tuple[BackendKey, ...]:
        """Who takes new connections to the frontend, in order of address and port."""
        name = (owner.service.namespace, owner.service.name)
        local_only = (
            owner.service.local_only
            and key.address is not None
            and key.address in local.config.service_network
        )
        ready: set[BackendKey] = set()
        leaving: set[BackendKey] = set()
        for piece in self._slices.get(name, {}).values():
            for backend, endpoint in _serving(piece, owner.port):
                if not _usable(backend.address, local) or (local_only and endpoint.node != self._host):
                    continue
                if endpoint.ready:
                    ready.add(backend)
                elif endpoint.serving and endpoint.terminating:
                    leaving.add(backend)
        return tuple(sorted(ready or leaving, key=lambda backend: (backend.address, backend.port)))

    def backend(self, key: BackendKey, local: LocalHost) -> Backend | None:
        """The endpoint, if some slice has it and packets may be sent to it."""
        if key not in self._backends or not _usable(key.address, local) or not self._can(key.protocol):
            return None
        return Backend(key, key.address in local.subnet)

    def problems(self, local: LocalHost) -> Iterator[RecordError]:
        """What Services want and do not get, and why."""
        for key, claims in self._claims.items():
            first, refusal = min(claims), self._refusal(key, local)
            for claim in claims:
                if refusal is not None:
                    yield _error(claim, key, *refusal)
                elif claim != first:
                    yield _error(
                        claim,
                        key,
                        f"already that of Service {first.service[0]}/{first.service[1]}",
                        "no connection gets to this Service there; give it another address or port",
                    )

    def _owner(self, claim: _Claim, key: FrontendKey) -> Owner:
        service = self._services[claim.service]
        port = next(
            port
            for port in service.ports
            if port.name == claim.port_name
            and port.protocol is key.protocol
            and key.port == (port.node_port if key.address is None else port.port)
        )
        return Owner(service, port)

    def _keys_of(self, name: Name) -> set[FrontendKey]:
        service = self._services.get(name)
        return {key for key, _ in _claims(service)} if service is not None else set()

    def _can(self, protocol: Protocol) -> bool:
        return self.sctp or protocol is not Protocol.SCTP

    def _refusal(self, key: FrontendKey, local: LocalHost) -> tuple[str, str] | None:
        """Why nobody may have the frontend, and what to do; None if somebody may."""
        if not self._can(key.protocol):
            return (
                "the userspace datapath does not track SCTP connections",
                "connect to the pods themselves (a headless Service), or use the kernel's datapath",
            )
        if key.address is None:
            return None
        if key.address in local.config.network:
            # Else its owner could take over what is meant for another tenant's pod (CVE-2020-8554).
            return (
                f"inside Network {local.config.network}, where addresses are pods' own",
                "use an address outside of it",
            )
        if not _usable(key.address, local, also_services=True):
            return "no address that a Service can have", "use a unicast address"
        return None


def _claims(service: Service) -> Iterator[tuple[FrontendKey, _Claim]]:
    """Every frontend that the Service wants, each once."""
    name = (service.namespace, service.name)
    wanted: dict[FrontendKey, _Claim] = {}
    for port in service.ports:
        for number, address in enumerate(service.addresses):
            key = FrontendKey(address, port.protocol, port.port)
            wanted.setdefault(key, _Claim(min(number, 1), name, port.name))
        if port.node_port and service.addresses:
            wanted.setdefault(FrontendKey(None, port.protocol, port.node_port), _Claim(0, name, port.name))
    yield from wanted.items()


def _serving(piece: EndpointSlice, port: ServicePort) -> Iterator[tuple[BackendKey, Endpoint]]:
    for behind in piece.ports:
        if behind.name == port.name and behind.protocol is port.protocol:
            for endpoint in piece.endpoints:
                yield BackendKey(endpoint.address, behind.protocol, behind.port), endpoint


def _backends(piece: EndpointSlice) -> Iterator[BackendKey]:
    for port in piece.ports:
        for endpoint in piece.endpoints:
            yield BackendKey(endpoint.address, port.protocol, port.port)


def _usable(address: IPv4Address, local: LocalHost, *, also_services: bool = False) -> bool:
    """A packet may be sent to this address. Endpoints that are Services themselves would be translated for ever."""
    if address.is_loopback or address.is_multicast or address.is_reserved or int(address) >> 24 == 0:
        return False
    return address != HAIRPIN_IP and (also_services or address not in local.config.service_network)


def _error(claim: _Claim, key: FrontendKey, reason: str, remedy: str) -> RecordError:
    namespace, name = claim.service
    return RecordError(f"services/{namespace}/{name} {key}", reason, remedy=remedy)
