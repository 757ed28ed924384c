"""The watch survives what happens to servers: nothing lost, nothing told twice, only differences after a gap."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.private_etcd import PrivateEtcd, private_cluster, private_etcd
from fakes.relay import relay
from fakes.storeworld import CONFIG
from fakes.watching import Watching, until, watching
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.model.events import TenantGone, TenantSet
from k8s_ovs.sources.etcd import rangewatch
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.records import Keys

KEYS = Keys(DEFAULT_PREFIX, CONFIG.name)


def put(server: PrivateEtcd, name: str, net_id: int) -> int:
    return server.put(KEYS.tenant(name), f'{{"Namespace":"{name}","NetID":{net_id}}}')


def put_patiently(server: PrivateEtcd, name: str, net_id: int) -> None:
    """Put once, however often the server dies: after a failure, look whether the put was done."""
    while True:
        try:
            if server.get(KEYS.tenant(name)) is None:
                put(server, name, net_id)
        except (OSError, AssertionError):
            continue
        return


def told(seen: Watching) -> list[tuple[str, int | None]]:
    return [
        (event.tenant.name, event.tenant.vni) if isinstance(event, TenantSet) else (event.name, None)
        for event in seen.events
        if isinstance(event, TenantSet | TenantGone)
    ]


def through(settings: EtcdSettings, *ports: int) -> EtcdStore:
    return EtcdStore(replace(settings, endpoints=tuple(f"http://127.0.0.1:{port}" for port in ports)))


async def test_kill_9_in_the_middle_of_300_puts(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    names = [f"n{number}" for number in range(300)]

    def write() -> None:
        for number, name in enumerate(names):
            put_patiently(etcd, name, 10 + number)

    async with through(impatient, etcd.port) as store, watching(store) as seen:
        await seen.until_synced()
        writer = asyncio.create_task(asyncio.to_thread(write))
        for number in (100, 200):
            await seen.count(number)
            etcd.kill()
            etcd.start(wait=False)
        await writer
        await seen.count(300)
        assert told(seen) == [(name, 10 + number) for number, name in enumerate(names)]
        assert {len(batch) for batch in seen.batches[1:]} == {1}


async def test_an_outage_is_shown_and_ends(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    async with through(impatient, etcd.port) as store, watching(store) as seen:
        await seen.until_synced()
        assert store.outage is None
        etcd.kill()
        await until(lambda: store.outage is not None)
        assert str(etcd.port) in str(store.outage)
        etcd.start()
        await until(lambda: store.outage is None)


async def test_a_watch_may_begin_before_the_server(impatient: EtcdSettings) -> None:
    with private_etcd() as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        server.kill()
        async with through(impatient, server.port) as store, watching(store) as seen:
            await until(lambda: store.outage is not None)
            server.start()
            await seen.until_synced()


async def test_after_compaction_only_differences_are_told(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    for number, name in enumerate(("same", "changed", "gone", "broken", "mended")):
        put(etcd, name, 10 + number)
    async with relay(etcd.port) as path, through(impatient, path.port) as store, watching(store) as seen:
        await seen.until_synced()
        known = len(told(seen))
        await path.cut()
        put(etcd, "changed", 20)
        put(etcd, "changed", 21)
        etcd.delete(KEYS.tenant("gone"))
        etcd.put(KEYS.tenant("broken"), "{")
        etcd.put(KEYS.tenant("mended"), "{")
        put(etcd, "mended", 14)
        etcd.compact(put(etcd, "new", 30))
        await path.restore()
        await seen.count(known + 3)
        assert told(seen)[known:] == [("gone", None), ("changed", 21), ("new", 30)]
        assert list(store.problems) == [KEYS.tenant("broken")]
        put(etcd, "last", 40)
        await seen.count(known + 4)
        assert told(seen)[-1] == ("last", 40)


async def test_a_quiet_range_is_not_left_behind_by_compaction(
    etcd: PrivateEtcd, impatient: EtcdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rangewatch, "PROOF_ROUNDS", 1)
    put(etcd, "red", 10)
    async with relay(etcd.port) as path, through(impatient, path.port) as store:
        watch = rangewatch.RangeWatch(store._client, KEYS.root)
        news = watch.follow(await store._client.connection())
        assert isinstance(await anext(news), rangewatch.Listing)
        assert isinstance(await anext(news), rangewatch.Batch)
        elsewhere = [etcd.put("/elsewhere", str(number)) for number in range(5)][-1]
        waiting = asyncio.ensure_future(anext(news))
        await until(lambda: watch._revision >= elsewhere)
        waiting.cancel()
        await asyncio.wait({waiting})
        await news.aclose()
        store.close()
        put(etcd, "red", 11)
        put(etcd, "red", 12)
        etcd.compact(elsewhere)
        # a Listing would leave out the 11
        news = watch.follow(await store._client.connection())
        batches = [await anext(news) for _ in range(3)]
        assert [len(batch.changes) for batch in batches if isinstance(batch, rangewatch.Batch)] == [0, 1, 1]
        await news.aclose()


async def test_a_hung_server_that_wakes_up(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    async with through(impatient, etcd.port) as store, watching(store) as seen:
        await seen.until_synced()
        put(etcd, "before", 12)
        await seen.count(1)
        etcd.pause()
        await until(lambda: store.outage is not None)
        assert "no answer within" in str(store.outage)
        etcd.resume()
        put(etcd, "red", 10)
        await seen.count(2)
        etcd.pause()
        await until(lambda: store.outage is not None)
        etcd.kill()
        etcd.start()
        put(etcd, "blue", 11)
        await seen.count(3)
        assert told(seen) == [("before", 12), ("red", 10), ("blue", 11)]


async def test_silence_on_the_way_is_noticed(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    async with relay(etcd.port) as path, through(impatient, path.port) as store, watching(store) as seen:
        await seen.until_synced()
        put(etcd, "before", 12)
        await seen.count(1)
        path.freeze()
        put(etcd, "red", 10)
        await until(lambda: store.outage is not None)
        path.thaw()
        put(etcd, "blue", 11)
        await seen.count(3)
        assert told(seen) == [("before", 12), ("red", 10), ("blue", 11)]


async def test_another_member_takes_over(impatient: EtcdSettings) -> None:
    with private_cluster(3) as members:
        members[0].put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        async with (
            relay(members[0].port) as one,
            relay(members[1].port) as two,
            through(impatient, one.port, two.port) as store,
            watching(store) as seen,
        ):
            await seen.until_synced()
            used, idle = (0, 1) if one.connections else (1, 0)
            assert not (one, two)[idle].connections
            members[used].pause()
            put_patiently(members[2], "hung", 10)
            await seen.count(1)
            assert (one, two)[idle].connections
            members[used].resume()
            members[idle].kill()
            put_patiently(members[2], "killed", 11)
            await seen.count(2)
            members[idle].start()
            # without a quorum nothing can be written, and a member that is alone must not be believed
            others = [members[idle], members[2]]
            for member in others:
                member.pause()
            await until(lambda: store.outage is not None)
            for member in others:
                member.resume()
            put_patiently(members[2], "back", 12)
            await seen.count(3)
            assert told(seen) == [("hung", 10), ("killed", 11), ("back", 12)]


@pytest.mark.parametrize("later", [0, 20], ids=["revision lower than before", "revision higher than before"])
async def test_a_server_restored_from_an_older_snapshot(
    etcd: PrivateEtcd, impatient: EtcdSettings, tmp_path: Path, later: int
) -> None:
    put(etcd, "same", 10)
    put(etcd, "taken-back", 11)
    etcd.save(tmp_path / "saved")
    async with relay(etcd.port) as path, through(impatient, path.port) as store, watching(store) as seen:
        await seen.until_synced()
        put(etcd, "taken-back", 12)
        put(etcd, "never-was", 13)
        await seen.count(4)
        await path.cut()
        etcd.kill()
        etcd.restore(tmp_path / "saved")
        etcd.start()
        for number in range(later):
            put(etcd, f"later{number}", 100 + number)
        await path.restore()
        await seen.count(5 + later)
        assert set(told(seen)[4:]) == {
            ("taken-back", 11),
            *((f"later{number}", 100 + number) for number in range(later)),
        }
        assert list(store.lost) == [KEYS.tenant("never-was")]
        put(etcd, "last", 500)
        await seen.count(6 + later)
