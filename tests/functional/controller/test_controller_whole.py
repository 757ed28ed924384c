"""The whole controller: real etcd, Kubernetes API over HTTP, Lease election, and the command line."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from fakes.cluster import make_namespace, make_node
from fakes.daemon import Daemon, Launcher
from fakes.private_etcd import PrivateEtcd
from fakes.relay import relay
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.controller.app import LEASE_NAME, ControllerServices, ControllerSettings, run_controller
from k8s_ovs.errors import KubeNotFound
from k8s_ovs.lab.kubeapi.server import ApiServer
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.election import LeaseTiming
from k8s_ovs.sources.kube.objects import EVENTS, LEASES, NAMESPACES, NODES

DEADLINE = 40.0
IMPATIENT = LeaseTiming(lease_duration=2.0, renew_deadline=1.5, retry_period=0.2)


async def until(what: str, condition: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again, as fast as the servers answer."""
    end = time.monotonic() + DEADLINE
    while not await condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"


class Records:
    """What stands in the store, as short text."""

    def __init__(self, store: EtcdStore) -> None:
        self._store = store

    async def subnets(self) -> dict[str, str]:
        records = (await self._store.snapshot()).host_subnets
        return {f"{record.host}@{key}": str(record.subnet) for key, record in records.items()}

    async def vnis(self) -> dict[str, int | None]:
        return {name: r.net_id for name, r in (await self._store.snapshot()).net_namespaces.items()}


@pytest.fixture
def records(store: EtcdStore) -> Records:
    return Records(store)


@asynccontextmanager
async def client(url: str) -> AsyncIterator[KubeClient]:
    async with KubeClient(load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": url}))) as opened:
        yield opened


@asynccontextmanager
async def controller(etcd: PrivateEtcd, kube: KubeClient) -> AsyncIterator[HealthChecks]:
    """One controller with everything of its own but the client."""
    health = HealthChecks()
    async with EtcdStore(EtcdSettings((etcd.endpoint,))) as store, asyncio.TaskGroup() as group:
        services = ControllerServices(store, kube, health, CollectorRegistry())
        task = group.create_task(run_controller(ControllerSettings("host", timing=IMPATIENT), services))
        try:
            yield health
        finally:
            task.cancel()


async def test_nodes_and_namespaces_of_the_api_are_served(
    etcd: PrivateEtcd, kube: KubeClient, records: Records
) -> None:
    await kube.create(NODES, make_node("node1", "192.0.2.1"))
    async with controller(etcd, kube) as health:
        await until("node1", lambda: _has(records.subnets, {"node1@192.0.2.1": "172.20.0.0/25"}))
        await until("kube-system", lambda: _has(records.vnis, {"kube-system": 0}))
        await until("ready", lambda: _true(lambda: health.ready))
        await kube.create(NAMESPACES, make_namespace("red"))

        async def red_is_there() -> bool:
            return ((await records.vnis()).get("red") or 0) >= 10

        await until("red", red_is_there)
        address = {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}}
        await kube.patch(NODES, "node1", address, subresource="status")
        await until("node1 moved", lambda: _is(records.subnets, {"node1@192.0.2.11": "172.20.0.0/25"}))
        await kube.delete(NODES, "node1")
        await kube.delete(NAMESPACES, "red")
        await until("node1 gone", lambda: _is(records.subnets, {}))
        await until("red gone", lambda: _lacks(records.vnis, "red"))


async def test_a_problem_is_an_event_at_the_node(etcd: PrivateEtcd, kube: KubeClient) -> None:
    await kube.create(NODES, make_node("node1"))
    async with controller(etcd, kube):

        async def told() -> bool:
            events = await kube.list(EVENTS, "default", field_selector="involvedObject.kind=Node")
            return [(e.reason, e.involved_object.name, e.type) for e in events] == [
                ("NodeWithoutAddress", "node1", "Warning")
            ]

        await until("the Event", told)


async def holder(kube: KubeClient) -> str:
    try:
        lease = await kube.get(LEASES, LEASE_NAME, "kube-system")
    except KubeNotFound:
        return ""
    return lease.spec.holder_identity or ""


async def test_the_second_takes_over_when_the_first_goes(
    etcd: PrivateEtcd, kube: KubeClient, records: Records
) -> None:
    async with AsyncExitStack() as second:
        async with controller(etcd, kube):
            await until("a leader", lambda: holder(kube))
            first = await holder(kube)
            standby = await second.enter_async_context(controller(etcd, kube))
            await until("the second is ready", lambda: _true(lambda: standby.ready))
            assert await holder(kube) == first

        async def another_leads() -> bool:
            return await holder(kube) not in {"", first}

        await until("another leader", another_leads)
        await kube.create(NODES, make_node("node1", "192.0.2.1"))
        await until("node1", lambda: _is(records.subnets, {"node1@192.0.2.1": "172.20.0.0/25"}))


async def test_a_leader_cut_off_from_the_api_stops_and_the_other_goes_on(
    etcd: PrivateEtcd, kube: KubeClient, records: Records, api: ApiServer
) -> None:
    async with (
        relay(api.addresses[0][1]) as wire,
        client(f"http://127.0.0.1:{wire.port}") as theirs,
        controller(etcd, theirs) as first,
    ):
        await until("the first works", lambda: _true(lambda: first.ready))
        leader = await holder(kube)
        async with controller(etcd, kube):
            wire.freeze()

            async def another_leads() -> bool:
                return await holder(kube) not in {"", leader}

            await until("another leader", another_leads)
            await kube.create(NODES, make_node("node1", "192.0.2.1"))
            await until("node1", lambda: _is(records.subnets, {"node1@192.0.2.1": "172.20.0.0/25"}))
            await kube.delete(NODES, "node1")
            await until("no node1", lambda: _is(records.subnets, {}))
            wire.thaw()


