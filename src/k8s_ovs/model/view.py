"""skeleton, signatures final."""

from collections.abc import Mapping
from ipaddress import IPv4Address

from k8s_ovs.errors import RecordError
from k8s_ovs.model.events import Event
from k8s_ovs.model.records import LocalHost, ViewKey, ViewRecord
from k8s_ovs.model.state import ClusterState
from k8s_ovs.model.types import Vni


class NodeView:
    """The cluster as one node sees it, kept up to date event by event."""

    def __init__(self, host: str, host_ip: IPv4Address | None = None) -> None:
        """`host` is this node's name; `host_ip`, if given, decides which record is ours when several carry our name."""
        self.host = host
        self.host_ip = host_ip
        self.state = ClusterState()

    def apply(self, event: Event) -> frozenset[ViewKey]:
        """Take in one event; the keys whose record may have changed."""
        raise NotImplementedError

    def record(self, key: ViewKey) -> ViewRecord | None:
        """What the key stands for now; None if there is no such thing, or it may not have flows."""
        raise NotImplementedError

    def records(self) -> dict[ViewKey, ViewRecord]:
        """Every key that has a record."""
        raise NotImplementedError

    @property
    def local(self) -> LocalHost | None:
        """This node, once its config and its own subnet are known."""
        raise NotImplementedError

    def vni_of(self, namespace: str) -> Vni | None:
        """The tenant of a Namespace; None while it is not known."""
        raise NotImplementedError

    @property
    def problems(self) -> Mapping[str, RecordError]:
        """Records that cannot be used as they are, by name (`subnets/192.0.2.1`), with reason and remedy."""
        raise NotImplementedError
