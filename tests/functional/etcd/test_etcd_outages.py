"""etcd that takes no writes, has no quorum, is slow or gone without a word: what goes on, what is said, and that it ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from fakes.private_etcd import PrivateEtcd, private_cluster, private_etcd
from fakes.relay import relay
from fakes.storeworld import CONFIG
from fakes.watching import until, watching
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import EtcdNoSpace, EtcdUnavailable
from k8s_ovs.model.types import AgentReport, HostSubnet, Tenant, Vni
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.records import Keys
from k8s_ovs.sources.store import Change

KEYS = Keys(DEFAULT_PREFIX, CONFIG.name)
NODE = HostSubnet("node1", IPv4Address("192.0.2.1"), IPv4Network("172.11.0.0/22"))
RED = Tenant("red", Vni(10))
QUOTA = 16 * 1024 * 1024


@asynccontextmanager
async def reporting(store: EtcdStore, node: HostSubnet) -> AsyncIterator[None]:
    """An agent's presence."""
    async with asyncio.TaskGroup() as group:
        presence = store.presence()
        presence.tell(AgentReport(node.host, node.host_ip))
        task = group.create_task(presence.run(), name="presence")
        yield
        task.cancel()


def fill(etcd: PrivateEtcd) -> None:
    """Until the quota is used up, and the alarm NOSPACE raised."""

    def put() -> None:
        for _ in range(100):
            etcd.put("/fat", b"x" * 1024 * 1024)

    with pytest.raises(AssertionError, match="database space exceeded"):
        put()


def make_room(etcd: PrivateEtcd) -> None:
    """What an operator does: compact, defragment, disarm."""
    revision = int(etcd.call("kv/range", {"key": "AA=="})["header"]["revision"])
    etcd.compact(revision)
    etcd.call("maintenance/defragment", {})
    for alarm in etcd.call("maintenance/alarm", {"action": "GET"})["alarms"]:
        etcd.call("maintenance/alarm", {**alarm, "action": "DEACTIVATE"})


async def test_a_full_etcd_is_read_and_not_left_and_works_again_once_there_is_room(
    impatient: EtcdSettings,
) -> None:
    with private_etcd(options=[f"--quota-backend-bytes={QUOTA}"]) as etcd:
        etcd.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        etcd.put(*KEYS.encode(NODE))
        await asyncio.to_thread(fill, etcd)
        async with relay(etcd.port) as path:
            settings = replace(impatient, endpoints=(f"http://127.0.0.1:{path.port}",))
            async with EtcdStore(settings) as store, watching(store) as seen, reporting(store, NODE):
                await seen.until_synced()
                for _ in range(3):
                    now = await store.snapshot()
                    assert set(now.host_subnets) == {NODE.host_ip}
                    with pytest.raises(EtcdNoSpace, match="alarm disarm"):
                        await store.commit(Change(now.revision, put_tenants=[RED]))
                assert store.outage is None
                assert path.accepted == 1, "its watch and its connection are as good as ever"
                await asyncio.to_thread(make_room, etcd)
                now = await store.snapshot()
                assert await store.commit(Change(now.revision, put_tenants=[RED]))
                await until(lambda: etcd.get(KEYS.report(NODE.host_ip)) is not None, "the report")
                await seen.count(2)


async def test_without_a_quorum_nothing_is_believed_and_nothing_lost(impatient: EtcdSettings) -> None:
    with private_cluster(3) as members:
        members[0].put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        members[0].put(*KEYS.encode(NODE))
        settings = replace(impatient, endpoints=(members[0].endpoint,))
        async with EtcdStore(settings) as store, watching(store) as seen:
            await seen.until_synced()
            before = await store.snapshot()
            for member in members[1:]:
                member.kill()
            await until(lambda: store.outage is not None, "the outage to be told")
            assert "quorum" in str(store.outage)
            with pytest.raises(EtcdUnavailable):
                await store.snapshot()
            assert not await store.commit(Change(before.revision, put_tenants=[RED]))
            for member in members[1:]:
                member.start(wait=False)
            await until(lambda: store.outage is None, "the quorum")
            assert len(seen.events) == 1, "nothing gone, nothing told twice"
            assert not store.lost


async def test_a_server_that_vanishes_without_a_word_is_noticed_in_time(
    etcd: PrivateEtcd, impatient: EtcdSettings
) -> None:
    """Half-open: no FIN, no RST. Watch and calls each find out by themselves."""
    async with relay(etcd.port) as path:
        settings = replace(impatient, endpoints=(f"http://127.0.0.1:{path.port}",))
        async with EtcdStore(settings) as store, watching(store) as seen:
            await seen.until_synced()
            path.freeze()
            begun = time.monotonic()
            with pytest.raises(EtcdUnavailable, match="no answer within"):
                await store.snapshot()
            await until(lambda: store.outage is not None, "the watch")
            bound = 2 * settings.timeout + settings.watchdog
            assert time.monotonic() - begun < 4 * bound, (
                "by deadlines, not by the kernel's patience of minutes"
            )


async def test_a_slow_server_is_no_outage(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    """Every answer takes a while, less than the deadline of a call."""
    etcd.put(*KEYS.encode(NODE))
    async with relay(etcd.port) as path:
        path.delay = impatient.timeout / 3
        settings = replace(impatient, endpoints=(f"http://127.0.0.1:{path.port}",), timeout=10)
        async with EtcdStore(settings) as store, watching(store) as seen:
            await seen.until_synced()
            now = await store.snapshot()
            assert await store.commit(Change(now.revision, put_tenants=[RED]))
            await seen.count(2)
            assert store.outage is None
            assert path.accepted == 1
