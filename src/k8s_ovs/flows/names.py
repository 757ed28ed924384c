"""Cookies and their meaning: which stage made a flow, about what, and why it drops.

Used by the stages to mark their flows, and by the CLI and the metrics to say what a flow of the switch is
("drops by stage"). The switch never looks at a cookie.
"""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

MAGIC = 0x6B6F
"""In the highest 16 bits: the flow is ours ("ko")."""
MAGIC_SHIFT = 48
DROP_BIT = 1 << 47
"""The flow drops, and the low 32 bits say why."""
STAGE_SHIFT = 32
STAGE_MASK = 0x7FFF
OBJECT_MASK = 0xFFFFFFFF


class Drop(IntEnum):
    """Why a packet is dropped. The numbers are in cookies: give new ones, never change one."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> "Drop":
        """Each member is a number with a sentence."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    @property
    def label(self) -> str:
        """The name that people see, in metrics and tables."""
        return self.name.lower().replace("_", "-")

    NOT_READY = 1, "the node has no host subnet yet"
    VLAN_TAGGED = 10, "frame with a VLAN tag: pods have none, and a tag would hide what is behind it"
    IPV6 = 11, "IPv6 has no network here yet"
    UNKNOWN_PROTOCOL = 12, "neither IPv4 nor ARP"
    TUNNEL_UNKNOWN_HOST = 20, "VXLAN from an address that is no host of the cluster"
    TUNNEL_ARP = 21, "ARP never crosses a tunnel"
    TUNNEL_SPOOFED_SOURCE = (
        22,
        "source inside the cluster network, but not in the subnet of the host that sent it",
    )
    TUNNEL_FOREIGN_KEY = 23, "a tunnel key where only 0 is allowed"
    POD_VXLAN = 30, "a pod sends VXLAN (UDP 4789)"
    POD_SPOOFED_IP = 31, "a pod sends with another IP or MAC address than its own"
    POD_SPOOFED_ARP = 32, "a pod speaks ARP with another IP or MAC address than its own"
    POD_OWN_ADDRESS_ARP = (
        33,
        "a pod asks for its own address (duplicate detection, announcement): nobody answers",
    )
    POD_OTHER = 34, "neither IPv4 nor ARP of a known pod"
    GATEWAY_SPOOFED_SOURCE = (
        40,
        "from the host with an address of the cluster network that is not on this node",
    )
    GATEWAY_SPOOFED_ARP = 41, "ARP from the host with an address of the cluster network that is not its own"
    GATEWAY_OWN_ADDRESS_ARP = (
        42,
        "the host asks for the gateway's own address (duplicate detection): nobody answers",
    )
    GATEWAY_OTHER = 43, "neither IPv4 nor ARP from the host"
    ARP_NOT_REQUEST = 50, "an ARP reply that nobody asked for"
    ARP_OUTSIDE_NETWORK = 51, "ARP request for an address outside the cluster network"
    NO_SERVICE = 60, "no Service has this address"
    SERVICE_OTHER = 61, "not IPv4 in the service stage"
    SERVICE_TENANT_MISMATCH = 62, "to a Service of another tenant, and neither is global"
    SERVICE_INVALID = (
        63,
        "to or from a Service, but part of no connection that conntrack knows or could begin",
    )
    SERVICE_ENDPOINT = 64, "chosen by a Service for an endpoint that it does not have"
    HAIRPIN_UNKNOWN = 65, "to the address for those who reach themselves, from somebody who does not"
    HAIRPIN_OTHER = 66, "not IPv4 behind the translation of a Service"
    NODE_PORT_OTHER = 67, "to a node's address, but neither the tunnel nor the host is the way"
    NO_SUCH_POD = 70, "address of this node's subnet that no pod has"
    NO_SUCH_HOST = 71, "address of the cluster network that no host's subnet contains"
    NO_TRANSIT = 72, "from a tunnel, but not for this node"
    LOOPBACK_DESTINATION = 73, "to 127.0.0.0/8 or 0.0.0.0/8: would reach the host's own loopback services"
    MULTICAST = 74, "to a multicast address"
    BROADCAST = 75, "to the broadcast address or a reserved one"
    OUTSIDE_NOT_FROM_POD = 76, "to the outside, but not from a pod: the host routes its own traffic itself"
    TENANT_MISMATCH = 80, "source and destination are different tenants, and neither is global"
    VXLAN_TO_HOST = 90, "VXLAN (UDP 4789) on its way to the host, whatever it was before translation"
    HIDDEN_PORT_TO_HOST = 92, "first fragment of a UDP datagram to the host, its port not shown by the switch"
    DELIVER_OTHER = 91, "not IPv4 in the deliver stage"


class StageId(IntEnum):
    """Which part of `flows.stages` made a flow. The numbers are in cookies: give new ones, never change one.

    AFFINITY is the switch's own part: flows that it learned, or that go by themselves; nobody takes them from it.
    """

    CLASSIFY = 1
    TUNNEL = 2
    POD_IN = 3
    GATEWAY_IN = 4
    ARP = 5
    SERVICE = 6
    ROUTE = 7
    TENANT = 8
    DELIVER = 9
    AFFINITY = 10
    SERVICE_REPLY = 11
    SERVICE_NEW = 12
    ENDPOINT = 13
    HAIRPIN = 14
    NODE_PORT = 15

    @property
    def label(self) -> str:
        """The name that people see."""
        return self.name.lower().replace("_", "-")


_NUMBERS = {StageId.TENANT: "VNI", StageId.SERVICE_NEW: "group"}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a cookie says. `about` is the object's number, 0 for none.

    A pod's, host's or endpoint's IPv4 address; in the stage tenant a VNI, in the stage service-new the id of a group.
    """

    stage: StageId
    drop: Drop | None = None
    about: int = 0

    @property
    def address(self) -> IPv4Address:
        """The object's number as an address."""
        return IPv4Address(self.about)

    def __str__(self) -> str:
        if self.drop is not None:
            return f"{self.stage.label}: drop {self.drop.label}"
        if not self.about:
            return self.stage.label
        what = _NUMBERS.get(self.stage)
        return f"{self.stage.label}: {self.address if what is None else f'{what} {self.about}'}"


def cookie_of(stage: StageId, about: int = 0) -> int:
    """The cookie of a flow that lets packets go on."""
    return MAGIC << MAGIC_SHIFT | stage << STAGE_SHIFT | about


def drop_cookie(stage: StageId, reason: Drop) -> int:
    """The cookie of a flow that drops."""
    return MAGIC << MAGIC_SHIFT | DROP_BIT | stage << STAGE_SHIFT | reason


def describe(cookie: int) -> Meaning | None:
    """What a cookie says; None if the flow is not ours, or of a version with other stages or reasons."""
    if cookie >> MAGIC_SHIFT != MAGIC:
        return None
    number = cookie & OBJECT_MASK
    try:
        stage = StageId(cookie >> STAGE_SHIFT & STAGE_MASK)
        if cookie & DROP_BIT:
            return Meaning(stage, drop=_DROPS[number])
    except (ValueError, KeyError):
        return None
    return Meaning(stage, about=number)


_DROPS = {int(reason): reason for reason in Drop}
