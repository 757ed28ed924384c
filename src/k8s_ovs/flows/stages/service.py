"""Service: whether a packet is for a Service, and whether its tenant may reach that.

Translation happens once, at the client's own node; so what comes by a tunnel is not for a Service any more. The tenant of
a packet is decided before this stage and compared after it, at the endpoint's host: translation changes addresses,
never identity. The Service's own tenant is compared here, for each packet, also of connections that exist.

An address outside the Service network (an external one) is whatever a Service's owner writes. So it is the Service's only
for its own tenant, and for all others it stays what it is, for the global ones too: else any tenant could take a part of
the world from another, or from whom all trust, the resolver that the cluster's DNS asks, say (CVE-2020-8554).
"""

from collections.abc import Iterator

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import (
    ETH_TYPE,
    ICMP_PROTO,
    IP_DST,
    IP_FRAG,
    IP_PROTO,
    IP_TYPE,
    LATER_FRAGMENT,
    ORIGIN,
    SERVICE_ZONE,
    UDP_PROTO,
    Origin,
    prefix,
)
from k8s_ovs.flows.flow import Ct, Flow
from k8s_ovs.flows.group import GroupId
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.stages.frontends import clients, to_frontend
from k8s_ovs.flows.tables import SERVICE, SERVICE_NEW, SERVICE_REPLY, goto
from k8s_ovs.model.records import Frontend, LocalHost

_IP = (ETH_TYPE.whole, IP_TYPE)
_TRACK = Ct(SERVICE_ZONE, SERVICE_NEW.number)


class Service(Stage):
    """Packets to Services pass through conntrack; all others go on without."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """Not for a Service; and what belongs to a connection with one, but names no port: ICMP, later fragments."""
        yield SERVICE.flow(400, [_IP, (ORIGIN, Origin.TUNNEL)], [goto(SERVICE_REPLY)])
        service = [_IP, prefix(IP_DST, local.config.service_network)]
        yield SERVICE.flow(200, [*service, (IP_PROTO.whole, ICMP_PROTO)], [_TRACK])
        later = [(IP_PROTO.whole, UDP_PROTO), (IP_FRAG.whole, LATER_FRAGMENT)]
        yield SERVICE.flow(200, [*service, *later], [_TRACK])
        yield SERVICE.flow(100, [_IP], [goto(SERVICE_REPLY)])

    def frontend(self, local: LocalHost, frontend: Frontend, group: GroupId) -> Iterator[Item]:
        """The tenants that may reach it."""
        del group
        where, match = frontend.key.address, to_frontend(frontend)
        if where is None:
            return
        external = where not in local.config.service_network
        for client in clients(frontend, own=external):
            yield SERVICE.flow(300, [*match, *client], [_TRACK], about=int(where))
        if not external and not frontend.everybody:
            yield SERVICE.drop(250, match, Drop.SERVICE_TENANT_MISMATCH)
