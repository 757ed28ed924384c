"""After `settle`, no packet is handled by what the tables were before; before it, some are."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.dataplane_examples import flow, mod
from fakes.dataplane_wire import PORT, Host, Stream, wired_bridge
from fakes.private_ovs import PrivateOvs, until
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.errors import OpenFlowError

ALLOWED = [
    flow("table=0,priority=10,in_port=1,ip,actions=goto_table:10"),
    flow("table=10,priority=1,ip,actions=output:2"),
]
FORBID = mod(f"add table=10,priority=9,udp,tp_dst={PORT},actions=drop")
ALLOW = mod(f"delete_strict table=10,priority=9,udp,tp_dst={PORT}")
FIRST = 20000


@pytest.fixture
def hosts(ovs: PrivateOvs) -> Iterator[tuple[Host, Host]]:
    with wired_bridge(ovs) as made:
        yield made


async def forbid_again_and_again(table: OfctlFlowTable, stream: Stream, times: int) -> int:
    """How many packets passed that were sent after settle() had returned."""
    passed = 0
    for _ in range(times):
        known = len(stream.received)
        async with asyncio.timeout(20):
            while len(stream.received) < known + 10:
                await asyncio.sleep(0)
        await table.commit([FORBID])
        await table.settle()
        settled = time.monotonic()
        # A packet that passed would have arrived long before 20 more have been sent.
        while time.monotonic() < settled + 0.02:
            await asyncio.sleep(0)
        passed += stream.sent_after(settled)
        stream.received.clear()
        await table.commit([ALLOW])
    return passed


async def test_no_packet_passes_after_settle(ovs: PrivateOvs, hosts: tuple[Host, Host]) -> None:
    table = OfctlFlowTable(ovs.mgmt())
    await table.replace(ALLOWED)
    with Stream(*hosts) as stream:
        assert await forbid_again_and_again(table, stream, 40) == 0


async def test_nor_with_two_thousand_cached_flows(ovs: PrivateOvs, hosts: tuple[Host, Host]) -> None:
    """A round of revalidation then takes long enough to have begun before the commit."""
    count = 2000
    table = OfctlFlowTable(ovs.mgmt())
    ports = range(FIRST, FIRST + count)
    drops = [flow(f"table=10,priority=3,udp,tp_dst={port},actions=drop") for port in ports]
    await table.replace([*ALLOWED, *drops])

    def fill() -> bool:
        with hosts[0].udp() as sender:
            for port in ports:
                sender.sendto(b"cached", (hosts[1].address, port))
        return ovs.appctl("dpctl/dump-flows").count("actions:drop") >= count * 0.9

    with Stream(*hosts) as stream:
        for _ in range(5):
            until(fill, f"{count} cached flows")
            assert await forbid_again_and_again(table, stream, 2) == 0


async def test_settle_without_news_is_soon_done(ovs: PrivateOvs, hosts: tuple[Host, Host]) -> None:
    """Not after the half second that lies between two rounds without news, nor when the main loop sleeps through one."""
    table = OfctlFlowTable(ovs.mgmt())
    await table.replace(ALLOWED)
    took = []
    for _ in range(60):
        begun = time.monotonic()
        await table.settle()
        took.append(time.monotonic() - begun)
    assert max(took) < 0.4
    assert len(await table.dump()) == len(ALLOWED)


async def test_several_settle_side_by_side(ovs: PrivateOvs, hosts: tuple[Host, Host]) -> None:
    table = OfctlFlowTable(ovs.mgmt())
    async with asyncio.timeout(10):
        await asyncio.gather(*(table.settle() for _ in range(5)))
    assert await table.dump() == []


async def test_datapaths_of_two_types_are_purged(ovs: PrivateOvs, caplog: pytest.LogCaptureFixture) -> None:
    """Then ovs-vswitchd cannot wait for its revalidators."""
    ovs.kill_vswitchd()
    ovs.vswitchd = ovs._spawn("ovs-vswitchd", "--enable-dummy", ovs.remote)
    ovs.vsctl("add-br", "other", "--", "set", "bridge", "other", "datapath_type=dummy")
    caplog.set_level(logging.INFO)
    with wired_bridge(ovs) as hosts:
        table = OfctlFlowTable(ovs.mgmt())
        await table.replace(ALLOWED)
        with Stream(*hosts) as stream:
            assert await forbid_again_and_again(table, stream, 5) == 0
    assert "can't wait on multiple udpifs" in caplog.text


async def test_no_switch(tmp_path: Path) -> None:
    with pytest.raises(OpenFlowError, match=r"waiting until .* No such file.*check that ovs-vswitchd runs"):
        await OfctlFlowTable(f"unix:{tmp_path}/br0.mgmt").settle()


async def test_a_switch_that_is_killed_meanwhile(ovs: PrivateOvs, hosts: tuple[Host, Host]) -> None:
    table = OfctlFlowTable(ovs.mgmt())
    await table.settle()
    ovs.kill_vswitchd()
    with pytest.raises(OpenFlowError, match=r"check that ovs-vswitchd runs"):
        await table.settle()
