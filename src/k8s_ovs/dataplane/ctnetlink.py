"""The kernel's conntrack: forgets the connections of addresses.

For `hostnet`. The host masquerades what pods send to the outside, and host ports lead to pods: such connections must not
find the pod that gets the address next. With the kernel datapath the bridge's own zones are here too. Messages: linux/
netfilter/nfnetlink_conntrack.h. Blocking; in the namespace of the thread that calls it. It tracks nothing itself.
"""

import errno
import struct
from collections.abc import Set
from ipaddress import IPv4Address

from k8s_ovs.dataplane.netlink import F_DUMP, NESTED, Netlink, attr, attributes
from k8s_ovs.errors import LinkError

NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
"""Subsystem 1 (NFNL_SUBSYS_CTNETLINK), messages IPCTNL_MSG_CT_GET and IPCTNL_MSG_CT_DELETE."""
_HEADER = struct.pack("=BBH", 2, 0, 0)
"""struct nfgenmsg: AF_INET, version 0, no resource."""
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE = 1, 2, 12, 18
CTA_TUPLE_IP = 1
CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 2
REMEDY = "load the kernel module nf_conntrack_netlink"
FEW = 16
"""Addresses up to which a message is searched for each of them before it is taken apart."""


def forget(addresses: Set[IPv4Address], zones: Set[int]) -> int:
    """Delete every connection in one of `zones` (0 is the host's own) of which one of `addresses` is an end; how many.

    Raises LinkError.
    """
    wanted = {address.packed for address in addresses}
    if not wanted:
        return 0
    what = f"forgetting the kernel's connections of {len(wanted)} addresses"

    def is_wanted(message: bytes) -> bool:
        return _has_end(message, wanted) and _zone(message) in zones

    try:
        with Netlink(NETLINK_NETFILTER) as kernel:
            found = kernel.request(_GET, _HEADER, F_DUMP, what=what, keep=is_wanted)
            return sum(_delete(kernel, message, what) for message in found)
    except OSError as error:
        raise LinkError(f"{what}: {error.strerror}", errno=error.errno or 0, remedy=REMEDY) from error


def _has_end(message: bytes, wanted: Set[bytes]) -> bool:
    if len(wanted) <= FEW and not any(address in message for address in wanted):
        return False
    parts = attributes(message[len(_HEADER) :])
    for direction in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY):
        ends = attributes(attributes(parts.get(direction, b"")).get(CTA_TUPLE_IP, b""))
        if ends.get(CTA_IP_V4_SRC) in wanted or ends.get(CTA_IP_V4_DST) in wanted:
            return True
    return False


def _zone(message: bytes) -> int:
    return int.from_bytes(attributes(message[len(_HEADER) :]).get(CTA_ZONE, b""), "big")


def _delete(kernel: Netlink, message: bytes, what: str) -> bool:
    """Delete the connection that a message tells of, and no other that has come in its place. False if it is gone."""
    parts = attributes(message[len(_HEADER) :])
    named = [attr(CTA_TUPLE_ORIG | NESTED, parts[CTA_TUPLE_ORIG])]
    named += [attr(kind, parts[kind]) for kind in (CTA_ZONE, CTA_ID) if kind in parts]
    try:
        kernel.request(_DELETE, _HEADER + b"".join(named), what=what)
    except LinkError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