async def test_a_thousand_namespaces_at_once(
    etcd: PrivateEtcd, kube: KubeClient, records: Records, store: EtcdStore
) -> None:
    for number in range(1000):
        await kube.create(NAMESPACES, make_namespace(f"ns{number:04}"))
    before = (await store.snapshot()).revision
    began = time.monotonic()
    async with controller(etcd, kube):

        async def all_there() -> bool:
            return len(await records.vnis()) >= 1000

        await until("a thousand records", all_there)
        print(f"1000 namespaces after {time.monotonic() - began:.2f} s")
        snapshot = await store.snapshot()
        assert len({r.net_id for r in snapshot.net_namespaces.values()}) == len(snapshot.net_namespaces)
        assert snapshot.revision - before <= 15


def run_command(launch: Launcher, etcd: PrivateEtcd, master: str) -> Daemon:
    arguments = ["-m", "k8s_ovs.cli.main", "controller", "--etcd-endpoints", etcd.endpoint]
    arguments += ["--hostname", "host", "--metrics-address", "127.0.0.1:0"]
    return launch(*arguments, KUBERNETES_MASTER=master)


async def test_the_command_works_and_ends_within_a_second(
    etcd: PrivateEtcd, kube: KubeClient, api: ApiServer, records: Records, launch: Launcher
) -> None:
    await kube.create(NODES, make_node("node1", "192.0.2.1"))
    first = run_command(launch, etcd, api.url)
    await until("node1", lambda: _is(records.subnets, {"node1@192.0.2.1": "172.20.0.0/25"}))
    second = run_command(launch, etcd, api.url)
    began = time.monotonic()
    assert await asyncio.to_thread(first.end, signal.SIGTERM) == 0, first.log.read_text()
    assert time.monotonic() - began < 1.5  # one second is the promise; the rest is for a busy machine
    await kube.create(NODES, make_node("node2", "192.0.2.2"))
    await until("node2", lambda: _has(records.subnets, {"node2@192.0.2.2": "172.20.0.128/25"}))
    assert await asyncio.to_thread(second.end, signal.SIGTERM) == 0, second.log.read_text()
    assert "Traceback" not in first.log.read_text() + second.log.read_text()


async def test_a_node_that_returns_gets_its_subnet_back_from_whoever_leads_then(
    etcd: PrivateEtcd, kube: KubeClient, api: ApiServer, records: Records, launch: Launcher
) -> None:
    """Nobody who has seen its record lives any more, and somebody else has got a subnet meanwhile."""
    for name, address in (("node1", "192.0.2.1"), ("node2", "192.0.2.2")):
        await kube.create(NODES, make_node(name, address))
    before = {"node1@192.0.2.1": "172.20.0.0/25", "node2@192.0.2.2": "172.20.0.128/25"}
    first = run_command(launch, etcd, api.url)
    await until("both", lambda: _is(records.subnets, before))
    await kube.delete(NODES, "node1")
    await until("no node1", lambda: _lacks(records.subnets, "node1@192.0.2.1"))
    assert etcd.get(f"{DEFAULT_PREFIX}/former/k8ssdn/node1") == b'{"Host":"node1","Subnet":"172.20.0.0/25"}'
    assert await asyncio.to_thread(first.end, signal.SIGKILL) == -signal.SIGKILL
    await kube.delete(LEASES, LEASE_NAME, "kube-system")  # as if it had expired, 15 s later
    etcd.put(
        f"{DEFAULT_PREFIX}/k8ssdn/subnets/192.0.2.9",
        '{"Host":"lb","HostIP":"192.0.2.9","Subnet":"","Assign":true}',
    )
    run_command(launch, etcd, api.url)
    await until("the host", lambda: _has(records.subnets, {"lb@192.0.2.9": "172.20.1.0/25"}))
    await kube.create(NODES, make_node("node1", "192.0.2.1"))
    await until("node1", lambda: _has(records.subnets, before))
    assert etcd.get(f"{DEFAULT_PREFIX}/former/k8ssdn/node1") is None


async def test_a_missing_config_is_waited_for_and_named(
    etcd: PrivateEtcd, kube: KubeClient, api: ApiServer, launch: Launcher, records: Records
) -> None:
    key = f"{DEFAULT_PREFIX}/config"
    config = etcd.get(key)
    assert config is not None
    etcd.delete(key)
    await kube.create(NODES, make_node("node1", "192.0.2.1"))
    daemon = run_command(launch, etcd, api.url)

    async def named() -> bool:
        assert daemon.running, daemon.log.read_text()
        await asyncio.sleep(0)
        return "write one with `k8s-ovs init-config`" in daemon.log.read_text()

    await until("the message", named)
    etcd.put(key, config)
    await until("node1", lambda: _is(records.subnets, {"node1@192.0.2.1": "172.20.0.0/25"}))


async def _is(read: Callable[[], Awaitable[object]], expected: object) -> bool:
    return await read() == expected


async def _has(read: Callable[[], Awaitable[Mapping[str, object]]], expected: Mapping[str, object]) -> bool:
    return expected.items() <= (await read()).items()


async def _lacks(read: Callable[[], Awaitable[Mapping[str, object]]], name: str) -> bool:
    return name not in await read()


async def _true(check: Callable[[], bool]) -> bool:
    await asyncio.sleep(0)
    return check()
