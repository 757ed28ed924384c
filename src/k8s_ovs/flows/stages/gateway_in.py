"""Gateway in: what comes from the host.

The host acts with VNI 0, for itself and for whomever it lets in. Two exceptions: a local pod's packet that the host sends
back (it went out to a node port, say) keeps the pod's own VNI, and any other address of the cluster network has no
business coming from here. ARP follows the same rule; its sender address may also be one of the host's other addresses,
because Linux takes that of the packet that waits for the answer (arp_announce 0, kernel's ip-sysctl).
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import (
    ARP_SPA,
    ARP_TPA,
    ARP_TYPE,
    ETH_TYPE,
    IP_SRC,
    IP_TYPE,
    ORIGIN,
    SOURCE_VNI,
    Origin,
    address,
    prefix,
)
from k8s_ovs.flows.flow import Action, Flow, SetField
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import ARP, GATEWAY_IN, SERVICE, goto
from k8s_ovs.model.records import LocalHost, LocalPod
from k8s_ovs.model.types import GLOBAL_VNI, HAIRPIN_IP, Vni

_IP = (ETH_TYPE.whole, IP_TYPE)
_ARP = (ETH_TYPE.whole, ARP_TYPE)
_GATEWAY = SetField(ORIGIN, Origin.GATEWAY)


class GatewayIn(Stage):
    """The tenant of what the host sends."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """The gateway itself and everything outside the cluster network: VNI 0."""
        own, network = local.gateway, local.config.network
        yield GATEWAY_IN.flow(300, [_IP, address(IP_SRC, own)], _acting_as(GLOBAL_VNI))
        yield GATEWAY_IN.drop(200, [_IP, prefix(IP_SRC, network)], Drop.GATEWAY_SPOOFED_SOURCE)
        # Only the switch gives out this address: a packet that it sent to the host and the host sends back would go in
        # circles.
        yield GATEWAY_IN.drop(200, [_IP, address(IP_SRC, HAIRPIN_IP)], Drop.GATEWAY_SPOOFED_SOURCE)
        yield GATEWAY_IN.flow(100, [_IP], _acting_as(GLOBAL_VNI))
        yield GATEWAY_IN.drop(400, [_ARP, address(ARP_TPA, own)], Drop.GATEWAY_OWN_ADDRESS_ARP)
        yield GATEWAY_IN.flow(300, [_ARP, address(ARP_SPA, own)], [_GATEWAY, goto(ARP)])
        yield GATEWAY_IN.drop(200, [_ARP, prefix(ARP_SPA, network)], Drop.GATEWAY_SPOOFED_ARP)
        yield GATEWAY_IN.flow(100, [_ARP], [_GATEWAY, goto(ARP)])

    def pod(self, local: LocalHost, pod: LocalPod) -> Iterator[Flow]:
        """The pod's packets that come back through the host stay the pod's."""
        del local
        ip = pod.attachment.address
        yield GATEWAY_IN.flow(300, [_IP, address(IP_SRC, ip)], _acting_as(pod.vni), about=int(ip))


def _acting_as(vni: Vni) -> list[Action]:
    return [SetField(SOURCE_VNI, vni), _GATEWAY, goto(SERVICE)]
