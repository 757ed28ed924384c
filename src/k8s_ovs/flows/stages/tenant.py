"""Tenant: who may talk to whom, decided where the destination lives.

The whole of multitenancy: the VNIs are equal, or one of them is 0. Only tenants with a pod on this node have a flow: for
any other there is no destination here. The contract in words and as code: `model.tenancy`.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import DESTINATION_VNI, SOURCE_VNI
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.stages.base import Stage
from k8s_ovs.flows.tables import DELIVER, TENANT, goto
from k8s_ovs.model.records import LocalHost, TenantPresent
from k8s_ovs.model.types import GLOBAL_VNI


class Tenant(Stage):
    """Equal, or global."""

    def node(self, local: LocalHost) -> Iterator[Flow]:
        """Global sources and destinations (the gateway is one)."""
        del local
        yield TENANT.flow(200, [(SOURCE_VNI, GLOBAL_VNI)], [goto(DELIVER)])
        yield TENANT.flow(100, [(DESTINATION_VNI, GLOBAL_VNI)], [goto(DELIVER)])

    def tenant(self, local: LocalHost, tenant: TenantPresent) -> Iterator[Flow]:
        """Within one tenant."""
        del local
        same = [(SOURCE_VNI, tenant.vni), (DESTINATION_VNI, tenant.vni)]
        yield TENANT.flow(300, same, [goto(DELIVER)], about=tenant.vni)
