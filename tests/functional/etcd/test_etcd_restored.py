"""etcd put back to an older snapshot, or to nothing: what was known is not given up, and no plan of before is carried out."""

import asyncio
import shutil
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from fakes.private_etcd import PrivateEtcd
from fakes.relay import relay
from fakes.storeworld import CONFIG
from fakes.watching import until, watching
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import ConfigError, EtcdUnavailable
from k8s_ovs.model.events import Event, HostSubnetGone, HostSubnetSet, TenantGone
from k8s_ovs.model.types import HostSubnet, Tenant, Vni
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.records import Keys
from k8s_ovs.sources.store import Change

KEYS = Keys(DEFAULT_PREFIX, CONFIG.name)
FIRST = HostSubnet("node1", IPv4Address("192.0.2.1"), IPv4Network("172.11.0.0/22"))
SECOND = HostSubnet("node2", IPv4Address("192.0.2.2"), IPv4Network("172.11.4.0/22"))


def to(etcd: PrivateEtcd, settings: EtcdSettings) -> EtcdStore:
    return EtcdStore(replace(settings, endpoints=(etcd.endpoint,)))


def write(etcd: PrivateEtcd, *records: HostSubnet | Tenant) -> None:
    for record in records:
        etcd.put(*KEYS.encode(record))


def put_back(etcd: PrivateEtcd, saved: Path) -> None:
    etcd.kill()
    etcd.restore(saved)
    etcd.start()


async def until_answered(store: EtcdStore) -> None:
    """Connected to the server that was put back."""

    async def answered() -> bool:
        with suppress(EtcdUnavailable):
            return await store.network_config() is not None
        return False

    async with asyncio.timeout(20):
        while not await answered():
            await asyncio.sleep(0.02)


async def test_a_plan_from_before_is_not_carried_out(
    etcd: PrivateEtcd, impatient: EtcdSettings, tmp_path: Path
) -> None:
    """The plan found node2's subnet free again; in the restored store it is not, and no revision tells the difference."""
    write(etcd, FIRST, SECOND)
    etcd.save(tmp_path / "saved")
    etcd.delete(KEYS.subnet(SECOND.host_ip))
    async with to(etcd, impatient) as store:
        seen = await store.snapshot()
        put_back(etcd, tmp_path / "saved")
        await until_answered(store)
        third = HostSubnet("node3", IPv4Address("192.0.2.3"), SECOND.subnet)
        assert not await store.commit(Change(seen.revision, put_subnets=[third]))
        again = await store.snapshot()
        assert set(again.host_subnets) == {FIRST.host_ip, SECOND.host_ip}
        fourth = HostSubnet("node4", IPv4Address("192.0.2.4"), IPv4Network("172.11.8.0/22"))
        assert not await store.commit(Change(seen.revision, put_subnets=[fourth]))
        assert await store.commit(Change(again.revision, put_subnets=[fourth]))


async def test_what_the_snapshot_lacks_stays_known_until_it_is_contradicted(
    etcd: PrivateEtcd, impatient: EtcdSettings, tmp_path: Path
) -> None:
    red, blue, green, grey = (
        Tenant(name, Vni(10 + n)) for n, name in enumerate(("red", "blue", "green", "grey"))
    )
    write(etcd, FIRST, red)
    etcd.save(tmp_path / "saved")
    async with to(etcd, impatient) as store, watching(store) as seen:
        await seen.until_synced()
        write(etcd, SECOND, blue, green, grey, joined := Tenant("joined", red.vni))
        await seen.count(7)
        put_back(etcd, tmp_path / "saved")
        lost = {KEYS.of(record): record for record in (SECOND, blue, green, grey, joined)}
        await until(lambda: store.lost.keys() == lost.keys(), "the loss to be noticed")
        assert len(seen.events) == 7, "nothing is gone"
        write(etcd, blue, replace(red, vni=green.vni))
        await seen.count(10)
        assert [type(event).__name__ for event in seen.events[7:]] == ["TenantSet", "TenantGone", "TenantSet"]
        assert seen.events[8] == TenantGone("green"), "red has its VNI now"
        assert store.lost.keys() == lost.keys() - {KEYS.of(blue), KEYS.of(green)}
        write(etcd, HostSubnet("node3", IPv4Address("192.0.2.3"), SECOND.subnet))
        await seen.count(12)
        assert seen.events[10] == HostSubnetGone(SECOND.host_ip)
        write(etcd, grey)
        etcd.delete(KEYS.of(grey))
        await seen.count(14)
        assert seen.events[13] == TenantGone("grey")
        assert set(store.lost) == {KEYS.of(joined)}


async def test_an_emptied_etcd_takes_nothing_away(
    etcd: PrivateEtcd, impatient: EtcdSettings, tmp_path: Path
) -> None:
    red = Tenant("red", Vni(10))
    write(etcd, FIRST, red)
    async with to(etcd, impatient) as store, watching(store) as seen:
        await seen.until_synced()
        etcd.kill()
        kept = etcd.data.rename(tmp_path / "kept")
        etcd.start()
        await until(lambda: len(store.lost) == 2, "the loss to be noticed")
        async with to(etcd, impatient) as other:
            with pytest.raises(ConfigError, match="no network config"):
                await anext(other.watch())
        etcd.kill()
        shutil.rmtree(etcd.data)
        kept.rename(etcd.data)
        etcd.start()
        await until(lambda: not store.lost, "the data to be back")
        write(etcd, SECOND)
        await seen.until(lambda: any(SECOND.host == host_of(event) for event in seen.events), "node2")
        assert not any(isinstance(event, HostSubnetGone | TenantGone) for event in seen.events)


def host_of(event: Event) -> str:
    return event.record.host if isinstance(event, HostSubnetSet) else ""


async def test_compaction_is_no_loss(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    """The history is the same: what is missing afterwards was deleted."""
    write(etcd, FIRST, SECOND)
    async with (
        relay(etcd.port) as path,
        EtcdStore(replace(impatient, endpoints=(f"127.0.0.1:{path.port}",))) as store,
        watching(store) as seen,
    ):
        await seen.until_synced()
        await path.cut()
        etcd.delete(KEYS.of(SECOND))
        etcd.compact(etcd.put("/elsewhere", ""))
        await path.restore()
        await seen.count(3)
        assert seen.events[2] == HostSubnetGone(SECOND.host_ip)
        assert not store.lost
