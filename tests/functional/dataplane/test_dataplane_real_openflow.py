"""OfctlFlowTable on a real switch: size, counters, atomicity under traffic, and switches that do not answer."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from fakes.dataplane_examples import flow, group, meter, mod
from fakes.private_ovs import PrivateOvs, netns_path
from k8s_ovs.dataplane.bridge import SyncResult
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.openflow_compare import LEARNED
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.diff import Item, add
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.group import MAX_BUCKETS, Meter


@pytest.fixture
def bridge(ovs: PrivateOvs) -> PrivateOvs:
    ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure")
    return ovs


def many(count: int) -> list[Flow]:
    """Flows as a big cluster has them."""
    return [
        flow(
            f"cookie={number:#x},table={number % 50},priority={100 + number % 3},ip,"
            f"nw_dst=10.{number >> 8}.{number & 255}.0/24,actions=set_field:{number:#x}->reg1,resubmit(,100)"
        )
        for number in range(count)
    ]


async def test_two_thousand_flows_are_synchronised_by_difference(bridge: PrivateOvs) -> None:
    table = OfctlFlowTable(bridge.mgmt())
    assert await table.replace(many(2000)) == SyncResult(added=2000, deleted=0)
    assert await table.replace(many(2000)) == SyncResult(added=0, deleted=0)
    assert await table.replace(many(1990)) == SyncResult(added=0, deleted=10)
    assert len(await table.dump()) == 1990


async def replace_when_served(table: OfctlFlowTable, flows: list[Flow]) -> None:
    """Synchronise a switch that is just starting."""
    async with asyncio.timeout(20):
        while True:
            try:
                await table.replace(flows)
            except OpenFlowError:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a_bundle_goes_through_the_process_that_stands_by_also_when_the_switch_was_restarted_meanwhile(
    bridge: PrivateOvs,
) -> None:
    table = OfctlFlowTable(bridge.mgmt())
    standing_by = asyncio.create_task(table.stand_by(), name="stand-by")
    try:
        for round_ in range(1, 4):
            await table.commit([add(one) for one in many(round_)])
            assert len(await table.dump()) == round_
            if round_ == 2:
                bridge.kill_vswitchd()
                bridge.start_vswitchd()
                await replace_when_served(table, many(round_))
    finally:
        standing_by.cancel()
        await asyncio.wait({standing_by})


async def test_a_process_that_stood_by_for_nothing_changes_nothing(bridge: PrivateOvs) -> None:
    """Killed agents leave one: its input ends, empty."""
    table = OfctlFlowTable(bridge.mgmt())
    await table.replace(many(3))
    bridge.ofctl("bundle", bridge.mgmt(), "/dev/null")
    assert len(await table.dump()) == 3


async def test_a_synchronisation_makes_the_switch_look_at_the_ports_of_first_fragments(
    bridge: PrivateOvs,
) -> None:
    assert "nx-match" not in bridge.ofctl("get-frags", bridge.mgmt())
    await OfctlFlowTable(bridge.mgmt()).replace([])
    assert "nx-match" in bridge.ofctl("get-frags", bridge.mgmt())


async def test_a_synchronisation_keeps_the_counters_of_what_stays(bridge: PrivateOvs) -> None:
    bridge.vsctl(
        "add-port", "br0", "tun0", "--", "set", "interface", "tun0", "type=internal", "ofport_request=2"
    )
    bridge.exec("ip", "link", "set", "tun0", "up")
    bridge.exec("ip", "address", "add", "192.0.2.1/24", "dev", "tun0")
    bridge.exec("ip", "neighbour", "add", "192.0.2.2", "lladdr", "0a:58:c0:00:02:02", "dev", "tun0")
    table = OfctlFlowTable(bridge.mgmt())
    counted = flow("table=0,priority=10,udp,nw_dst=192.0.2.2,actions=drop")
    await table.replace([counted])

    async def packets() -> int:
        return {stats.priority: stats.packets for stats in await table.dump()}[10]

    with call_in(
        netns_path(bridge.netns), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ) as sender:
        async with asyncio.timeout(20):
            while await packets() < 3:
                sender.sendto(b"counted", ("192.0.2.2", 9))
    before = await packets()
    assert await table.replace([counted, *many(10)]) == SyncResult(added=10, deleted=0)
    assert await packets() >= before


async def test_a_thousand_services_are_compared_quickly_and_not_sent_again(
    bridge: PrivateOvs,
) -> None:
    table = OfctlFlowTable(bridge.mgmt())
    items: list[Item] = [
        *many(20_000),
        *(
            group(n, *(f"ct(commit,table=70,zone=1,nat(dst=10.1.{n % 250}.{b}:80))" for b in range(5)))
            for n in range(1000)
        ),
        *map(meter, range(1, 301)),
    ]
    assert await table.replace(items) == SyncResult(added=21_300, deleted=0)
    version = bridge.appctl("coverage/read-counter", "rev_flow_table")
    begun = time.monotonic()
    assert await table.replace(items) == SyncResult(added=0, deleted=0)
    assert time.monotonic() - begun < 5
    assert bridge.appctl("coverage/read-counter", "rev_flow_table") == version
    assert await table.replace(items[:-1]) == SyncResult(added=0, deleted=1)


async def test_a_group_of_as_many_buckets_as_we_make(bridge: PrivateOvs) -> None:
    buckets = [
        f"ct(commit,table=70,zone=1,nat(dst=10.1.{n // 250}.{n % 250}:80))" for n in range(MAX_BUCKETS)
    ]
    table = OfctlFlowTable(bridge.mgmt())
    items = [group(1, "group:2"), group(2, *buckets)]
    assert await table.replace(items) == SyncResult(added=2, deleted=0)
    assert await table.replace(items) == SyncResult(added=0, deleted=0)


async def test_flows_learned_from_a_packet_survive(bridge: PrivateOvs) -> None:
    cookie, mask = LEARNED
    learn = flow(
        f"table=0,udp,actions=learn(table=61,hard_timeout=600,priority=9,cookie={cookie:#x},eth_type=0x800,"
        "NXM_OF_IP_SRC[],load:NXM_OF_UDP_SRC[]->NXM_NX_REG1[0..15]),output:7"
    )
    table = OfctlFlowTable(bridge.mgmt())
    await table.replace([learn])
    bridge.appctl("ofproto/trace", "br0", "udp,nw_src=192.0.2.9,udp_src=7", "-generate")
    found = await table.dump(cookie, mask)
    assert [(stats.table, stats.match) for stats in found] == [(61, "ip,nw_src=192.0.2.9")]
    assert await table.replace([learn]) == SyncResult(added=0, deleted=0)
    assert await table.replace([learn, *many(5)]) == SyncResult(added=5, deleted=0)
    assert await table.dump(cookie, mask) == found


@pytest.mark.parametrize(
    ("wrong", "refused"), [(meter(0), "meter=0.*refused"), (meter(1, rate=0), "meter=1,.*rate=0.*refused")]
)
async def test_a_meter_that_the_switch_refuses_is_quoted(
    bridge: PrivateOvs, wrong: Meter, refused: str
) -> None:
    with pytest.raises(OpenFlowError, match=refused):
        await OfctlFlowTable(bridge.mgmt()).commit([add(meter(5)), add(wrong)])


async def test_a_bundle_is_all_or_nothing(bridge: PrivateOvs) -> None:
    table = OfctlFlowTable(bridge.mgmt())
    await table.replace(many(50))
    before = {(f.table, f.priority, f.match, f.actions) for f in await table.dump()}
    good = [mod(f"add table=200,priority={number},actions=drop") for number in range(100)]
    gone = [mod("delete_strict table=1,priority=101,ip,nw_dst=10.0.1.0/24")]
    with pytest.raises(OpenFlowError, match=r"OFPMMFC_INVALID_METER.*meter:9"):
        await table.commit([*gone, *good, mod("add table=0,priority=1,actions=meter:9,output:2")])
    with pytest.raises(OpenFlowError, match=r"in line 102: 'flow add table=0,priority=1,nonsense=1"):
        await table.commit([*gone, *good, mod("add table=0,priority=1,nonsense=1,actions=drop")])
    assert {(f.table, f.priority, f.match, f.actions) for f in await table.dump()} == before


async def test_a_flow_that_the_switch_reads_otherwise_is_reported(
    bridge: PrivateOvs, caplog: pytest.LogCaptureFixture
) -> None:
    await OfctlFlowTable(bridge.mgmt()).commit([mod("add table=0,priority=1,nw_src=192.0.2.1,actions=drop")])
    assert "normalization changed ofp_match" in caplog.text


async def test_no_switch(tmp_path: Path) -> None:
    with pytest.raises(OpenFlowError, match=r"connecting to unix:.*br0.mgmt.*check that ovs-vswitchd runs"):
        await OfctlFlowTable(f"unix:{tmp_path}/br0.mgmt").commit([mod("add table=0,actions=drop")])


async def test_a_switch_that_does_not_answer(tmp_path: Path) -> None:
    stop = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stop.wait()
        writer.close()

    async with await asyncio.start_unix_server(silent, tmp_path / "br0.mgmt"):
        with pytest.raises(OpenFlowError, match=r"no answer from .* within 0.3 s"):
            await OfctlFlowTable(f"unix:{tmp_path}/br0.mgmt", deadline=0.3).dump()
        stop.set()


async def test_no_ovs_ofctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OpenFlowError, match=r"ovs-ofctl: No such file.*install the package openvswitch"):
        await OfctlFlowTable("unix:/nowhere").dump()
