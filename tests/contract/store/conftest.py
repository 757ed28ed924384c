"""The worlds in which the contract of Store is tested: the fake, and a real etcd."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from fakes.private_etcd import PrivateEtcd, private_etcd
from fakes.store import FakeStore
from fakes.storeworld import World
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore


@pytest.fixture(scope="session")
def contract_etcd() -> Iterator[PrivateEtcd]:
    with private_etcd() as server:
        yield server


@pytest.fixture(params=["fake", pytest.param("etcd", marks=pytest.mark.etcd)])
async def empty(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    prefix = f"/test/{uuid.uuid4().hex}"
    if request.param == "fake":
        fake = FakeStore(prefix=prefix, network="blue-net")
        yield World(fake, prefix, fake.put_raw, fake.delete_raw)
        return
    server: PrivateEtcd = request.getfixturevalue("contract_etcd")
    settings = EtcdSettings((server.endpoint,), prefix)
    async with EtcdStore(settings, network="blue-net", presence_ttl=2) as store:
        yield World(store, prefix, server.put, server.delete)


@pytest.fixture
async def world(empty: World) -> World:
    return empty.configured()
