"""What Kubernetes says: Nodes and Namespaces as they come and go, and Events in the other direction.

Used by `worker` and `report`. `Cluster` is the interface, `KubeCluster` the real thing; `Facts` keeps what
was told. Nothing here knows of subnets or VNIs.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol, TypeVar

from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.plan import Problem
from k8s_ovs.errors import KubeNotFound, RecordError
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import (
    LEASES,
    NAMESPACES,
    NODES,
    KubeObject,
    Namespace,
    Node,
    ObjectReference,
    Resource,
)
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Reflector, Upserted

T = TypeVar("T", bound=KubeObject)


class Cluster(Protocol):
    """The Kubernetes API as the controller needs it. Methods raise KubeError's kinds; the watches never do."""

    def nodes(self) -> AsyncGenerator[Sequence[Upserted[Node] | Deleted | InSync], None]:
        """All Nodes, InSync, then changes, without end; close it with aclosing."""

    def namespaces(self) -> AsyncGenerator[Sequence[Upserted[Namespace] | Deleted | InSync], None]:
        """All Namespaces, likewise."""

    async def existing_nodes(self, names: Iterable[str]) -> set[str]:
        """Those of `names` that exist now, read from the API, not from what the watch has told."""

    async def existing_namespaces(self, names: Iterable[str]) -> set[str]:
        """Likewise."""

    async def tell(self, problem: Problem) -> None:
        """Make a Kubernetes Event of a problem."""

    @property
    def trouble(self) -> str:
        """Why nothing is heard at the moment; empty if all is well."""


class KubeCluster:
    """The real Kubernetes API. Events that have no object of their own are about the controller's Lease."""

    def __init__(self, client: KubeClient, lease_namespace: str, lease_name: str) -> None:
        self._client = client
        self._nodes = Reflector(client, NODES)
        self._namespaces = Reflector(client, NAMESPACES)
        self._lease = ObjectReference(
            kind=LEASES.kind, namespace=lease_namespace, name=lease_name, api_version=LEASES.api_version
        )

    def nodes(self) -> AsyncGenerator[Sequence[Upserted[Node] | Deleted | InSync], None]:
        """See Cluster."""
        return self._nodes.watch()

    def namespaces(self) -> AsyncGenerator[Sequence[Upserted[Namespace] | Deleted | InSync], None]:
        """See Cluster."""
        return self._namespaces.watch()

    async def existing_nodes(self, names: Iterable[str]) -> set[str]:
        """See Cluster."""
        return {name for name in names if await self._exists(NODES, name)}

    async def existing_namespaces(self, names: Iterable[str]) -> set[str]:
        """See Cluster."""
        return {name for name in names if await self._exists(NAMESPACES, name)}

    async def _exists(self, resource: Resource[T], name: str) -> bool:
        try:
            await self._client.get(resource, name)
        except KubeNotFound:
            return False
        except RecordError:
            return True  # malformed, but there
        return True

    async def tell(self, problem: Problem) -> None:
        """See Cluster."""
        subject = problem.subject
        if subject.kind == "Record":
            about = self._lease
        else:
            # `kubectl describe node` looks for Events whose uid is the Node's name, as the kubelet writes
            # them.
            uid = subject.name if subject.kind == "Node" else ""
            about = ObjectReference(kind=subject.kind, name=subject.name, uid=uid, api_version="v1")
        await self._client.create_event(about, problem.kind.value, str(problem), warning=True)

    @property
    def trouble(self) -> str:
        """See Cluster."""
        errors = [reflector.error for reflector in (self._nodes, self._namespaces)]
        return "; ".join(str(error) for error in errors if error is not None)


@dataclass(slots=True)
class Facts:
    """The Nodes and Namespaces as told so far; they count only once both are in sync.

    `uids` are those of the Namespaces: by them one is known from another that had its name before.
    """

    nodes: dict[str, HostNode] = field(default_factory=dict)
    namespaces: set[str] = field(default_factory=set)
    nodes_in_sync: bool = False
    namespaces_in_sync: bool = False
    uids: dict[str, str] = field(default_factory=dict)

    def apply_nodes(self, batch: Iterable[Upserted[Node] | Deleted | InSync]) -> bool:
        """Take in a batch. Whether anything changed that a plan depends on: a heartbeat does not."""
        changed = False
        for item in batch:
            match item:
                case Upserted(node):
                    host = HostNode(node.metadata.name, tuple(_addresses(node)))
                    changed |= self.nodes.get(host.name) != host
                    self.nodes[host.name] = host
                case Deleted(_, name):
                    changed |= self.nodes.pop(name, None) is not None
                case InSync():
                    changed |= not self.nodes_in_sync
                    self.nodes_in_sync = True
        return changed

    def apply_namespaces(self, batch: Iterable[Upserted[Namespace] | Deleted | InSync]) -> bool:
        """Take in a batch, likewise."""
        before = len(self.namespaces), self.namespaces_in_sync
        replaced = False
        for item in batch:
            match item:
                case Upserted(namespace):
                    name, uid = namespace.metadata.name, namespace.metadata.uid
                    replaced |= name not in self.namespaces or self.uids.get(name) != uid
                    self.namespaces.add(name)
                    self.uids[name] = uid
                case Deleted(_, name):
                    self.namespaces.discard(name)
                    self.uids.pop(name, None)
                case InSync():
                    self.namespaces_in_sync = True
        return replaced or before != (len(self.namespaces), self.namespaces_in_sync)

    @property
    def missing(self) -> list[str]:
        """What has not been told in full yet."""
        told = {"nodes": self.nodes_in_sync, "namespaces": self.namespaces_in_sync}
        return [what for what, done in told.items() if not done]


def _addresses(node: Node) -> Iterator[IPv4Address]:
    for text in node.addresses("InternalIP"):
        try:
            yield IPv4Address(text)
        except ValueError:
            continue  # IPv6: not for the underlay yet
