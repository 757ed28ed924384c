"""Rounds of the controller on a store in memory, one await at a time, for tests.

A round awaits only the store and the cluster. `SteppedStore` and `SteppedCluster` make each of those a point where the
test decides which controller goes on, or is killed: no event loop, no chance.
"""

from collections.abc import Coroutine, Generator, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from prometheus_client import CollectorRegistry

from fakes.cluster import FakeCluster
from fakes.store import FakeStore
from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.cluster import Facts
from k8s_ovs.controller.metrics import ControllerMetrics
from k8s_ovs.controller.rounds import Outcome, Rounds, RoundServices
from k8s_ovs.sources.store import Change, Snapshot

SMALL = NetworkConfig(
    "k8ssdn", IPv4Network("172.11.0.0/24"), 4, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
)
"""Sixteen host subnets."""


@dataclass
class Step:
    """A point where a controller stops until the test lets it go on."""

    def __await__(self) -> Generator["Step", None, None]:
        yield self


class SteppedStore(FakeStore):
    """A FakeStore whose every method stops before and after it does its work, as a request and its answer do."""

    async def network_config(self) -> NetworkConfig | None:
        await Step()
        return await super().network_config()

    async def snapshot(self) -> Snapshot:
        await Step()
        result = await super().snapshot()
        await Step()
        return result

    async def commit(self, change: Change) -> bool:
        await Step()
        result = await super().commit(change)
        await Step()
        return result


class SteppedCluster(FakeCluster):
    async def existing_nodes(self, names: Iterable[str]) -> set[str]:
        await Step()
        result = await super().existing_nodes(names)
        await Step()
        return result

    async def existing_namespaces(self, names: Iterable[str]) -> set[str]:
        await Step()
        result = await super().existing_namespaces(names)
        await Step()
        return result


def finish(coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Let a round run through."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


@dataclass
class Bench:
    """A store, a cluster and any number of controllers."""

    store: FakeStore = field(default_factory=lambda: FakeStore(SMALL))
    cluster: FakeCluster = field(default_factory=FakeCluster)
    facts: Facts = field(default_factory=Facts)
    leading: bool = True
    now: float = 1000.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.metrics = ControllerMetrics(self.registry)

    def controller(self, facts: Facts | None = None) -> Rounds:
        services = RoundServices(
            self.store, self.cluster, self.metrics, lambda: self.leading, lambda: self.now
        )
        return Rounds(services, self.facts if facts is None else facts)

    def nodes(self, **addresses: str) -> None:
        self.cluster.add_nodes(**addresses)
        self.facts.nodes |= {n: HostNode(n, (IPv4Address(a),)) for n, a in addresses.items()}

    def namespaces(self, *names: str) -> None:
        self.cluster.add_namespaces(*names)
        self.facts.namespaces |= set(names)

    def settle(self, rounds: Rounds) -> int:
        for number in range(50):
            if finish(rounds.once()) is Outcome.SETTLED:
                return number
        raise AssertionError("never settles")

    def records(self) -> Snapshot:
        try:
            coroutine = FakeStore.snapshot(self.store)
            coroutine.send(None)
        except StopIteration as end:
            snapshot: Snapshot = end.value
            return snapshot
        raise AssertionError("the fake store waits")

    def subnets(self) -> dict[str, str]:
        return {r.host: str(r.subnet) for r in self.records().host_subnets.values()}

    def tenants(self) -> dict[str, int]:
        return {name: tenant.vni for name, tenant in self.records().tenants.items()}

    def vnis(self) -> dict[str, int | None]:
        return {r.name: r.net_id for r in self.records().net_namespaces.values()}

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"k8s_ovs_controller_{name}", labels)
