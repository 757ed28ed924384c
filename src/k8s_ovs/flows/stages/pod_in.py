"""Pod in: a pod is who its port says, and nobody else.

Port, MAC and IP have to belong together, for ARP as for IP; what then goes on carries the pod's VNI. VXLAN (UDP 4789)
is dropped at once: on the underlay it could pass for a host's. How fragments are stopped is told in `deliver`, which has
the last word on the way to the host.

A limit of what the pod sends is a meter here, numbered like the port, behind which nothing of a dropped packet goes on.
It enforces; a shaper inside the pod (`dataplane.links`) makes it smooth. The shaper keeps just below the limit of the
meter, which then drops nothing; a pod that removes its shaper still gets no more than the limit. docs/bandwidth.md has
the measurements behind the numbers.

A pod that asks for its own address does duplicate detection or announces itself (RFC 5227). An answer would make it
believe that the address is taken; so there is none.
"""

from collections.abc import Iterator

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import (
    ARP_SHA,
    ARP_SPA,
    ARP_TPA,
    ARP_TYPE,
    ETH_SRC,
    ETH_TYPE,
    IN_PORT,
    IP_PROTO,
    IP_SRC,
    IP_TYPE,
    ORIGIN,
    SOURCE_VNI,
    UDP_DST,
    UDP_PROTO,
    VXLAN_PORT,
    Origin,
    address,
    mac_value,
)
from k8s_ovs.flows.flow import Action, Flow, MeterAction, SetField
from k8s_ovs.flows.group import Meter, MeterId
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import ARP, POD_IN, SERVICE, goto
from k8s_ovs.model.records import LocalHost, LocalPod

_IP = (ETH_TYPE.whole, IP_TYPE)
_ARP = (ETH_TYPE.whole, ARP_TYPE)
_POD = SetField(ORIGIN, Origin.POD)

METER_PERCENT = 102
"""The meter's rate, as a part of the limit: it has to let pass what the shaper lets pass, whoever's clock is faster."""
METER_BURST_MS = 50
"""The meter's burst, in milliseconds of the limit. It has to hold what the shaper lets go at once, and what piles up while
the switch gets no CPU; TCP behind a shaper was the same with 50 and with 200 ms, as far as a busy machine can tell. A pod
that removes its shaper gets 107% of the limit in the first second (200 ms: 122%), and slows down its own TCP by it."""
MIN_METER_BURST = 75
"""Kilobits: a packet larger than the burst would never pass, and this is a jumbo frame."""
MAX_METER = (1 << 32) - 1
"""Kilobits per second: what the field of OpenFlow holds. Nothing sends 4 Tbit/s through a veth."""


def meter_of(pod: LocalPod) -> Meter | None:
    """The meter of what this pod sends; None without a limit."""
    limit = pod.attachment.limits.egress
    if limit is None:
        return None
    # Meters know whole kilobits: those of small limits have no margin, which only their burst has to make good.
    rate = max(-(-limit // 1000), limit * METER_PERCENT // 100_000)
    burst = max(MIN_METER_BURST, limit * METER_BURST_MS // 1_000_000)
    return Meter(MeterId(pod.ofport), min(rate, MAX_METER), min(burst, MAX_METER))


class PodIn(Stage):
    """Spoof protection, and the tenant of what a pod sends."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """No VXLAN; whatever no pod's own flow has taken is spoofed."""
        del local
        vxlan = [_IP, (IP_PROTO.whole, UDP_PROTO), (UDP_DST.whole, VXLAN_PORT)]
        yield POD_IN.drop(400, vxlan, Drop.POD_VXLAN)
        yield POD_IN.drop(100, [_IP], Drop.POD_SPOOFED_IP)
        yield POD_IN.drop(100, [_ARP], Drop.POD_SPOOFED_ARP)

    def pod(self, local: LocalHost, pod: LocalPod) -> Iterator[Item]:
        """What this port may send, and how much."""
        del local
        ip = pod.attachment.address
        about, mac = int(ip), mac_value(pod.attachment.mac)
        port = (IN_PORT.whole, int(pod.ofport))
        sender = (port, (ETH_SRC.whole, mac))
        yield POD_IN.drop(300, [_ARP, port, address(ARP_TPA, ip)], Drop.POD_OWN_ADDRESS_ARP)
        actions: list[Action] = [SetField(SOURCE_VNI, pod.vni), _POD, goto(SERVICE)]
        if (meter := meter_of(pod)) is not None:
            yield meter
            actions.insert(0, MeterAction(meter.id))
        yield POD_IN.flow(200, [_IP, *sender, address(IP_SRC, ip)], actions, about=about)
        arp = [_ARP, *sender, address(ARP_SPA, ip), (ARP_SHA.whole, mac)]
        yield POD_IN.flow(200, arp, [_POD, goto(ARP)], about=about)
