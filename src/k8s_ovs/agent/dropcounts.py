"""Where packets die: the counters of the pipeline's explicit drops, by stage and reason.

Asked by the agent's DropWatcher once a while, and by `k8s-ovs drops` when it is called, which needs no metrics.
"""

from collections import Counter
from dataclasses import dataclass

from k8s_ovs.dataplane.bridge import FlowTable
from k8s_ovs.flows.names import DROP_BIT, MAGIC, MAGIC_SHIFT, Drop, StageId, describe

_COOKIE = MAGIC << MAGIC_SHIFT | DROP_BIT
_MASK = 0xFFFF << MAGIC_SHIFT | DROP_BIT


@dataclass(frozen=True, slots=True, order=True)
class DropCounter:
    """A named drop: in which stage, for what reason."""

    stage: StageId
    reason: Drop


async def read_drops(flows: FlowTable) -> dict[DropCounter, int]:
    """Packets that each named drop has counted since its flow was made. Raises OpenFlowError."""
    packets: Counter[DropCounter] = Counter()
    for flow in await flows.dump(_COOKIE, _MASK):
        meaning = describe(flow.cookie)
        if meaning is not None and meaning.drop is not None:
            packets[DropCounter(meaning.stage, meaning.drop)] += flow.packets
    return dict(sorted(packets.items()))
