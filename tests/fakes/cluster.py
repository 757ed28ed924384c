"""Kubernetes as the controller sees it (controller.cluster.Cluster), in memory, for tests.

Objects come and go with `add_*` and `remove_*`; watches that are open hear of it. `hidden` names exist for the API but
are told by no watch (one that lags, or an object it cannot read). `refusal` makes every request fail.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence

from k8s_ovs.controller.plan import Problem
from k8s_ovs.errors import KubeError
from k8s_ovs.sources.kube.objects import Namespace, Node, NodeAddress, NodeStatus, ObjectMeta
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Upserted

NodeBatch = Sequence[Upserted[Node] | Deleted | InSync]
NamespaceBatch = Sequence[Upserted[Namespace] | Deleted | InSync]


def make_node(name: str, *addresses: str) -> Node:
    entries = tuple(NodeAddress(type="InternalIP", address=address) for address in addresses)
    return Node(metadata=ObjectMeta(name=name), status=NodeStatus(addresses=entries))


def make_namespace(name: str, uid: str = "") -> Namespace:
    return Namespace(metadata=ObjectMeta(name=name, uid=uid))


class FakeCluster:
    def __init__(self) -> None:
        self.hidden: set[str] = set()
        self.refusal: KubeError | None = None
        self.told: list[Problem] = []
        self.asked: list[str] = []
        self.silent = asyncio.Event()
        """Cleared: watches say nothing, not even what exists."""
        self.silent.set()
        self._nodes: dict[str, Node] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._node_watches: list[asyncio.Queue[NodeBatch]] = []
        self._namespace_watches: list[asyncio.Queue[NamespaceBatch]] = []

    # what a test does

    def add_nodes(self, **addresses: str) -> None:
        """One address for each name; an empty one for none."""
        for name, address in addresses.items():
            self._nodes[name] = make_node(name, *filter(None, [address]))
            for watch in self._node_watches:
                watch.put_nowait([Upserted(self._nodes[name])])

    def remove_nodes(self, *names: str) -> None:
        for name in names:
            del self._nodes[name]
            for watch in self._node_watches:
                watch.put_nowait([Deleted("", name)])

    def add_namespaces(self, *names: str) -> None:
        for name in names:
            self._namespaces[name] = make_namespace(name)
            for watch in self._namespace_watches:
                watch.put_nowait([Upserted(self._namespaces[name])])

    def remove_namespaces(self, *names: str) -> None:
        for name in names:
            del self._namespaces[name]
            for watch in self._namespace_watches:
                watch.put_nowait([Deleted("", name)])

    @property
    def watches(self) -> int:
        """How many are open."""
        return len(self._node_watches) + len(self._namespace_watches)

    # the Cluster protocol

    async def nodes(self) -> AsyncGenerator[NodeBatch, None]:
        await self.silent.wait()
        queue: asyncio.Queue[NodeBatch] = asyncio.Queue()
        self._node_watches.append(queue)
        try:
            yield [*map(Upserted, self._nodes.values()), InSync()]
            while True:
                yield await queue.get()
        finally:
            self._node_watches.remove(queue)

    async def namespaces(self) -> AsyncGenerator[NamespaceBatch, None]:
        await self.silent.wait()
        queue: asyncio.Queue[NamespaceBatch] = asyncio.Queue()
        self._namespace_watches.append(queue)
        try:
            yield [*map(Upserted, self._namespaces.values()), InSync()]
            while True:
                yield await queue.get()
        finally:
            self._namespace_watches.remove(queue)

    async def existing_nodes(self, names: Iterable[str]) -> set[str]:
        return self._existing(names, self._nodes.keys())

    async def existing_namespaces(self, names: Iterable[str]) -> set[str]:
        return self._existing(names, self._namespaces.keys())

    async def tell(self, problem: Problem) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(problem)

    @property
    def trouble(self) -> str:
        return str(self.refusal or "")

    def _existing(self, names: Iterable[str], known: Iterable[str]) -> set[str]:
        if self.refusal is not None:
            raise self.refusal
        asked = list(names)
        self.asked += asked
        return set(asked) & (set(known) | self.hidden)
