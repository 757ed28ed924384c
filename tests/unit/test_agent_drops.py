"""Drop counters, read from the flows' cookies, and their metrics. Time is virtual."""

import asyncio

from prometheus_client import CollectorRegistry

from fakes.dataplane import FakeFlowTable
from fakes.dataplane_examples import flow
from fakes.node import FakeNode, running
from fakes.virtual_time import virtual_time
from k8s_ovs.agent.dropcounts import DropCounter, read_drops
from k8s_ovs.agent.drops import DropWatcher
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.names import Drop, StageId, cookie_of, drop_cookie

SPOOFED = drop_cookie(StageId.POD_IN, Drop.POD_SPOOFED_IP)
NO_POD = drop_cookie(StageId.ROUTE, Drop.NO_SUCH_POD)
UNKNOWN_REASON = SPOOFED & ~0xFFFF | 0xFFFE
"""Of a version of ours with more reasons."""
FOREIGN = 0x1234


def table(*cookies: int) -> FakeFlowTable:
    made = FakeFlowTable()
    made.load(
        flow(f"cookie={cookie:#x},table={number},ip,actions=drop") for number, cookie in enumerate(cookies)
    )
    return made


async def test_drops_with_one_name_are_added_and_others_left_out() -> None:
    flows = table(NO_POD, SPOOFED, SPOOFED, cookie_of(StageId.ROUTE, 7), FOREIGN, UNKNOWN_REASON, 0)
    flows.count(3)
    assert await read_drops(flows) == {
        DropCounter(StageId.POD_IN, Drop.POD_SPOOFED_IP): 6,
        DropCounter(StageId.ROUTE, Drop.NO_SUCH_POD): 3,
    }
    assert list(await read_drops(flows)) == sorted(await read_drops(flows))


@virtual_time
async def test_every_drop_of_a_synchronised_bridge_has_a_name() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        found = await read_drops(node.flows)
    drops = [cookie for cookie, actions in node.flows.content().values() if actions == "drop"]
    assert len(found) >= 10
    assert set(found.values()) == {0}
    assert {drop_cookie(counter.stage, counter.reason) for counter in found} == set(drops)


@virtual_time
async def test_the_watcher_reads_now_and_then_and_a_scrape_costs_nothing() -> None:
    flows = table(SPOOFED)
    watcher = DropWatcher(flows)
    registry = CollectorRegistry()
    registry.register(watcher)

    def sample() -> float | None:
        labels = {"stage": "pod-in", "reason": "pod-spoofed-ip"}
        return registry.get_sample_value("k8s_ovs_dropped_packets_total", labels)

    assert sample() is None
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watcher.run())
        await asyncio.sleep(1)
        assert sample() == 0
        flows.count(5)
        await asyncio.sleep(5)
        calls = len(flows.calls)
        assert sample() == 5
        assert len(flows.calls) == calls
        flows.count(5)
        flows.fail_next("dump", OpenFlowError("no answer"), times=2)
        await asyncio.sleep(10)
        assert sample() == 5
        await asyncio.sleep(5)
        assert sample() == 10
        task.cancel()
