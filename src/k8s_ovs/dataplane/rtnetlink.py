"""Links, addresses and routes of one network namespace, as the kernel has them: rtnetlink(7).

For `links`. Blocking, IPv4 only. It carries out single requests and decides nothing.
"""

import errno
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from socket import AF_INET, AF_INET6, AF_UNSPEC

from k8s_ovs.dataplane import netlink as nl
from k8s_ovs.errors import LinkError
from k8s_ovs.model.types import Mac

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH = 28
NDMSG = struct.Struct("=BxxxiHBB")
"""family, interface index, state, flags, type (linux/neighbour.h)"""
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80

IFINFO = struct.Struct("=BxHiII")
"""family, device type, index, flags, which flags to change"""
IFADDR = struct.Struct("=BBBBI")
"""family, prefix length, flags, scope, index"""
RTMSG = struct.Struct("=BBBBBBBBI")
"""family, destination's and source's prefix length, tos, table, protocol, scope, type, flags"""

IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_TXQLEN = 13
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 18, 20, 26, 27, 28, 29
UNFINISHED = 0x6B386F76
"""The group that a veth is born into: the kernel takes no alias at birth, and a killed agent must not leave a veth
that nobody knows."""
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE = 8, 1
SKIP_STATISTICS = 0x8
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x80, 0x200
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 7, 15
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
RTPROT_ANY = 0
RTPROT_OURS = 107
"""The "protocol" of our routes: it tells them from those of an administrator (`ip route` shows "proto 107")."""
SCOPE_GLOBAL, SCOPE_LINK, SCOPE_ANY = 0, 253, 255


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. `peer` is the index of a veth's other end, in that end's namespace.

    `group` is 0 unless somebody has chosen another. `queue` is the length of the queue that a queueing discipline gets,
    in packets.
    """

    index: int
    name: str
    kind: str
    mac: Mac
    mtu: int
    up: bool
    alias: str
    peer: int
    group: int = 0
    queue: int = 0

    @property
    def unfinished(self) -> bool:
        """Whether it is a veth that `create_veth` has made and that has no alias yet."""
        return self.group == UNFINISHED


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table: `gateway` None means directly connected; `source` is the preferred address."""

    to: IPv4Network
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    protocol: int = field(default=RTPROT_OURS, compare=False)

    @property
    def scope(self) -> int:
        """The scope in the kernel's terms."""
        return SCOPE_LINK if self.gateway is None else SCOPE_GLOBAL


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What to change of an interface; None and False leave it alone. An alias ends the state "unfinished"."""

    mac: Mac | None = None
    mtu: int | None = None
    alias: str | None = None
    queue: int | None = None
    group: int | None = None
    up: bool = False

    def __str__(self) -> str:
        words = [
            f"{name} {getattr(self, name)}"
            for name in ("mac", "mtu", "alias", "queue", "group")
            if getattr(self, name)
        ]
        return ", ".join([*words, "up"] if self.up else words)


class Rtnetlink:
    """The namespace in which it is constructed; close it, or use it as a context manager."""

    def __init__(self) -> None:
        self._netlink = nl.Netlink()

    def __enter__(self) -> "Rtnetlink":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def links(self) -> list[Link]:
        """Every interface."""
        payload = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + nl.u32(IFLA_EXT_MASK, SKIP_STATISTICS)
        return [_link(answer) for answer in self._netlink.request(GETLINK, payload, nl.F_DUMP, what="links")]

    def link(self, name: str) -> Link | None:
        """The interface of this name."""
        payload = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + nl.text(IFLA_IFNAME, name)
        payload += nl.u32(IFLA_EXT_MASK, SKIP_STATISTICS)
        try:
            answers = self._netlink.request(GETLINK, payload, what=f"interface {name}")
        except LinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _link(answers[0])

    def create_veth(self, name: str, peer: str, peer_netns: int, mac: Mac, mtu: int) -> None:
        """Make a pair, down and unfinished, its peer `peer` born with `mac` in the namespace of `peer_netns`."""
        there = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + nl.text(IFLA_IFNAME, peer) + nl.u32(IFLA_MTU, mtu)
        there += nl.u32(IFLA_NET_NS_FD, peer_netns) + nl.attr(IFLA_ADDRESS, _mac_octets(mac))
        kind = nl.text(IFLA_INFO_KIND, "veth")
        data = nl.nest(IFLA_INFO_DATA, nl.attr(VETH_INFO_PEER | nl.NESTED, there))
        here = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + nl.text(IFLA_IFNAME, name) + nl.u32(IFLA_MTU, mtu)
        here += nl.u32(IFLA_GROUP, UNFINISHED)
        payload = here + nl.nest(IFLA_LINKINFO, kind, data)
        self._netlink.request(NEWLINK, payload, nl.F_CREATE | nl.F_EXCL, what=f"veth {name} with peer {peer}")

    def set_link(self, link: Link, change: LinkChange) -> None:
        """Change what is given in `change`."""
        up = IFF_UP if change.up else 0
        payload = IFINFO.pack(AF_UNSPEC, 0, link.index, up, up)
        if change.mac is not None:
            payload += nl.attr(IFLA_ADDRESS, _mac_octets(change.mac))
        if change.mtu is not None:
            payload += nl.u32(IFLA_MTU, change.mtu)
        if change.queue is not None:
            payload += nl.u32(IFLA_TXQLEN, change.queue)
        if change.alias is not None:
            payload += nl.text(IFLA_IFALIAS, change.alias)
        group = 0 if change.alias is not None and link.unfinished else change.group
        if group is not None:
            payload += nl.u32(IFLA_GROUP, group)
        self._netlink.request(NEWLINK, payload, what=f"interface {link.name}: {change}")

    def no_ipv6_address(self, link: Link) -> None:
        """Let the interface come up without a link-local address; a kernel without IPv6 has nothing to do."""
        mode = nl.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE)
        payload = IFINFO.pack(AF_UNSPEC, 0, link.index, 0, 0)
        payload += nl.nest(IFLA_AF_SPEC, nl.nest(AF_INET6, mode))
        try:
            self._netlink.request(NEWLINK, payload, what=f"interface {link.name}: IPv6 off")
        except LinkError as error:
            if error.errno not in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL}:
                raise

    def delete_link(self, link: Link) -> None:
        """Delete the interface, and a veth's other end with it; one that is gone already is no error."""
        payload = IFINFO.pack(AF_UNSPEC, 0, link.index, 0, 0)
        try:
            self._netlink.request(DELLINK, payload, what=f"interface {link.name}: delete")
        except LinkError as error:
            if error.errno != errno.ENODEV:
                raise

    def addresses(self, link: Link | None = None) -> list[tuple[int, IPv4Interface]]:
        """Index of the interface and address, of one interface or of all."""
        payload = IFADDR.pack(AF_INET, 0, 0, 0, link.index if link is not None else 0)
        answers = self._netlink.request(GETADDR, payload, nl.F_DUMP, what="addresses")
        return [_address(answer) for answer in answers]

    def only_address(self, link: Link, wanted: IPv4Interface, *, connected: bool = True) -> bool:
        """Make `wanted` the only address of `link`. Whether it was not.

        `connected` False leaves out the route to the address's own subnet that the kernel would add.
        Deletes first: an address goes away together with an older one of its subnet (unless the sysctl
        promote_secondaries is set), and the routes through it too.
        """
        present = [address for _, address in self.addresses(link)]
        if present == [wanted]:
            return False
        for address in present:
            try:
                self._change_address(DELADDR, 0, link, address)
            except LinkError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
        flags = nl.F_CREATE | nl.F_REPLACE
        self._change_address(
            NEWADDR, flags, link, wanted, IFA_F_PERMANENT if connected else IFA_F_NOPREFIXROUTE
        )
        return True

    def routes(self, link: Link) -> list[Route]:
        """The main table's unicast routes through `link`."""
        payload = RTMSG.pack(AF_INET, 0, 0, 0, RT_TABLE_MAIN, 0, 0, RTN_UNICAST, 0) + nl.u32(
            RTA_OIF, link.index
        )
        answers = self._netlink.request(GETROUTE, payload, nl.F_DUMP, what=f"routes of {link.name}")
        return [_route(answer) for answer in answers]

    def put_route(self, link: Link, route: Route) -> None:
        """Add a route, replacing another to the same destination."""
        flags = nl.F_CREATE | nl.F_REPLACE
        payload = _route_payload(link, route, route.protocol, route.scope)
        self._netlink.request(NEWROUTE, payload, flags, what=f"route {route.to} through {link.name}: add")

    def delete_route(self, link: Link, route: Route) -> None:
        """Delete a route."""
        payload = _route_payload(link, route, RTPROT_ANY, SCOPE_ANY)
        self._netlink.request(DELROUTE, payload, what=f"route {route.to} through {link.name}: delete")

    def put_neighbour(self, link: Link, address: IPv4Address, mac: Mac) -> None:
        """Let `address` have this MAC for good: the kernel need not ask for it."""
        payload = NDMSG.pack(AF_INET, link.index, NUD_PERMANENT, 0, RTN_UNICAST)
        payload += nl.attr(NDA_DST, address.packed) + nl.attr(NDA_LLADDR, _mac_octets(mac))
        flags = nl.F_CREATE | nl.F_REPLACE
        self._netlink.request(NEWNEIGH, payload, flags, what=f"neighbour {address} of {link.name}: add")

    def _change_address(
        self, kind: int, flags: int, link: Link, address: IPv4Interface, address_flags: int = 0
    ) -> None:
        payload = IFADDR.pack(AF_INET, address.network.prefixlen, 0, SCOPE_GLOBAL, link.index)
        payload += nl.attr(IFA_LOCAL, address.ip.packed) + nl.attr(IFA_ADDRESS, address.ip.packed)
        payload += nl.u32(IFA_FLAGS, address_flags)
        verb = "add" if kind == NEWADDR else "delete"
        self._netlink.request(kind, payload, flags, what=f"address {address} of {link.name}: {verb}")


