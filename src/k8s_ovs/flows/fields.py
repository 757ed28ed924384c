"""Every bit that the pipeline uses, by name: packet fields, registers, conntrack states and zones.

The only place where a bit is given a meaning; widths and overlaps are checked when this module is imported, and
docs/pipeline.md is generated from it. Field names and NXM names: ovs-fields(7).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.errors import PipelineError


def _hex(value: int) -> str:
    return f"{value:#x}" if value else "0"


def _ipv4(value: int) -> str:
    return str(IPv4Address(value))


def _mac(value: int) -> str:
    return ":".join(f"{octet:02x}" for octet in value.to_bytes(6, "big"))


_FRAGMENTS = {0: "no", 1: "first", 3: "later"}
FIRST_FRAGMENT, LATER_FRAGMENT = 1, 3
"""What `IP_FRAG` holds for the fragment with offset 0, and for the others."""


_CT_FLAGS = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")
_TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack")


def _ct_flags(value: int, mask: int) -> str:
    return _flags(_CT_FLAGS, value, mask)


def _tcp_flags(value: int, mask: int) -> str:
    return _flags(_TCP_FLAGS, value, mask)


def _flags(names: tuple[str, ...], value: int, mask: int) -> str:
    """`+set-unset`, lowest bit first, as ovs-ofctl prints flags of which some do not count."""
    return "".join(
        ("+" if value >> bit & 1 else "-") + name for bit, name in enumerate(names) if mask >> bit & 1
    )


def _slash_hex(mask: int) -> str:
    return f"/{mask:#x}"


def _slash_prefix(mask: int) -> str:
    inverted = mask ^ 0xFFFFFFFF
    if inverted & (inverted + 1) == 0:
        return f"/{mask.bit_count()}"
    return f"/{IPv4Address(mask)}"


def _slash_mac(mask: int) -> str:
    return f"/{_mac(mask)}"


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A packet field or register of Open vSwitch; made once, in this module, and equal only to itself.

    `name` and `nxm` are ovs-ofctl's two spellings, `width` is in bits, `order` the position in which ovs-ofctl prints
    it (below 8: before the protocol), `ethertype` (and `protocol`) what a packet must be so that it has the field (0: every
    packet has it). `show` and `show_mask` spell a value and a partial mask, `show_flags` both at once.
    """

    name: str
    nxm: str
    width: int
    order: int
    show: Callable[[int], str] = _hex
    show_mask: Callable[[int], str] = _slash_hex
    ethertype: int = 0
    protocol: int = 0
    action_name: str = ""
    show_flags: Callable[[int, int], str] | None = None
    full: int = dataclasses.field(init=False)
    """The mask with every bit of the field."""
    whole: "Bits" = dataclasses.field(init=False, repr=False)
    """The field as bits."""

    def __post_init__(self) -> None:
        """Every match and every mask asks for these: they are made once."""
        object.__setattr__(self, "full", (1 << self.width) - 1)
        object.__setattr__(self, "whole", Bits(self.name, self, 0, self.width))

    @property
    def written(self) -> str:
        """The name that set_field uses, where it differs from the one in matches."""
        return self.action_name or self.name


@dataclass(frozen=True, slots=True)
class Bits:
    """`width` bits of a field from bit `start` (0 is the lowest), with a name of their own and a meaning."""

    name: str
    field: Field
    start: int
    width: int
    meaning: str = ""
    mask: int = dataclasses.field(init=False, repr=False, compare=False)
    """The bits as a mask of the field."""

    def __post_init__(self) -> None:
        """The mask is needed for each match, and made once."""
        object.__setattr__(self, "mask", ((1 << self.width) - 1) << self.start)

    def place(self, value: int) -> int:
        """`value` shifted to where the bits are. Raises PipelineError if it does not fit."""
        if value < 0 or value >> self.width:
            raise PipelineError(f"{value:#x} does not fit into the {self.width} bits of {self.name}")
        return value << self.start

    @property
    def nxm(self) -> str:
        """The bits as ovs-ofctl spells them in actions."""
        if self.width == self.field.width:
            return f"{self.field.nxm}[]"
        if self.width == 1:
            return f"{self.field.nxm}[{self.start}]"
        return f"{self.field.nxm}[{self.start}..{self.start + self.width - 1}]"

    def __str__(self) -> str:
        return self.name


ARP_TYPE = 0x0806
IP_TYPE = 0x0800
IPV6_TYPE = 0x86DD
ICMP_PROTO, TCP_PROTO, UDP_PROTO, SCTP_PROTO = 1, 6, 17, 132
ICMP_ERRORS = (3, 11, 12)
"""ICMP types that speak of another packet: unreachable, time exceeded, parameter problem (RFC 792)."""
VXLAN_PORT = 4789
"""The UDP port of VXLAN (RFC 7348, section 5; also the default of Open vSwitch)."""

