"""The controller as a process: config, election, feeds, worker, health, and what the operator is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest
from prometheus_client import CollectorRegistry

from fakes.cluster import FakeCluster
from fakes.store import FakeStore
from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.app import Controller, ControllerServices, ControllerSettings, run_controller
from k8s_ovs.controller.worker import WorkerPace
from k8s_ovs.errors import ConfigError, EtcdUnavailable, KubeUnavailable
from k8s_ovs.model.types import AgentReport, HostSubnet, NetNamespace, Tenant, Vni
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.records import config_key

CONFIG = NetworkConfig(
    "k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
)
DEADLINE = 10.0


async def yielding(_: float) -> None:
    """Pauses that take no time, so that no test waits for a backoff."""
    await asyncio.sleep(0)


class FakeElection:
    """Leads while `leading` is set; takes the lead away as LeaseElection does, by cancelling it."""

    def __init__(self, *, leading: bool = True) -> None:
        self.leading = asyncio.Event()
        self.lost = asyncio.Event()
        self.reigns = 0
        self.holder = ""
        self.trouble = ""
        if leading:
            self.leading.set()

    @property
    def is_leader(self) -> bool:
        return self.leading.is_set()

    def lose(self) -> None:
        self.leading.clear()
        self.lost.set()

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.leading.wait()
            self.reigns += 1
            self.holder = "us"
            self.lost.clear()
            async with asyncio.TaskGroup() as group:
                reign = group.create_task(_run(lead))
                loss = group.create_task(self.lost.wait())
                await asyncio.wait((reign, loss), return_when=asyncio.FIRST_COMPLETED)
                reign.cancel()
                loss.cancel()


async def _run(lead: Callable[[], Awaitable[None]]) -> None:
    await lead()


class Bench:
    def __init__(self, *, config: NetworkConfig | None = CONFIG, leading: bool = True) -> None:
        self.store = FakeStore(config)
        self.cluster = FakeCluster()
        self.election = FakeElection(leading=leading)
        self.health = HealthChecks()
        self.registry = CollectorRegistry()
        services = ControllerServices(self.store, None, self.health, self.registry)
        settings = ControllerSettings("host", pace=WorkerPace(resync=3600, sleep=yielding))
        self.controller = Controller(settings, services, self.cluster, self.election)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.controller.run())
            try:
                yield
            finally:
                task.cancel()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0)

    def raw(self, ending: str) -> bytes | None:
        return next((value for key, value in self.store.raw().items() if key.endswith(ending)), None)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"k8s_ovs_controller_{name}", labels)

    @property
    def trouble(self) -> str:
        return self.health.readiness()["controller"]


async def test_it_serves_what_exists_and_what_comes_and_goes() -> None:
    bench = Bench()
    bench.cluster.add_nodes(node1="192.0.2.1")
    bench.cluster.add_namespaces("kube-system", "red")
    async with bench.running():
        await bench.until(lambda: not bench.trouble)
        assert b"172.11.0.0/22" in (bench.raw("subnets/192.0.2.1") or b"")
        assert b'"NetID":10' in (bench.raw("netnamespaces/red") or b"")
        assert b'"NetID":0' in (bench.raw("netnamespaces/kube-system") or b"")
        bench.cluster.add_nodes(node2="192.0.2.2", node1="192.0.2.11")
        bench.cluster.add_namespaces("blue")
        await bench.until(lambda: bench.raw("subnets/192.0.2.2") and bench.raw("netnamespaces/blue"))
        await bench.until(lambda: b"172.11.0.0/22" in (bench.raw("subnets/192.0.2.11") or b""))
        bench.cluster.remove_nodes("node1")
        bench.cluster.remove_namespaces("red")
        await bench.until(lambda: not bench.raw("subnets/192.0.2.11") and not bench.raw("netnamespaces/red"))
        assert bench.metric("leader") == 1
        assert bench.metric("deletions_total", kind="vni") == 1


async def test_a_record_put_by_hand_is_answered() -> None:
    bench = Bench()
    async with bench.running():
        await bench.until(lambda: not bench.trouble)
        bench.store.put(HostSubnet("lb", IPv4Address("192.0.2.50"), None, assign=True))
        await bench.until(lambda: b"172.11.0.0/22" in (bench.raw("subnets/192.0.2.50") or b""))


async def test_nothing_is_deleted_before_everything_is_in_sync() -> None:
    bench = Bench()
    bench.store.put(
        HostSubnet("node1", IPv4Address("192.0.2.1"), IPv4Network("172.11.0.0/22")),
        NetNamespace("red", Vni(10)),
    )
    bench.cluster.silent.clear()
    async with bench.running():
        await bench.until(lambda: bench.trouble == "not in sync yet: nodes, namespaces")
        assert bench.store.commits == []
        assert bench.cluster.asked == []
        bench.cluster.add_nodes(node1="192.0.2.1")
        bench.cluster.add_namespaces("red")
        bench.cluster.silent.set()
        await bench.until(lambda: not bench.trouble)
    (adoption,) = bench.store.commits
    assert (adoption.put_tenants, adoption.put_namespaces) == ([Tenant("red", Vni(10))], [])
    assert not adoption.delete_subnets
    assert not adoption.delete_tenants


async def test_a_request_is_served_as_the_agents_report() -> None:
    """Nobody looks in between: the reports alone wake it."""
    bench = Bench()
    bench.cluster.add_nodes(node1="192.0.2.1")
    bench.cluster.add_namespaces("red", "blue")
    bench.store.report(AgentReport("node1", IPv4Address("192.0.2.1"), {}))
    async with bench.running():
        await bench.until(lambda: not bench.trouble)
        bench.store.put(NetNamespace("red", None, "join", "blue"))
        for step in ("accept", "send", "close"):
            await bench.until(
                lambda step=step: f'"Step":"{step}"'.encode() in (bench.raw("tenants/red") or b"")
            )
            change = (await bench.store.snapshot()).tenants["red"].change
            assert change is not None
            bench.store.report(AgentReport("node1", IPv4Address("192.0.2.1"), {"red": change.token}))
        await bench.until(lambda: b'"Action":""' in (bench.raw("netnamespaces/red") or b""))
        assert bench.raw("tenants/red") == b'{"Namespace":"red","NetID":10}'
        assert bench.metric("tenant_changes_total") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not JSON"), (CONFIG.to_json().replace("/16", "/7"), "/7")],
    ids=["malformed", "invalid"],
)
async def test_it_waits_for_a_network_config_and_says_what_is_wrong(text: str, reason: str) -> None:
    bench = Bench(config=None)
    bench.cluster.add_nodes(node1="192.0.2.1")
    async with bench.running():
        await bench.until(lambda: "there is no network config: write one with" in bench.trouble)
        bench.store.put_raw(config_key(bench.store.prefix), text)
        await bench.until(lambda: reason in bench.trouble)
        assert bench.election.reigns == 0
        bench.store.put_raw(config_key(bench.store.prefix), CONFIG.to_json())
        await bench.until(lambda: not bench.trouble and bench.raw("subnets/192.0.2.1"))


async def test_an_outage_at_the_start_is_waited_out() -> None:
    bench = Bench()
    bench.store.outage = EtcdUnavailable("no endpoint of etcd answers")
    async with bench.running():
        await bench.until(lambda: bench.trouble == "no endpoint of etcd answers")
        bench.store.outage = None
        await bench.until(lambda: not bench.trouble)


async def test_an_outage_under_way_makes_it_not_ready_and_is_waited_out() -> None:
    bench = Bench()
    async with bench.running():
        await bench.until(lambda: not bench.trouble)
        bench.store.outage = EtcdUnavailable("no endpoint of etcd answers")
        bench.cluster.add_namespaces("red")
        await bench.until(lambda: bench.metric("round_errors_total"))
        assert bench.trouble == "no endpoint of etcd answers"
        bench.store.outage = None
        await bench.until(lambda: not bench.trouble and bench.raw("netnamespaces/red"))
        assert (bench.metric("round_errors_total") or 0) >= 1


async def test_an_outage_is_told_before_there_is_anything_to_do() -> None:
    bench = Bench()
    async with bench.running():
        await bench.until(lambda: not bench.trouble)
        bench.store.outage = EtcdUnavailable("no endpoint of etcd answers")
        assert bench.trouble == "no endpoint of etcd answers"
        bench.store.outage = None
        bench.cluster.refusal = KubeUnavailable("no answer from the API server")
        assert bench.trouble == "no answer from the API server"


async def test_the_api_server_away_stops_deletions_only() -> None:
    bench = Bench()
    bench.cluster.add_namespaces("red")
    async with bench.running():
        await bench.until(lambda: not bench.trouble)
        bench.cluster.refusal = KubeUnavailable("no answer from the API server")
        bench.cluster.remove_namespaces("red")
        await bench.until(lambda: bench.trouble == "no answer from the API server")
        bench.store.put(HostSubnet("lb", IPv4Address("192.0.2.50"), None, assign=True))
        await bench.until(lambda: b"172.11.0.0/22" in (bench.raw("subnets/192.0.2.50") or b""))
        assert bench.raw("netnamespaces/red")
        bench.cluster.refusal = None
        await bench.until(lambda: not bench.raw("netnamespaces/red"))


async def test_who_stands_by_is_ready_and_does_nothing() -> None:
    bench = Bench(leading=False)
    bench.cluster.add_nodes(node1="192.0.2.1")
    async with bench.running():
        await bench.until(lambda: "no controller leads yet" in bench.trouble)
        bench.election.holder = "somebody"
        assert bench.trouble == ""
        bench.election.trouble = "lease kube-system/k8s-ovs-controller cannot be had: no answer"
        assert bench.trouble == "not leading: lease kube-system/k8s-ovs-controller cannot be had: no answer"
        assert (bench.store.commits, bench.metric("leader")) == ([], 0)


async def test_the_loss_of_the_lease_ends_the_work_and_its_return_begins_it_anew() -> None:
    bench = Bench()
    async with bench.running():
        await bench.until(lambda: not bench.trouble)
        bench.election.lose()
        await bench.until(lambda: not bench.cluster.watches)
        bench.cluster.add_nodes(node1="192.0.2.1")
        assert bench.store.commits == []
        bench.election.leading.set()
        await bench.until(lambda: bench.raw("subnets/192.0.2.1"))
        assert bench.election.reigns == 2


async def test_problems_are_told_once_until_they_change() -> None:
    bench = Bench()
    bench.cluster.add_nodes(bad="", node1="192.0.2.1")
    async with bench.running():
        await bench.until(lambda: bench.cluster.told)
        assert [(p.kind.value, p.subject.name) for p in bench.cluster.told] == [("NodeWithoutAddress", "bad")]
        assert bench.metric("problems", kind="NodeWithoutAddress") == 1
        bench.cluster.add_namespaces("red")  # more rounds
        await bench.until(lambda: bench.raw("netnamespaces/red") and not bench.trouble)
        bench.cluster.add_nodes(bad="192.0.2.9")
        await bench.until(lambda: bench.metric("problems", kind="NodeWithoutAddress") == 0)
        bench.cluster.add_nodes(bad="")
        await bench.until(lambda: len(bench.cluster.told) == 2)


async def test_a_problem_is_no_reason_not_to_be_ready() -> None:
    bench = Bench()
    bench.cluster.add_nodes(bad="172.11.0.9")
    async with bench.running():
        await bench.until(lambda: bench.cluster.told)
        assert bench.trouble == ""


async def test_without_kubernetes_credentials_it_cannot_run() -> None:
    services = ControllerServices(FakeStore(CONFIG), None, HealthChecks(), CollectorRegistry())
    with pytest.raises(ConfigError, match="--kubeconfig"):
        await run_controller(ControllerSettings("host"), services)
