"""Node port: a pod that asks a node for a Service's node port is translated here, with its own identity.

Route has chosen the way to that node already. Were the packet to go there, that host would translate it (kube-proxy does),
put its own address in, and the pod would act as a host: for every tenant. What is no node port goes on to the node.
"""

from collections.abc import Iterator

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.fields import CT_TRACKED, ETH_TYPE, IP_TYPE, OUTPUT_PORT, SERVICE_ZONE
from k8s_ovs.flows.flow import Ct, Flow
from k8s_ovs.flows.group import GroupId
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.stages.frontends import clients, to_frontend
from k8s_ovs.flows.tables import DELIVER, NODE_PORT, SERVICE_NEW, TENANT, goto
from k8s_ovs.model.records import Frontend, LocalHost
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT

_IP = (ETH_TYPE.whole, IP_TYPE)
_NOT_TRANSLATED = (CT_TRACKED, 0)


class NodePort(Stage):
    """Pods' way to nodes."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """To the node itself."""
        del local
        yield NODE_PORT.flow(100, [_IP, (OUTPUT_PORT, VXLAN_OFPORT)], [goto(DELIVER)])
        yield NODE_PORT.flow(100, [_IP, (OUTPUT_PORT, GATEWAY_OFPORT)], [goto(TENANT)])

    def frontend(self, local: LocalHost, frontend: Frontend, group: GroupId) -> Iterator[Item]:
        """The tenants that may reach it."""
        del local, group
        if frontend.key.address is not None:
            return
        match = [*to_frontend(frontend), _NOT_TRANSLATED]
        for client in clients(frontend):
            yield NODE_PORT.flow(300, [*match, *client], [Ct(SERVICE_ZONE, SERVICE_NEW.number)])
        if not frontend.everybody:
            yield NODE_PORT.drop(250, match, Drop.SERVICE_TENANT_MISMATCH)