TUN_ID = Field("tun_id", "NXM_NX_TUN_ID", 64, 20)
TUN_SRC = Field("tun_src", "NXM_NX_TUN_IPV4_SRC", 32, 21, _ipv4, _slash_prefix)
TUN_DST = Field("tun_dst", "NXM_NX_TUN_IPV4_DST", 32, 22, _ipv4, _slash_prefix)
REG0 = Field("reg0", "NXM_NX_REG0", 32, 10)
REG1 = Field("reg1", "NXM_NX_REG1", 32, 11)
REG2 = Field("reg2", "NXM_NX_REG2", 32, 12)
REG3 = Field("reg3", "NXM_NX_REG3", 32, 13)
REG4 = Field("reg4", "NXM_NX_REG4", 32, 14)
REG5 = Field("reg5", "NXM_NX_REG5", 32, 15)
REG6 = Field("reg6", "NXM_NX_REG6", 32, 16)
CT_STATE = Field("ct_state", "NXM_NX_CT_STATE", 32, 1, show_flags=_ct_flags)
IN_PORT = Field("in_port", "NXM_OF_IN_PORT", 16, 30, str)
VLAN_TCI = Field(
    "vlan_tci", "NXM_OF_VLAN_TCI", 16, 31, lambda value: f"{value:#06x}", lambda mask: f"/{mask:#06x}"
)
ETH_SRC = Field("dl_src", "NXM_OF_ETH_SRC", 48, 32, _mac, _slash_mac, action_name="eth_src")
ETH_DST = Field("dl_dst", "NXM_OF_ETH_DST", 48, 33, _mac, _slash_mac, action_name="eth_dst")
ETH_TYPE = Field("dl_type", "NXM_OF_ETH_TYPE", 16, 34, lambda value: f"{value:#06x}")
IP_SRC = Field("nw_src", "NXM_OF_IP_SRC", 32, 40, _ipv4, _slash_prefix, IP_TYPE, action_name="ip_src")
IP_DST = Field("nw_dst", "NXM_OF_IP_DST", 32, 41, _ipv4, _slash_prefix, IP_TYPE, action_name="ip_dst")
ARP_SPA = Field("arp_spa", "NXM_OF_ARP_SPA", 32, 42, _ipv4, _slash_prefix, ARP_TYPE)
ARP_TPA = Field("arp_tpa", "NXM_OF_ARP_TPA", 32, 43, _ipv4, _slash_prefix, ARP_TYPE)
ARP_OP = Field("arp_op", "NXM_OF_ARP_OP", 16, 44, str, _slash_hex, ARP_TYPE)
ARP_SHA = Field("arp_sha", "NXM_NX_ARP_SHA", 48, 45, _mac, _slash_mac, ARP_TYPE)
ARP_THA = Field("arp_tha", "NXM_NX_ARP_THA", 48, 46, _mac, _slash_mac, ARP_TYPE)
IP_PROTO = Field("nw_proto", "NXM_OF_IP_PROTO", 8, 47, str, _slash_hex, IP_TYPE)
IP_FRAG = Field("nw_frag", "NXM_NX_IP_FRAG", 2, 49, lambda value: _FRAGMENTS[value], _slash_hex, IP_TYPE)
ICMP_TYPE = Field("icmp_type", "NXM_OF_ICMP_TYPE", 8, 50, str, _slash_hex, IP_TYPE, ICMP_PROTO)


def _port(name: str, protocol: str, order: int, number: int) -> Field:
    kind = "OXM_OF" if number == SCTP_PROTO else "NXM_OF"
    nxm = f"{kind}_{protocol}_{'SRC' if name == 'tp_src' else 'DST'}"
    return Field(name, nxm, 16, order, str, _slash_hex, IP_TYPE, number)


TCP_SRC = _port("tp_src", "TCP", 51, TCP_PROTO)
TCP_DST = _port("tp_dst", "TCP", 52, TCP_PROTO)
UDP_SRC = _port("tp_src", "UDP", 51, UDP_PROTO)
UDP_DST = _port("tp_dst", "UDP", 52, UDP_PROTO)
SCTP_SRC = _port("tp_src", "SCTP", 51, SCTP_PROTO)
SCTP_DST = _port("tp_dst", "SCTP", 52, SCTP_PROTO)
SOURCE_PORT: Mapping[int, Field] = {TCP_PROTO: TCP_SRC, UDP_PROTO: UDP_SRC, SCTP_PROTO: SCTP_SRC}
DESTINATION_PORT: Mapping[int, Field] = {TCP_PROTO: TCP_DST, UDP_PROTO: UDP_DST, SCTP_PROTO: SCTP_DST}
TCP_FLAGS = Field(
    "tcp_flags", "NXM_NX_TCP_FLAGS", 12, 53, str, _slash_hex, IP_TYPE, TCP_PROTO, show_flags=_tcp_flags
)


