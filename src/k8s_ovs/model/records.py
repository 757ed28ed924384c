"""What one node has to know, as records with keys: the border between the model and the flows.

Made by `model.view`; read by `flows`, which turns each record into the flows of one object. Pure values.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.model.services import Protocol
from k8s_ovs.model.types import GLOBAL_VNI, Attachment, AttachmentKey, Mac, OfPort, Vni, mac_of


@dataclass(frozen=True, slots=True)
class LocalHostKey:
    """The node itself; always there, even while the node has no subnet yet."""


@dataclass(frozen=True, slots=True)
class LocalPodKey:
    """A pod on this node."""

    attachment: AttachmentKey


@dataclass(frozen=True, slots=True)
class RemoteHostKey:
    """Another host of the cluster, by the address that it sends VXLAN from."""

    host_ip: IPv4Address


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A tenant, by its VNI."""

    vni: Vni


@dataclass(frozen=True, slots=True)
class FrontendKey:
    """Where a Service is reached: an address of its own, or (None) any node's address, with protocol and port."""

    address: IPv4Address | None
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        where = "node port " if self.address is None else f"{self.address}:"
        return f"{where}{self.port}/{self.protocol.name}"


@dataclass(frozen=True, slots=True)
class BackendKey:
    """An endpoint of some Service: address, protocol and port."""

    address: IPv4Address
    protocol: Protocol
    port: int


ViewKey = LocalHostKey | LocalPodKey | RemoteHostKey | TenantKey | FrontendKey | BackendKey

LOCAL_HOST = LocalHostKey()


@dataclass(frozen=True, slots=True)
class LocalHost:
    """The node itself: the network config, its own subnet, the gateway's address in it, and its VTEP address."""

    config: NetworkConfig
    host_ip: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address

    @property
    def gateway_mac(self) -> Mac:
        """The gateway's MAC address."""
        return mac_of(self.gateway)

    @property
    def multitenant(self) -> bool:
        """Tenants are kept apart."""
        return self.config.mode is Mode.MULTITENANT


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod on this node whose port and tenant are known.

    `vni` is what it sends with; `accepts` the one or two as which it can be reached (see `Tenant.accepts`).
    """

    attachment: Attachment
    ofport: OfPort
    vni: Vni
    accepts: tuple[Vni, ...]


@dataclass(frozen=True, slots=True)
class RemoteHost:
    """Another host: its VTEP address and its subnet, which no other host's overlaps."""

    host_ip: IPv4Address
    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class TenantPresent:
    """A tenant (never the global one) as which a pod on this node can be reached.

    `first` and `second` say whether it is the first or the second that some pod accepts; the second exists only while
    a tenant changes.
    """

    vni: Vni
    first: bool = True
    second: bool = False


@dataclass(frozen=True, slots=True)
class Frontend:
    """One address and port at which one Service can be reached, and who takes its new connections.

    `accepts` are the VNIs as which it can be reached (see `Tenant.accepts`; empty while its Namespace has no tenant),
    `open_to_all` overrules them. `backends` are in order of address and port; none means that connections are
    refused. `affinity` is the time in seconds for which a client stays with its endpoint, None without affinity.
    """

    key: FrontendKey
    namespace: str
    name: str
    accepts: tuple[Vni, ...]
    open_to_all: bool
    backends: tuple[BackendKey, ...]
    affinity: int | None = None

    @property
    def everybody(self) -> bool:
        """Whoever asks may reach it."""
        return self.open_to_all or GLOBAL_VNI in self.accepts


@dataclass(frozen=True, slots=True)
class Backend:
    """An endpoint of some Service, whether it takes new connections or not; `local`: it may be a pod of this node."""

    key: BackendKey
    local: bool


ViewRecord = LocalHost | LocalPod | RemoteHost | TenantPresent | Frontend | Backend


def key_order(key: ViewKey) -> tuple[int, int, str, str]:
    """A total order of keys: decides, always the same way, who goes first where two claim one thing."""
    match key:
        case LocalHostKey():
            return (0, 0, "", "")
        case LocalPodKey(attachment):
            return (1, 0, attachment.sandbox, attachment.ifname)
        case RemoteHostKey(host_ip):
            return (2, int(host_ip), "", "")
        case TenantKey(vni):
            return (3, vni, "", "")
        case FrontendKey(address, protocol, port):
            return (4, _number(address, protocol, port), "", "")
        case BackendKey(address, protocol, port):
            return (5, _number(address, protocol, port), "", "")


def _number(address: IPv4Address | None, protocol: Protocol, port: int) -> int:
    return (int(address) if address is not None else 0) << 24 | protocol << 16 | port
