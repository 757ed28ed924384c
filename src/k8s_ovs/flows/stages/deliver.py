"""Deliver: out of the port that route has chosen.

Open vSwitch never outputs to the port that a packet came in by; with the input port forgotten it does, which a pod needs that
reaches itself through a Service (ovs-actions(7), "output").

The last word on VXLAN is here, behind every translation: nothing with UDP port 4789 goes to the host. A Service whose
port is mapped to 4789 on a node's address would otherwise carry a pod's forged tunnel packet out with the host's address.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import (
    ETH_TYPE,
    IN_PORT,
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
        vxlan = [_IP, (IP_PROTO.whole, UDP_PROTO), (UDP_DST.whole, VXLAN_PORT), (OUTPUT_PORT, GATEWAY_OFPORT)]
        yield DELIVER.drop(200, vxlan, Drop.VXLAN_TO_HOST)
        yield DELIVER.flow(100, [_IP], [SetField(IN_PORT.whole, 0), Output(OUTPUT_PORT)])
