"""What a stage is: the flows that one object adds to its part of the pipeline.

Subclassed by every stage; called by `flows.pipeline`. A stage returns flows and keeps nothing.
"""

from collections.abc import Iterable

from k8s_ovs.flows.diff import Item
from k8s_ovs.flows.group import GroupId
from k8s_ovs.model.records import Backend, Frontend, LocalHost, LocalPod, RemoteHost, TenantPresent


class Stage:
    """A part of the pipeline. The methods say what each kind of object adds; by default nothing."""

    def node(self, local: LocalHost) -> Iterable[Item]:
        """The flows that are there on every node, and follow from its config and its own subnet only."""
        del local
        return ()

    def pod(self, local: LocalHost, pod: LocalPod) -> Iterable[Item]:
        """The flows of a pod on this node."""
        del local, pod
        return ()

    def remote_host(self, local: LocalHost, remote: RemoteHost) -> Iterable[Item]:
        """The flows of another host."""
        del local, remote
        return ()

    def tenant(self, local: LocalHost, tenant: TenantPresent) -> Iterable[Item]:
        """The flows of a tenant that has a pod on this node."""
        del local, tenant
        return ()

    def frontend(self, local: LocalHost, frontend: Frontend, group: GroupId) -> Iterable[Item]:
        """The flows of an address and port of a Service; `group` is the id for its own group."""
        del local, frontend, group
        return ()

    def backend(self, local: LocalHost, backend: Backend) -> Iterable[Item]:
        """The flows of an endpoint, whichever Services it belongs to."""
        del local, backend
        return ()
