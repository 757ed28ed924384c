"""Tenant: who may talk to whom, decided where the destination lives.

The whole of multitenancy: the VNIs are equal, or one of them is 0. Only tenants with a pod on this node have a flow: for
any other there is no destination here. The contract in words and as code: `model.tenancy`.

While a tenant changes from one VNI to another, its pods can be reached as both; each of its pods says so itself, because
others may share one of the two and do not change.
"""

from collections.abc import Iterator

from k8s_ovs.flows.fields import DESTINATION_VNI, HAS_SECOND_VNI, SECOND_VNI, SOURCE_VNI
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
        source = (SOURCE_VNI, tenant.vni)
        if tenant.first:
            yield TENANT.flow(300, [source, (DESTINATION_VNI, tenant.vni)], [goto(DELIVER)], about=tenant.vni)
        if tenant.second:
            also = [source, (SECOND_VNI, tenant.vni), (HAS_SECOND_VNI, 1)]
            yield TENANT.flow(300, also, [goto(DELIVER)], about=tenant.vni)