class Origin(IntEnum):
    """Where a packet came from: the values of `ORIGIN`."""

    TUNNEL = 1
    POD = 2
    GATEWAY = 3


SOURCE_VNI = Bits("source VNI", REG0, 0, 24, "tenant that the packet acts for; 0 is global")
ORIGIN = Bits("origin", REG0, 24, 2, "1 tunnel, 2 pod, 3 gateway")
DESTINATION_VNI = Bits(
    "destination VNI", REG1, 0, 24, "tenant of the local pod it goes to; 0 is global, and the gateway"
)
SECOND_VNI = Bits(
    "second VNI", REG4, 0, 24, "while a tenant changes: the other VNI as which the destination can be reached"
)
HAS_SECOND_VNI = Bits("second VNI present", REG4, 24, 1, "the second VNI counts")
OUTPUT_PORT = Bits("output port", REG2, 0, 32, "port that deliver sends it out of")
ARP_SWAP = Bits("ARP swap", REG3, 0, 32, "an address, while the ARP responder swaps sender and target")
TUNNEL_KEY = Bits("tunnel key", TUN_ID, 0, 24, "VNI in the VXLAN header")
TAGGED = Bits("VLAN tag present", VLAN_TCI, 12, 1, "the frame has an 802.1Q tag")

ENDPOINT = Bits("endpoint", REG5, 0, 32, "with affinity: address of the endpoint that was chosen")
ENDPOINT_PORT = Bits("endpoint port", REG6, 0, 16, "with affinity: its port")
CHOSEN = Bits("endpoint chosen", REG6, 16, 1, "with affinity: address and port count")
CHOICE = Bits("choice", REG6, 0, 17, "endpoint port and endpoint chosen together")

CT_NEW = Bits("conntrack: new", CT_STATE, 0, 1)
CT_INVALID = Bits("conntrack: invalid", CT_STATE, 4, 1)
CT_TRACKED = Bits("conntrack: tracked", CT_STATE, 5, 1)
CT_DNAT = Bits("conntrack: destination translated", CT_STATE, 7, 1)
TCP_DATA = Bits("SYN, FIN and RST", TCP_FLAGS, 0, 3)

SERVICE_ZONE, HAIRPIN_ZONE = 1, 2
CT_ZONES: Mapping[str, int] = {"service": SERVICE_ZONE, "hairpin": HAIRPIN_ZONE}
"""Conntrack zones: who was translated to which endpoint; who got another source address because it reached itself. Zone 0
is left to the host's own conntrack."""

METADATA: tuple[Bits, ...] = (
    SOURCE_VNI,
    ORIGIN,
    DESTINATION_VNI,
    SECOND_VNI,
    HAS_SECOND_VNI,
    OUTPUT_PORT,
    ARP_SWAP,
    ENDPOINT,
    ENDPOINT_PORT,
    CHOSEN,
)
"""Every bit to which this program gives a meaning of its own."""


def check_layout(layout: Iterable[Bits]) -> None:
    """Raise PipelineError if bits reach beyond their field, or overlap others."""
    used: dict[Field, int] = {}
    for bits in layout:
        if bits.width < 1 or bits.start < 0 or bits.mask > bits.field.full:
            raise PipelineError(f"{bits.name} does not fit into {bits.field.name} ({bits.field.width} bits)")
        if used.get(bits.field, 0) & bits.mask:
            raise PipelineError(f"{bits.name} overlaps other bits of {bits.field.name}")
        used[bits.field] = used.get(bits.field, 0) | bits.mask


check_layout(METADATA)


def prefix(field: Field, network: IPv4Network) -> tuple[Bits, int]:
    """The test that the address in `field` lies in `network`."""
    length = network.prefixlen
    return Bits(field.name, field, 32 - length, length), int(network.network_address) >> (32 - length)


def address(field: Field, value: IPv4Address) -> tuple[Bits, int]:
    """The test (or the value) that the address in `field` is this one."""
    return field.whole, int(value)


def mac_value(mac: str) -> int:
    """An Ethernet address as a number."""
    return int(mac.replace(":", ""), 16)
