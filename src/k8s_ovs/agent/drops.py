"""Where packets die, for the metrics: the agent's task that reads the counters of the pipeline's drops once a while."""

import asyncio
import logging
from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from k8s_ovs.agent.dropcounts import DropCounter, read_drops
from k8s_ovs.dataplane.bridge import FlowTable
from k8s_ovs.errors import OpenFlowError

log = logging.getLogger(__name__)


class DropWatcher(Collector):
    """Reads the counters every `period` seconds, so that a scrape never waits for the switch."""

    def __init__(self, flows: FlowTable, period: float = 5.0) -> None:
        self._flows = flows
        self._period = period
        self._packets: dict[DropCounter, int] = {}

    @property
    def packets(self) -> Mapping[DropCounter, int]:
        """The figures read last; empty before the first time."""
        return self._packets

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
