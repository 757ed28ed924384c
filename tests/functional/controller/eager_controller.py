"""A controller that believes it leads whatever others do, for test_controller_rivals.py; run as a process of its own.

    eager_controller.py ENDPOINT SEED NODES NAMESPACES

It hears of the Nodes and Namespaces in an order of its own (SEED), some with every look at the records, so that two of
them never know the same. Ready for kill -9 at any time.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from fakes.cluster import FakeCluster
from k8s_ovs.controller.app import Controller, ControllerServices, ControllerSettings
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.store import Snapshot

AT_ONCE = 60


class AlwaysLeading:
    is_leader = True
    holder = "me"

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        await lead()


class TeachingStore(EtcdStore):
    """With every snapshot the cluster learns of a few objects more."""

    def __init__(self, settings: EtcdSettings, cluster: FakeCluster, order: list[str]) -> None:
        super().__init__(settings)
        self._cluster = cluster
        self._order = order

    async def snapshot(self) -> Snapshot:
        for name in self._order[:AT_ONCE]:
            teach(self._cluster, name)
        del self._order[:AT_ONCE]
        return await super().snapshot()


def teach(cluster: FakeCluster, name: str) -> None:
    if name.startswith("node"):
        number = int(name.removeprefix("node"))
        cluster.add_nodes(**{name: f"192.0.{2 + number // 250}.{1 + number % 250}"})
    else:
        cluster.add_namespaces(name)


async def main(endpoint: str, seed: str, nodes: str, namespaces: str) -> None:
    names = [f"node{n}" for n in range(int(nodes))] + [f"ns{n}" for n in range(int(namespaces))]
    cluster = FakeCluster()
    cluster.hidden = set(names)
    random.Random(seed).shuffle(names)
    async with TeachingStore(EtcdSettings((endpoint,)), cluster, names) as store:
        services = ControllerServices(store, None, HealthChecks(), CollectorRegistry())
        await Controller(ControllerSettings("eager"), services, cluster, AlwaysLeading()).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
