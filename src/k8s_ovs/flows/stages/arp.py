"""ARP: one stateless flow answers for the whole cluster network.

A pod's MAC is 0a:58 and its IPv4 address, and so is a gateway's: the answer can be computed from the question (RFC 826:
swap sender and target, fill in the MAC asked for). No ARP crosses a tunnel, no neighbour's ARP reaches a pod. The host
also asks for Service addresses and HAIRPIN_IP, because its route to them is on the gateway's link.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import (
    ARP_OP,
    ARP_SHA,
    ARP_SPA,
    ARP_SWAP,
    ARP_THA,
    ARP_TPA,
    ARP_TYPE,
    ETH_DST,
    ETH_SRC,
    ETH_TYPE,
    ORIGIN,
    Bits,
    Field,
    Origin,
    address,
    prefix,
)
from k8s_ovs.flows.flow import Action, Flow, Move, OutputInPort, SetField
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import ARP
from k8s_ovs.model.records import LocalHost
from k8s_ovs.model.types import HAIRPIN_IP

_ARP = (ETH_TYPE.whole, ARP_TYPE)
_REQUEST, _REPLY = 1, 2
_MAC_PREFIX = 0x0A58


class Arp(Stage):
    """The responder."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """Answer requests for pods, and the host's for Services."""
        request = [_ARP, (ARP_OP.whole, _REQUEST)]
        config = local.config
        yield ARP.flow(200, [*request, prefix(ARP_TPA, config.network)], _answer())
        service = [*request, prefix(ARP_TPA, config.service_network), (ORIGIN, Origin.GATEWAY)]
        yield ARP.flow(200, service, _answer())
        hairpin = [*request, address(ARP_TPA, HAIRPIN_IP), (ORIGIN, Origin.GATEWAY)]
        yield ARP.flow(200, hairpin, _answer())
        yield ARP.drop(100, request, Drop.ARP_OUTSIDE_NETWORK)
        yield ARP.drop(50, [_ARP], Drop.ARP_NOT_REQUEST)


def _answer() -> list[Action]:
    return [
        Move(ETH_SRC.whole, ETH_DST.whole),
        Move(ARP_SHA.whole, ARP_THA.whole),
        Move(ARP_SPA.whole, ARP_SWAP),
        Move(ARP_TPA.whole, ARP_SPA.whole),
        Move(ARP_SWAP, ARP_TPA.whole),
        *_mac_of_answer(ARP_SHA),
        *_mac_of_answer(ETH_SRC),
        SetField(ARP_OP.whole, _REPLY),
        OutputInPort(),
    ]


def _mac_of_answer(field: Field) -> tuple[Action, Action]:
    """Write 0a:58 and the address that now is the sender's."""
    high, low = Bits(field.name, field, 32, 16), Bits(field.name, field, 0, 32)
    return SetField(high, _MAC_PREFIX), Move(ARP_SPA.whole, low)
