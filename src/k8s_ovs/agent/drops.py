"""Where packets die: the counters of the pipeline's explicit drops, by stage and reason.

`read_drops` asks the switch; the agent's DropWatcher does so once a while for the metrics, `k8s-ovs drops` when called.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from k8s_ovs.dataplane.bridge import FlowTable
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.names import DROP_BIT, MAGIC, MAGIC_SHIFT, Drop, StageId, describe

log = logging.getLogger(__name__)

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


class DropWatcher(Collector):
    """Reads the counters every `period` seconds, so that a scrape never waits for the switch."""

    def __init__(self, flows: FlowTable, period: float = 5.0) -> None:
        self._flows = flows
        self._period = period
        self._packets: dict[DropCounter, int] = {}

    async def run(self) -> None:
        """Read until cancelled. A switch that is away keeps the last figures."""
        while True:
            try:
                self._packets = await read_drops(self._flows)
            except OpenFlowError as err:
                log.debug("drop counters: %s", err)
            await asyncio.sleep(self._period)

    def collect(self) -> list[Metric]:
        """The figures read last."""
        metric = CounterMetricFamily(
            "k8s_ovs_dropped_packets", "Packets that the pipeline dropped.", labels=["stage", "reason"]
        )
        for counter, packets in self._packets.items():
            metric.add_metric([counter.stage.label, counter.reason.label], packets)
        return [metric]
