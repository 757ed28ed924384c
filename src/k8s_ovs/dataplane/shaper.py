"""The shaper at a pod's end of its veth: a token bucket (tbf) that keeps what the pod sends to its limit.

For `links`, in the pod's namespace. Blocking. It makes TCP smooth and lets senders wait instead of losing; it does not
enforce anything, because a pod with CAP_NET_ADMIN can remove it: that is the meter's part (`flows.stages.pod_in`).
Messages: rtnetlink(7), linux/pkt_sched.h; meaning of the parameters: tc-tbf(8).
"""

import errno
import struct
from dataclasses import dataclass

from k8s_ovs.dataplane import netlink as nl
from k8s_ovs.dataplane.rtnetlink import Link
from k8s_ovs.errors import LinkError

NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
TCMSG = struct.Struct("=BxxxiIII")
"""family, interface index, handle, parent, information"""
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
PARMS = struct.Struct("=BBHhHIBBHhHIIII")
"""struct tc_tbf_qopt: rate and peak rate (cell log, link layer, overhead, cell alignment, mpu, octets per second), then
limit in octets, buffer in ticks, MTU"""
ROOT = 0xFFFFFFFF
HANDLE = 0x6B380000
"""By this handle (6b38:) the shaper is known as ours."""
TBF = "tbf"
LINKLAYER_ETHERNET = 1
U32 = 0xFFFFFFFF

BURST_MS = 10
"""What may leave at once, in milliseconds of the limit: as late as a busy kernel may come to it, so that nothing of the limit
is lost; and at 100M less than the switch's receive buffer holds. Far below the burst of the meter that comes behind."""
QUEUE_MS = 100
"""What may wait, in milliseconds of the limit: TCP that fills it finds out what the limit is."""
MIN_QUEUE_FRAMES = 20
MAX_QUEUE = 32 << 20
"""Octets."""
ETHERNET_HEADER = 14


@dataclass(frozen=True, slots=True)
class Bucket:
    """The parameters of a token bucket: `rate` in octets per second, `burst` and `queue` in octets."""

    rate: int
    burst: int
    queue: int

    def options(self) -> bytes:
        """As attributes. The kernel derives the time that the burst takes from TCA_TBF_BURST, and wants no rate table."""
        narrow = min(self.rate, U32)
        rate = (0, LINKLAYER_ETHERNET, 0, 0, 0, narrow)
        parms = nl.attr(TCA_TBF_PARMS, PARMS.pack(*rate, 0, 0, 0, 0, 0, 0, self.burst + self.queue, 0, 0))
        wide = nl.attr(TCA_TBF_RATE64, struct.pack("=Q", self.rate)) if self.rate >= U32 else b""
        return parms + nl.u32(TCA_TBF_BURST, self.burst) + wide


def bucket_of(limit: int, mtu: int) -> Bucket:
    """The shaper of a pod with this limit (bits per second) and MTU (octets)."""
    rate, frame = limit // 8, mtu + ETHERNET_HEADER
    burst = max(rate * BURST_MS // 1000, 2 * frame)
    queue = max(rate * QUEUE_MS // 1000, MIN_QUEUE_FRAMES * frame)
    return Bucket(rate, min(burst, MAX_QUEUE), min(queue, MAX_QUEUE))


def shaped_rate(link: Link) -> int | None:
    """The rate of the shaper of `link` in octets per second; None if it has none of ours."""
    payload = TCMSG.pack(0, link.index, 0, 0, 0)
    with nl.Netlink() as netlink:
        answers = netlink.request(GETQDISC, payload, nl.F_DUMP, what=f"queueing disciplines of {link.name}")
    for answer in answers:
        _, index, handle, parent, _ = TCMSG.unpack_from(answer)
        found = nl.attributes(answer[TCMSG.size :])
        ours = (index, handle, parent) == (link.index, HANDLE, ROOT)
        if ours and nl.string(found.get(TCA_KIND, b"")) == TBF:
            return _rate_of(nl.attributes(found.get(TCA_OPTIONS, b"")))
    return None


def shape(link: Link, limit: int | None) -> None:
    """Give `link` the shaper that `limit` (bits per second) asks for, or take ours away. Raises LinkError.

    A shaper with the right rate stays as it is, with what waits in it; so does the queueing discipline of somebody else
    where there is no limit.
    """
    wanted = bucket_of(limit, link.mtu) if limit is not None else None
    if shaped_rate(link) == (wanted.rate if wanted is not None else None):
        return
    payload = TCMSG.pack(0, link.index, HANDLE, ROOT, 0)
    with nl.Netlink() as netlink:
        if wanted is None:
            _delete(netlink, link, payload)
            return
        payload += nl.text(TCA_KIND, TBF) + nl.nest(TCA_OPTIONS, wanted.options())
        _put(netlink, link, payload, f"shaper of {limit} bit/s")


def _put(netlink: nl.Netlink, link: Link, payload: bytes, what: str) -> None:
    try:
        netlink.request(
            NEWQDISC, payload, nl.F_CREATE | nl.F_REPLACE, what=f"interface {link.name}: {what}: add"
        )
    except LinkError as error:
        if error.errno == errno.ENOENT:  # which elsewhere means that the pod is gone
            remedy = "load the kernel module sch_tbf on this node"
            raise LinkError(error.message, errno=errno.EOPNOTSUPP, remedy=remedy) from error
        raise


def _delete(netlink: nl.Netlink, link: Link, payload: bytes) -> None:
    try:
        netlink.request(DELQDISC, payload, what=f"interface {link.name}: shaper: delete")
    except LinkError as error:
        if error.errno not in {errno.ENOENT, errno.EINVAL}:  # the pod was faster
            raise


def _rate_of(options: dict[int, bytes]) -> int:
    if TCA_TBF_RATE64 in options:
        return nl.number(options[TCA_TBF_RATE64])
    parms = options.get(TCA_TBF_PARMS, b"")
    return int(PARMS.unpack_from(parms)[5]) if len(parms) >= PARMS.size else 0
