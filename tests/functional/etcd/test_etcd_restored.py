"""etcd put back to an older snapshot, or to nothing: what was known is not given up, and no plan of before is carried out."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from fakes.private_etcd import PrivateEtcd
from fakes.storeworld import CONFIG
from fakes.watching import watching
from k8s_ovs.errors import EtcdUnavailable
from k8s_ovs.model.types import HostSubnet, Tenant, Vni
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.records import DEFAULT_PREFIX, Keys
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
