"""Pod in: a pod is who its port says, and nobody else.

Port, MAC and IP have to belong together, for ARP as for IP; what then goes on carries the pod's VNI. VXLAN (UDP 4789)
is dropped at once: on the underlay it could pass for a host's. How fragments are stopped is told in `deliver`, which has
the last word on the way to the host.

A pod that asks for its own address does duplicate detection or announces itself (RFC 5227). An answer would make it
believe that the address is taken; so there is none.
"""

from collections.abc import Iterator

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
from k8s_ovs.flows.flow import Flow, SetField
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import ARP, POD_IN, SERVICE, goto
from k8s_ovs.model.records import LocalHost, LocalPod

_IP = (ETH_TYPE.whole, IP_TYPE)
_ARP = (ETH_TYPE.whole, ARP_TYPE)
_POD = SetField(ORIGIN, Origin.POD)


class PodIn(Stage):
    """Spoof protection, and the tenant of what a pod sends."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """No VXLAN; whatever no pod's own flow has taken is spoofed."""
        del local
        vxlan = [_IP, (IP_PROTO.whole, UDP_PROTO), (UDP_DST.whole, VXLAN_PORT)]
        yield POD_IN.drop(400, vxlan, Drop.POD_VXLAN)
        yield POD_IN.drop(100, [_IP], Drop.POD_SPOOFED_IP)
        yield POD_IN.drop(100, [_ARP], Drop.POD_SPOOFED_ARP)

    def pod(self, local: LocalHost, pod: LocalPod) -> Iterator[Flow]:
        """What this port may send."""
        del local
        ip = pod.attachment.address
        about, mac = int(ip), mac_value(pod.attachment.mac)
        port = (IN_PORT.whole, int(pod.ofport))
        sender = (port, (ETH_SRC.whole, mac))
        yield POD_IN.drop(300, [_ARP, port, address(ARP_TPA, ip)], Drop.POD_OWN_ADDRESS_ARP)
        tenant = SetField(SOURCE_VNI, pod.vni)
        yield POD_IN.flow(
            200, [_IP, *sender, address(IP_SRC, ip)], [tenant, _POD, goto(SERVICE)], about=about
        )
        arp = [_ARP, *sender, address(ARP_SPA, ip), (ARP_SHA.whole, mac)]
        yield POD_IN.flow(200, arp, [_POD, goto(ARP)], about=about)
