"""skeleton, signatures final."""

from collections.abc import Iterable, Iterator

from k8s_ovs.flows.diff import FlowMod
from k8s_ovs.flows.flow import Flow
from k8s_ovs.model.records import LocalHost, ViewKey, ViewRecord
from k8s_ovs.model.view import NodeView


def flows_of(key: ViewKey, record: ViewRecord | None, local: LocalHost | None) -> tuple[Flow, ...]:
    """The flows of one object."""
    raise NotImplementedError


class DesiredFlows:
    """What the bridge should hold, by the object that wants it."""

    def update(self, view: NodeView, dirty: Iterable[ViewKey] | None = None) -> list[FlowMod]:
        """Compute the flows of the dirty keys again (None: of all); return the differences, each identity once.

        A change of the node itself makes every key dirty without being told.
        """
        raise NotImplementedError

    def all(self) -> Iterator[Flow]:
        """Every flow, each identity once."""
        raise NotImplementedError
