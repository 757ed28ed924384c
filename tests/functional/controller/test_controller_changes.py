"""Tenants that change: a real etcd, the whole controller, and agents that report what they are told."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from prometheus_client import CollectorRegistry

from fakes.cluster import make_namespace, make_node
from fakes.private_etcd import PrivateEtcd
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.controller import changes
from k8s_ovs.controller.app import ControllerServices, ControllerSettings, run_controller
from k8s_ovs.model.events import TenantGone, TenantSet
from k8s_ovs.model.types import AgentReport, NetNamespace, Tenant
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.election import LeaseTiming
from k8s_ovs.sources.kube.objects import EVENTS, NAMESPACES, NODES
from k8s_ovs.sources.records import Keys, error_of

KEYS = Keys(DEFAULT_PREFIX, "k8ssdn")
NODE_IPS = {f"node{n}": IPv4Address(f"192.0.2.{n}") for n in (1, 2, 3)}
IMPATIENT = LeaseTiming(lease_duration=2.0, renew_deadline=1.5, retry_period=0.2)
DEADLINE = 40.0
CYCLES = 15
PROMISE = 0.5
"""Seconds that a change may take on three nodes, as a median."""


@dataclass
class Ledger:
    """What a watch tells of the tenants: the present ones, and every step of every change in the order told."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    steps: list[tuple[str, str]] = field(default_factory=list)

    def take(self, event: object) -> None:
        match event:
            case TenantSet(tenant):
                self.tenants[tenant.name] = tenant
                if tenant.change is not None:
                    self.steps.append((tenant.name, tenant.change.token))
            case TenantGone(name):
                self.tenants.pop(name, None)

    def report(self, host: str) -> AgentReport:
        applied = {name: t.change.token for name, t in self.tenants.items() if t.change is not None}
        return AgentReport(host, NODE_IPS[host], applied)


@asynccontextmanager
async def agent(etcd: PrivateEtcd, host: str, *, deaf: bool = False) -> AsyncIterator[Ledger]:
    """An agent whose switch applies everything at once; one that is deaf lives and applies nothing."""
    ledger = Ledger()

    async def follow(store: EtcdStore, tell: Callable[[AgentReport], None]) -> None:
        async for batch in store.watch():
            for event in batch:
                ledger.take(event)
            tell(AgentReport(host, NODE_IPS[host]) if deaf else ledger.report(host))

    async with EtcdStore(EtcdSettings((etcd.endpoint,)), presence_ttl=2) as store:
        presence = store.presence()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(presence.run()), group.create_task(follow(store, presence.tell))]
            yield ledger
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def controller(etcd: PrivateEtcd, kube: KubeClient) -> AsyncIterator[CollectorRegistry]:
    registry, health = CollectorRegistry(), HealthChecks()
    async with EtcdStore(EtcdSettings((etcd.endpoint,))) as store, asyncio.TaskGroup() as group:
        services = ControllerServices(store, kube, health, registry)
        task = group.create_task(run_controller(ControllerSettings("host", timing=IMPATIENT), services))
        yield registry
        task.cancel()


class People:
    """Who writes requests as `etcdctl put` does, and waits for the answer."""

    def __init__(self, etcd: PrivateEtcd, store: EtcdStore) -> None:
        self._etcd = etcd
        self._store = store

    async def put(self, name: str, **keys: object) -> None:
        value = json.dumps({"NetName": name, **keys})
        await asyncio.to_thread(self._etcd.put, KEYS.namespace(name), value)

    async def until(self, what: str, done: Callable[["People"], Awaitable[bool]]) -> None:
        end = time.monotonic() + DEADLINE
        while not await done(self):
            assert time.monotonic() < end, f"not within {DEADLINE} s: {what}; {await self.records()}"

    async def records(self) -> dict[str, NetNamespace]:
        return dict((await self._store.snapshot()).net_namespaces)

    async def vnis(self) -> dict[str, int]:
        return {name: t.vni for name, t in (await self._store.snapshot()).tenants.items()}

    async def served(self, *names: str) -> None:
        async def all_there(people: "People") -> bool:
            records = await people.records()
            return all(name in records and records[name].net_id is not None for name in names)

        await self.until(f"NetIDs of {names}", all_there)

    async def ask(self, name: str, action: str, other: str = "") -> tuple[NetNamespace, float]:
        """The answer, and the seconds until it was there."""
        await self.put(name, Action=action, Namespace=other)
        began = time.monotonic()
        return await self.answer(name), time.monotonic() - began

    async def answer(self, name: str) -> NetNamespace:
        async def answered(people: "People") -> bool:
            record = (await people.records()).get(name)
            return record is not None and not record.action and record.net_id is not None

        await self.until(f"an answer in the record of {name}", answered)
        return (await self.records())[name]


@pytest.fixture
def people(etcd: PrivateEtcd, store: EtcdStore) -> People:
    return People(etcd, store)


@pytest.fixture
async def cluster(kube: KubeClient) -> Sequence[str]:
    """Three Nodes, and Namespaces in the API."""
    for name, ip in NODE_IPS.items():
        await kube.create(NODES, make_node(name, str(ip)))
    names = ("blue", "green", "red")
    for name in names:
        await kube.create(NAMESPACES, make_namespace(name))
    return names


@asynccontextmanager
async def agents(etcd: PrivateEtcd, *hosts: str) -> AsyncIterator[list[Ledger]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(agent(etcd, host)) for host in hosts]


