"""Service reply: what an endpoint answers to a client of this node gets the Service's address back.

Which connection it belongs to, conntrack knows; here is decided what conntrack looks at: packets from the address and
port of an endpoint to an address of this node, and ICMP errors, which speak of a connection without having its ports. What
is part of no translated connection passes unchanged. All other traffic goes on without conntrack.

Fragments: only the first shows a port. Conntrack puts a datagram together, so it has to see all of its fragments: those
of UDP from an endpoint's address, whatever their port.
"""

from collections.abc import Iterator

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import (
    ETH_TYPE,
    FIRST_FRAGMENT,
    HAIRPIN_ZONE,
    ICMP_ERRORS,
    ICMP_PROTO,
    ICMP_TYPE,
    IP_DST,
    IP_FRAG,
    IP_PROTO,
    IP_SRC,
    IP_TYPE,
    LATER_FRAGMENT,
    SERVICE_ZONE,
    SOURCE_PORT,
    address,
    prefix,
)
from k8s_ovs.flows.flow import Ct, Flow
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import HAIRPIN_REPLY, ROUTE, SERVICE_REPLY, goto
from k8s_ovs.model.records import Backend, LocalHost
from k8s_ovs.model.services import Protocol
from k8s_ovs.model.types import HAIRPIN_IP

_IP = (ETH_TYPE.whole, IP_TYPE)
_BACK = Ct(SERVICE_ZONE, ROUTE.number)


class ServiceReply(Stage):
    """The way back."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """Answers to who reached itself, addresses that no Service has, ICMP errors, everything else."""
        hairpin = [_IP, address(IP_DST, HAIRPIN_IP)]
        yield SERVICE_REPLY.flow(400, hairpin, [Ct(HAIRPIN_ZONE, HAIRPIN_REPLY.number)])
        yield SERVICE_REPLY.drop(300, [_IP, prefix(IP_DST, local.config.service_network)], Drop.NO_SERVICE)
        for kind in ICMP_ERRORS:
            error = [_IP, (IP_PROTO.whole, ICMP_PROTO), (ICMP_TYPE.whole, kind)]
            yield SERVICE_REPLY.flow(200, [*error, prefix(IP_DST, local.subnet)], [_BACK])
        yield SERVICE_REPLY.flow(100, [_IP], [goto(ROUTE)])

    def backend(self, local: LocalHost, backend: Backend) -> Iterator[Item]:
        """What the endpoint says to anybody on this node."""
        key = backend.key
        about, protocol = int(key.address), (IP_PROTO.whole, int(key.protocol))
        match = [_IP, protocol, address(IP_SRC, key.address), prefix(IP_DST, local.subnet)]
        port = (SOURCE_PORT[key.protocol].whole, key.port)
        yield SERVICE_REPLY.flow(200, [*match, port], [_BACK], about=about)
        if key.protocol is Protocol.UDP:
            # Two flows, since ovs-ofctl 3.1 reads "nw_frag=yes" as another match than the switch makes of it.
            for fragment in (FIRST_FRAGMENT, LATER_FRAGMENT):
                yield SERVICE_REPLY.flow(150, [*match, (IP_FRAG.whole, fragment)], [_BACK], about=about)
