"""What one node has to know, as records with keys: the border between the model and the flows.

Made by `model.view`; read by `flows`, which turns each record into the flows of one object. Pure values.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.model.types import Attachment, AttachmentKey, Mac, OfPort, Vni, mac_of


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


ViewKey = LocalHostKey | LocalPodKey | RemoteHostKey | TenantKey

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


ViewRecord = LocalHost | LocalPod | RemoteHost | TenantPresent


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
