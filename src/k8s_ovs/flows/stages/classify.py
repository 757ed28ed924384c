"""Classify, the first table: where a packet came from, and whether it is anything that has a network here.

A frame with a VLAN tag is dropped before all else: the switch would look through one tag at the IP behind it, but the
frame would be delivered with the tag, unseen by what comes after. IPv6 gets its own counter: it is what people miss first.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import ARP_TYPE, ETH_TYPE, IN_PORT, IP_TYPE, IPV6_TYPE, TAGGED
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import CLASSIFY, GATEWAY_IN, POD_IN, TUNNEL, goto
from k8s_ovs.model.records import LocalHost
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT


class Classify(Stage):
    """Tunnel, gateway or pod; IPv4 and ARP only."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """Three ways in, for two protocols each."""
        del local
        yield CLASSIFY.drop(300, [(TAGGED, 1)], Drop.VLAN_TAGGED)
        yield CLASSIFY.drop(200, [(ETH_TYPE.whole, IPV6_TYPE)], Drop.IPV6)
        for protocol in (IP_TYPE, ARP_TYPE):
            kind = (ETH_TYPE.whole, protocol)
            yield CLASSIFY.flow(100, [kind, (IN_PORT.whole, VXLAN_OFPORT)], [goto(TUNNEL)])
            yield CLASSIFY.flow(100, [kind, (IN_PORT.whole, GATEWAY_OFPORT)], [goto(GATEWAY_IN)])
            yield CLASSIFY.flow(50, [kind], [goto(POD_IN)])