def _route_payload(link: Link, route: Route, protocol: int, scope: int) -> bytes:
    bits = route.to.prefixlen
    payload = RTMSG.pack(AF_INET, bits, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, 0)
    payload += nl.attr(RTA_DST, route.to.network_address.packed) if bits else b""
    payload += nl.u32(RTA_OIF, link.index)
    if route.gateway is not None:
        payload += nl.attr(RTA_GATEWAY, route.gateway.packed)
    if route.source is not None:
        payload += nl.attr(RTA_PREFSRC, route.source.packed)
    return payload


def _link(answer: bytes) -> Link:
    _, _, index, flags, _ = IFINFO.unpack_from(answer)
    found = nl.attributes(answer[IFINFO.size :])
    info = nl.attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=nl.string(found[IFLA_IFNAME]),
        kind=nl.string(info.get(IFLA_INFO_KIND, b"")),
        mac=Mac(found.get(IFLA_ADDRESS, b"").hex(":")),
        mtu=nl.number(found.get(IFLA_MTU, b"")),
        up=bool(flags & IFF_UP),
        alias=nl.string(found.get(IFLA_IFALIAS, b"")),
        peer=nl.number(found.get(IFLA_LINK, b"")),
        group=nl.number(found.get(IFLA_GROUP, b"")),
        queue=nl.number(found.get(IFLA_TXQLEN, b"")),
    )


def _address(answer: bytes) -> tuple[int, IPv4Interface]:
    _, bits, _, _, index = IFADDR.unpack_from(answer)
    found = nl.attributes(answer[IFADDR.size :])
    octets = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return index, IPv4Interface((octets, bits))


def _route(answer: bytes) -> Route:
    _, bits, _, _, _, protocol, _, _, _ = RTMSG.unpack_from(answer)
    found = nl.attributes(answer[RTMSG.size :])
    return Route(
        to=IPv4Network((found.get(RTA_DST, bytes(4)), bits)),
        gateway=IPv4Address(found[RTA_GATEWAY]) if RTA_GATEWAY in found else None,
        source=IPv4Address(found[RTA_PREFSRC]) if RTA_PREFSRC in found else None,
        protocol=protocol,
    )


def _mac_octets(mac: Mac) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