async def test_a_change_takes_less_than_half_a_second_on_three_nodes(
    etcd: PrivateEtcd, kube: KubeClient, people: People, cluster: Sequence[str]
) -> None:
    async with agents(etcd, *NODE_IPS) as ledgers, controller(etcd, kube) as registry:
        await people.served(*cluster)
        times = []
        for _ in range(CYCLES):
            for action, other in (("join", "blue"), ("isolate", ""), ("global", ""), ("isolate", "")):
                record, seconds = await people.ask("red", action, other)
                assert error_of(record) == ""
                times.append(seconds)
        print(f"{len(times)} changes: median {statistics.median(times):.3f} s, longest {max(times):.3f} s")
        assert statistics.median(times) < PROMISE
        assert registry.get_sample_value("k8s_ovs_controller_tenant_changes_total") == len(times)
        await people.until("every node heard of every step", lambda _: _steps_are(ledgers, 3 * len(times)))
        for ledger in ledgers:
            steps = [token.partition("/")[2] for _, token in ledger.steps]
            assert steps == ["accept", "send", "close"] * len(times)


async def _steps_are(ledgers: Sequence[Ledger], number: int) -> bool:
    await asyncio.sleep(0)
    return all(len(ledger.steps) == number for ledger in ledgers)


async def test_what_cannot_be_done_is_answered_and_changes_nothing(
    etcd: PrivateEtcd, kube: KubeClient, people: People, cluster: Sequence[str]
) -> None:
    async with agents(etcd, *NODE_IPS) as ledgers, controller(etcd, kube):
        await people.served(*cluster)
        before = await people.vnis()
        for keys, reason in (
            ({"Action": "join", "Namespace": "nowhere"}, "no Namespace nowhere"),
            ({"Action": "join", "Namespace": "red"}, "cannot join itself"),
            ({"NetID": before["blue"]}, f"NetID {before['blue']}"),
            ({"NetID": 5, "Action": "isolate"}, "NetID 5 is reserved"),
        ):
            await people.put("red", **keys)

            async def refused(people: People, reason: str = reason) -> bool:
                record = (await people.records()).get("red")  # None while it is malformed
                return record is not None and reason in error_of(record)

            await people.until(
                f"the answer {reason!r}", refused
            )  # one without an Action looks answered before it is
            assert (await people.answer("red")).net_id == before["red"]
        assert await people.vnis() == before
        assert [ledger.steps for ledger in ledgers] == [[], [], []]

        async def told(people: People) -> bool:
            events = await kube.list(EVENTS, "default", field_selector="involvedObject.kind=Namespace")
            return any(e.involved_object.name == "red" and e.type == "Warning" for e in events)

        await people.until("an Event", told)
        record, _ = await people.ask("red", "join", "blue")
        assert (error_of(record), record.net_id) == ("", before["blue"])


async def test_a_controller_that_takes_over_leads_the_change_to_its_end(
    etcd: PrivateEtcd, kube: KubeClient, people: People, cluster: Sequence[str]
) -> None:
    async with agents(etcd, "node1", "node2") as ledgers:
        async with controller(etcd, kube):
            await people.served(*cluster)
            await people.put("red", Action="join", Namespace="blue")
            await people.until("the change has begun", lambda _: _steps_are(ledgers, 1))
        async with agent(etcd, "node3") as late, controller(etcd, kube):
            record = await people.answer("red")
        assert {token for _, token in late.steps} == {token for _, token in ledgers[0].steps}
    vnis = await people.vnis()
    assert vnis["red"] == vnis["blue"] == record.net_id


async def test_nodes_without_agent_and_nodes_that_are_stuck_are_waited_for_so_long_and_reported(
    etcd: PrivateEtcd,
    kube: KubeClient,
    people: People,
    cluster: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "ABSENT_SECONDS", 0.5)
    monkeypatch.setattr(changes, "STUCK_SECONDS", 1.0)
    async with (
        agents(etcd, "node1") as ledgers,
        agent(etcd, "node2", deaf=True),
        controller(etcd, kube) as registry,
    ):
        await people.served(*cluster)
        record, seconds = await people.ask("red", "join", "blue")
        assert (error_of(record), record.net_id) == ("", (await people.vnis())["blue"])
        assert seconds >= 1.0
        assert [token.partition("/")[2] for _, token in ledgers[0].steps] == ["accept", "send", "close"]
        assert registry.get_sample_value("k8s_ovs_controller_tenant_skips_total") == 2

        async def told(people: People) -> bool:
            events = await kube.list(EVENTS, "default", field_selector="involvedObject.kind=Namespace")
            text = " ".join(event.message or "" for event in events)
            return "node2" in text and "node3" in text

        await people.until("Events that name both nodes", told)


async def test_namespaces_deleted_in_the_middle_of_changes(
    etcd: PrivateEtcd, kube: KubeClient, people: People, cluster: Sequence[str]
) -> None:
    async with agents(etcd, "node1", "node2"), controller(etcd, kube):
        await people.served(*cluster)
        before = await people.vnis()
        await people.put("red", Action="join", Namespace="blue")
        await people.put("green", Action="isolate")
        await kube.delete(NAMESPACES, "blue")

        async def blue_is_gone(people: People) -> bool:
            return "blue" not in await people.vnis()

        await people.until("blue is gone", blue_is_gone)
        await kube.create(NAMESPACES, make_namespace("blue"))
        async with agent(etcd, "node3"):
            record = await people.answer("red")
            await people.served("blue", "green")
        vnis = await people.vnis()
        assert record.net_id == vnis["red"]
        assert vnis["green"] == before["green"]
        assert vnis["blue"] != vnis["red"], "a new Namespace of that name is another tenant"
