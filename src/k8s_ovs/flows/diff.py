"""The difference between two sets of flows, as flow modifications.

Used by `flows.desired` for what changed, and sent by the dataplane as one bundle. Never talks to a switch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from k8s_ovs.flows.flow import Flow


class Op(StrEnum):
    """What to do with the flow; the values are the commands of a flow file for `ovs-ofctl --bundle add-flows`."""

    ADD = "add"
    DELETE = "delete_strict"


@dataclass(frozen=True, slots=True)
class FlowMod:
    """Add `flow` (replacing the one with the same identity), or delete the flow that has its identity."""

    op: Op
    flow: Flow

    def to_ofctl(self) -> str:
        """A line for `ovs-ofctl --bundle add-flows`."""
        return f"add {self.flow.to_ofctl()}" if self.op is Op.ADD else f"delete_strict {self.flow.selector()}"


def add(flow: Flow) -> FlowMod:
    """The modification that adds or replaces `flow`."""
    return FlowMod(Op.ADD, flow)


def delete(flow: Flow) -> FlowMod:
    """The modification that deletes the flow with the identity of `flow`."""
    return FlowMod(Op.DELETE, flow)


def difference(have: Iterable[Flow], want: Iterable[Flow]) -> list[FlowMod]:
    """What turns `have` into `want`: deletes first, then adds. Each identity occurs once."""
    old = {flow.identity: flow for flow in have}
    new = {flow.identity: flow for flow in want}
    mods = [delete(flow) for identity, flow in old.items() if identity not in new]
    mods += [add(flow) for identity, flow in new.items() if old.get(identity) != flow]
    return mods
