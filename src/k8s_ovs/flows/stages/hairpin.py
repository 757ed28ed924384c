"""Hairpin: who reaches itself through a Service gets another source address, else it would not answer.

Nobody answers a packet from its own address. A pod that is its Service's endpoint, or the host when the endpoint is
reached through the host again (itself, another host, the outside): the source becomes HAIRPIN_IP, in a conntrack zone of its
own, because a connection has one translation in a zone. Answers to HAIRPIN_IP are translated back there first, then in the
Services' zone. A new connection to a Service without endpoints comes here too, as it is, on its way to the host's refusal.
"""

from collections.abc import Iterator

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import (
    CT_INVALID,
    CT_NEW,
    CT_TRACKED,
    ETH_TYPE,
    HAIRPIN_ZONE,
    ICMP_PROTO,
    IP_DST,
    IP_PROTO,
    IP_SRC,
    IP_TYPE,
    ORIGIN,
    SERVICE_ZONE,
    Origin,
    address,
    prefix,
)
from k8s_ovs.flows.flow import Ct, Flow, Nat, SetField
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import HAIRPIN, HAIRPIN_REPLY, ROUTE, goto
from k8s_ovs.model.records import Backend, LocalHost
from k8s_ovs.model.types import HAIRPIN_IP

_IP = (ETH_TYPE.whole, IP_TYPE)
_FROM_HOST = (ORIGIN, Origin.GATEWAY)
_DISGUISE = Ct(HAIRPIN_ZONE, ROUTE.number, Nat(HAIRPIN_IP, source=True))


class Hairpin(Stage):
    """Out through the door one came in by, as somebody else."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """The host's own, both ways; and everybody else's as it is."""
        yield HAIRPIN.flow(300, [_IP, _FROM_HOST, address(IP_DST, local.gateway)], [_DISGUISE])
        network = prefix(IP_DST, local.config.network)
        yield HAIRPIN.flow(200, [_IP, _FROM_HOST, network], [goto(ROUTE)])
        yield HAIRPIN.flow(150, [_IP, _FROM_HOST], [_DISGUISE])
        yield HAIRPIN.flow(100, [_IP], [goto(ROUTE)])
        known = [_IP, (CT_TRACKED, 1), (CT_NEW, 0), (CT_INVALID, 0)]
        back = Ct(SERVICE_ZONE, ROUTE.number)
        yield HAIRPIN_REPLY.flow(100, known, [back])
        # The host's ICMP error about what it sent itself: nobody takes a packet from its own address, here neither.
        own = [*known, (IP_PROTO.whole, ICMP_PROTO), address(IP_SRC, local.gateway)]
        yield HAIRPIN_REPLY.flow(200, own, [SetField(IP_SRC.whole, int(HAIRPIN_IP)), back])

    def backend(self, local: LocalHost, backend: Backend) -> Iterator[Item]:
        """An endpoint here that is its own client."""
        where = backend.key.address
        if backend.local and where != local.gateway:
            itself = [_IP, address(IP_SRC, where), address(IP_DST, where)]
            yield HAIRPIN.flow(300, itself, [_DISGUISE], about=int(where))
