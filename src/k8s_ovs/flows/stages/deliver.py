"""Deliver: out of the port that route has chosen.

Open vSwitch never outputs to the port that a packet came in by; with the input port forgotten it does, which a pod needs that
reaches itself through a Service (ovs-actions(7), "output").

The last word on VXLAN is here, behind every translation: nothing with UDP port 4789 goes to the host. A Service whose
port is mapped to 4789 on a node's address would otherwise carry a pod's forged tunnel packet out with the host's address.

Fragments: by default the switch shows port 0 for every fragment, the first included (ovs-ofctl(8), set-frags normal), and a
datagram to port 4789 in two pieces would pass. The dataplane sets the mode nx-match, in which the first fragment shows
its port. Should the mode be lost, a first fragment with port 0 is dropped rather than trusted. The later fragments
may pass: without the first, which holds the whole UDP header (at least 8 octets, RFC 791), they never become a datagram.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import (
    ETH_TYPE,
    FIRST_FRAGMENT,
    IN_PORT,
    IP_FRAG,
    IP_PROTO,
    IP_TYPE,
    OUTPUT_PORT,
    UDP_DST,
    UDP_PROTO,
    VXLAN_PORT,
)
from k8s_ovs.flows.flow import Flow, Output, SetField
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import DELIVER
from k8s_ovs.model.records import LocalHost
from k8s_ovs.model.types import GATEWAY_OFPORT

_IP = (ETH_TYPE.whole, IP_TYPE)


class Deliver(Stage):
    """Output."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """One flow for all ports."""
        del local
        udp_to_host = [_IP, (IP_PROTO.whole, UDP_PROTO), (OUTPUT_PORT, GATEWAY_OFPORT)]
        yield DELIVER.drop(200, [*udp_to_host, (UDP_DST.whole, VXLAN_PORT)], Drop.VXLAN_TO_HOST)
        hidden = [(IP_FRAG.whole, FIRST_FRAGMENT), (UDP_DST.whole, 0)]
        yield DELIVER.drop(200, [*udp_to_host, *hidden], Drop.HIDDEN_PORT_TO_HOST)
        yield DELIVER.flow(100, [_IP], [SetField(IN_PORT.whole, 0), Output(OUTPUT_PORT)])
