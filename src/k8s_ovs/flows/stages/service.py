"""Service: where a Service's address becomes an endpoint's. For now no Service has flows, and their addresses are dropped.

The tenant of a packet is decided before this stage and compared after it: translation changes addresses, never identity.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import ETH_TYPE, IP_DST, IP_TYPE, prefix
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import ROUTE, SERVICE, goto
from k8s_ovs.model.records import LocalHost

_IP = (ETH_TYPE.whole, IP_TYPE)


class Service(Stage):
    """Packets to Services stop here; all others pass without conntrack."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """No Service has this address."""
        yield SERVICE.drop(200, [_IP, prefix(IP_DST, local.config.service_network)], Drop.NO_SERVICE)
        yield SERVICE.flow(100, [_IP], [goto(ROUTE)])
