"""Every bit that the pipeline uses, by name: packet fields, registers, cookie, conntrack marks and zones.

The only place where a bit is given a meaning; widths and overlaps are checked when this module is imported, and
docs/pipeline.md is generated from it. Field names and NXM names: ovs-fields(7).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from k8s_ovs.errors import PipelineError


def _hex(value: int) -> str:
    return f"{value:#x}" if value else "0"


def _ipv4(value: int) -> str:
    return str(IPv4Address(value))


def _mac(value: int) -> str:
    return ":".join(f"{octet:02x}" for octet in value.to_bytes(6, "big"))


def _slash_hex(mask: int) -> str:
    return f"/{mask:#x}"


def _slash_prefix(mask: int) -> str:
    inverted = mask ^ 0xFFFFFFFF
    if inverted & (inverted + 1) == 0:
        return f"/{mask.bit_count()}"
    return f"/{IPv4Address(mask)}"


def _slash_mac(mask: int) -> str:
    return f"/{_mac(mask)}"


@dataclass(frozen=True, slots=True)
class Field:
    """A packet field or register of Open vSwitch.

    `name` and `nxm` are ovs-ofctl's two spellings, `width` is in bits, `order` the position in which ovs-ofctl prints
    it, `ethertype` (and `protocol`) what a packet must be so that it has the field (0: every packet has it). `show`
    and `show_mask` spell a value and a partial mask.
    """

    name: str
    nxm: str
    width: int
    order: int
    show: Callable[[int], str] = field(default=_hex, compare=False)
    show_mask: Callable[[int], str] = field(default=_slash_hex, compare=False)
    ethertype: int = 0
    protocol: int = 0
    action_name: str = ""

    @property
    def written(self) -> str:
        """The name that set_field uses, where it differs from the one in matches."""
        return self.action_name or self.name

    @property
    def full(self) -> int:
        """The mask with every bit of the field."""
        return (1 << self.width) - 1

    @property
    def whole(self) -> "Bits":
        """The field as bits."""
        return Bits(self.name, self, 0, self.width)


@dataclass(frozen=True, slots=True)
class Bits:
    """`width` bits of a field from bit `start` (0 is the lowest), with a name of their own and a meaning."""

    name: str
    field: Field
    start: int
    width: int
    meaning: str = ""

    @property
    def mask(self) -> int:
        """The bits as a mask of the field."""
        return ((1 << self.width) - 1) << self.start

    def place(self, value: int) -> int:
        """`value` shifted to where the bits are. Raises PipelineError if it does not fit."""
        if value < 0 or value >> self.width:
            raise PipelineError(f"{value:#x} does not fit into the {self.width} bits of {self.name}")
        return value << self.start

    def covers(self, other: "Bits") -> bool:
        """`other` lies within these bits."""
        return self.field == other.field and other.mask & ~self.mask == 0

    @property
    def nxm(self) -> str:
        """The bits as ovs-ofctl spells them in actions."""
        if self.width == self.field.width:
            return f"{self.field.nxm}[]"
        return f"{self.field.nxm}[{self.start}..{self.start + self.width - 1}]"

    def __str__(self) -> str:
        return self.name


ARP_TYPE = 0x0806
IP_TYPE = 0x0800
IPV6_TYPE = 0x86DD
UDP_PROTO = 17

TUN_ID = Field("tun_id", "NXM_NX_TUN_ID", 64, 20)
TUN_SRC = Field("tun_src", "NXM_NX_TUN_IPV4_SRC", 32, 21, _ipv4, _slash_prefix)
TUN_DST = Field("tun_dst", "NXM_NX_TUN_IPV4_DST", 32, 22, _ipv4, _slash_prefix)
REG0 = Field("reg0", "NXM_NX_REG0", 32, 10)
REG1 = Field("reg1", "NXM_NX_REG1", 32, 11)
REG2 = Field("reg2", "NXM_NX_REG2", 32, 12)
REG3 = Field("reg3", "NXM_NX_REG3", 32, 13)
IN_PORT = Field("in_port", "NXM_OF_IN_PORT", 16, 30, str)
VLAN_TCI = Field(
    "vlan_tci", "NXM_OF_VLAN_TCI", 16, 31, lambda value: f"{value:#06x}", lambda mask: f"/{mask:#06x}"
)
ETH_SRC = Field("dl_src", "NXM_OF_ETH_SRC", 48, 32, _mac, _slash_mac, action_name="eth_src")
ETH_DST = Field("dl_dst", "NXM_OF_ETH_DST", 48, 33, _mac, _slash_mac, action_name="eth_dst")
ETH_TYPE = Field("dl_type", "NXM_OF_ETH_TYPE", 16, 34, lambda value: f"{value:#06x}")
IP_SRC = Field("nw_src", "NXM_OF_IP_SRC", 32, 40, _ipv4, _slash_prefix, IP_TYPE)
IP_DST = Field("nw_dst", "NXM_OF_IP_DST", 32, 41, _ipv4, _slash_prefix, IP_TYPE)
ARP_SPA = Field("arp_spa", "NXM_OF_ARP_SPA", 32, 42, _ipv4, _slash_prefix, ARP_TYPE)
ARP_TPA = Field("arp_tpa", "NXM_OF_ARP_TPA", 32, 43, _ipv4, _slash_prefix, ARP_TYPE)
ARP_OP = Field("arp_op", "NXM_OF_ARP_OP", 16, 44, str, _slash_hex, ARP_TYPE)
ARP_SHA = Field("arp_sha", "NXM_NX_ARP_SHA", 48, 45, _mac, _slash_mac, ARP_TYPE)
ARP_THA = Field("arp_tha", "NXM_NX_ARP_THA", 48, 46, _mac, _slash_mac, ARP_TYPE)
IP_PROTO = Field("nw_proto", "NXM_OF_IP_PROTO", 8, 47, str, _slash_hex, IP_TYPE)
UDP_DST = Field("tp_dst", "NXM_OF_UDP_DST", 16, 50, str, _slash_hex, IP_TYPE, UDP_PROTO)

FIELDS: tuple[Field, ...] = tuple(
    sorted((value for value in list(globals().values()) if isinstance(value, Field)), key=lambda f: f.order)
)
"""Every field that a flow may use."""
