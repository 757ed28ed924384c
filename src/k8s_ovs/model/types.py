"""The words of the design as types: ids, records and the pod's lease.

Used by every layer above. Pure values: immutable, comparable, no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import NewType

Vni = NewType("Vni", int)
"""A tenant's id in the VXLAN header, 24 bits (RFC 7348). Called NetID in the etcd records."""
OfPort = NewType("OfPort", int)
"""A port number of the bridge, as OpenFlow sees it."""
SandboxId = NewType("SandboxId", str)
"""CNI_CONTAINERID: the id that the container runtime gave to the pod's sandbox."""
Mac = NewType("Mac", str)
"""An Ethernet address as six lower-case hex octets with colons."""

GLOBAL_VNI = Vni(0)
MIN_TENANT_VNI = Vni(10)
MAX_VNI = Vni((1 << 24) - 1)

VXLAN_OFPORT = OfPort(1)
"""The bridge's port for tunnels, on every node."""
GATEWAY_OFPORT = OfPort(2)
"""The bridge's port to the host itself, on every node."""

GLOBAL_NAMESPACE = "kube-system"
"""The Namespace that is global from the start."""


def mac_of(address: IPv4Address) -> Mac:
    """The MAC of a pod or gateway: 0a:58 followed by its IPv4 address in hex."""
    return Mac("0a:58:" + ":".join(f"{octet:02x}" for octet in address.packed))


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    """The gateway of a host subnet: its first address."""
    return subnet.network_address + 1


@dataclass(frozen=True, slots=True)
class HostSubnet:
    """The pod CIDR of one host (etcd: PREFIX/NAME/subnets/HOSTIP).

    `subnet` is None while a subnet is asked for but not given. `assign` marks an external host: its record is the
    administrator's, and no Node stands behind it. `extra` holds keys of the record that we do not know; they are
    written back as they were.
    """

    host: str
    host_ip: IPv4Address
    subnet: IPv4Network | None
    assign: bool = False
    extra: Mapping[str, object] = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True, slots=True)
class NetNamespace:
    """The tenant record of a Namespace (etcd: PREFIX/NAME/netnamespaces/NAMESPACE).

    `net_id` is None in a request that leaves the choice to us. `action` is empty, "join", "isolate" or "global";
    `other` is the Namespace to join.
    """

    name: str
    net_id: Vni | None
    action: str = ""
    other: str = ""
    extra: Mapping[str, object] = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True, slots=True, order=True)
class AttachmentKey:
    """What identifies an attachment for CNI: the sandbox and the interface's name in it."""

    sandbox: SandboxId
    ifname: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's port on the bridge and the lease of its address: one Interface row of OVSDB.

    `host_ifname` is the host's end of the veth (and the port's name), `netns` the path that the runtime gave,
    `ofport` None until the switch has given one. `mac` follows from `address`.
    """

    key: AttachmentKey
    address: IPv4Address
    namespace: str
    pod: str
    uid: str
    netns: str
    host_ifname: str
    ofport: OfPort | None = None

    @property
    def mac(self) -> Mac:
        """The pod's MAC address."""
        return mac_of(self.address)
