"""The kubelets of all nodes of a lab, and its scheduler.

Run by the supervisor. Registers the Nodes and keeps their condition Ready (True only while the node has a CNI
configuration, as with a real kubelet), gives Pods without a node to the nodes in turn, and has one worker for each Pod
that is bound to a node. It calls the CNI executable and the API, and nothing of the product directly.
"""

import asyncio
import contextlib
import logging
from contextlib import aclosing

from k8s_ovs.errors import KubeConflict, KubeError, KubeNotFound
from k8s_ovs.lab import objects, ovsnode, placing
from k8s_ovs.lab.cluster import Cluster, Node
from k8s_ovs.lab.objects import NODES, PODS, LabPod
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.podworker import NodeHandle, PodWorker
from k8s_ovs.lab.worker import Worker
from k8s_ovs.lab.workloads.container import Host
from k8s_ovs.lab.workloads.pod import ProcessPod, is_ours
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.reflector import Deleted, Reflector, Upserted

log = logging.getLogger(__name__)

_LOOK = 0.1
"""Seconds between looks at a node's CNI directory."""
_HEARTBEAT = 10.0
_RETRY = 0.3
_LABELS = 1.0
"""Seconds between looks at the nodes' labels while a pod waits for a node."""


class Kubelet:
    """Every node's kubelet; `schedule` False leaves scheduling to a real kube-scheduler."""

    def __init__(self, cluster: Cluster, *, schedule: bool = True, host: Host | None = None) -> None:
        self._cluster = cluster
        self._schedule = schedule
        self._host = host
        self._nodes = {node.name: self._handle(node) for node in cluster.nodes}
        self._registered: set[str] = set()
        self._ready: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._uids: dict[tuple[str, str], str] = {}
        self._unbound: dict[tuple[str, str], LabPod] = {}
        self._placed_pods: dict[tuple[str, str], LabPod] = {}
        self._turn = 0
        self._scheduling = asyncio.Event()

    def _handle(self, node: Node) -> NodeHandle:
        host = self._host
        return NodeHandle(self._cluster, node, (lambda: host.view(node.name)) if host is not None else None)

    def registered(self) -> bool:
        """Whether every Node is in the API."""
        return len(self._registered) == len(self._nodes)

    def all_ready(self) -> bool:
        """Whether every Node is Ready."""
        return len(self._ready) == len(self._nodes)

    async def run(self) -> None:
        """Work until cancelled; outages of the API are waited out."""
        credentials = load_credentials(KubeSettings(kubeconfig=self._cluster.kubeconfig))
        seconds = self._cluster.token_seconds
        async with PodApi(credentials, token_seconds=seconds) as api, asyncio.TaskGroup() as group:
            for handle in self._nodes.values():
                group.create_task(handle.servers.run(), name=f"{handle.node.name} pod servers")
                group.create_task(self._keep_node(api, handle), name=f"{handle.node.name} status")
            if self._schedule:
                group.create_task(self._scheduler(api), name="scheduler")
            await self._watch_pods(api, group)

    async def _keep_node(self, api: PodApi, handle: NodeHandle) -> None:
        """Register the Node, then tell its condition when it changes, and now and then."""
        loop = asyncio.get_running_loop()
        due, told = 0.0, (handle.node.address, False)
        while True:
            node = ovsnode.current(handle.node)
            ready = ovsnode.has_conflist(node.cni_conf_dir)
            try:
                if node.name not in self._registered:
                    await self._register(api, node, ready=ready)
                elif (node.address, ready) == told and loop.time() < due:
                    await asyncio.sleep(_LOOK)
                    continue
                else:
                    await api.set_node_status(node.name, objects.node_status(node, ready=ready))
            except KubeNotFound:
                pass  # somebody deleted the Node: it stays away until the lab is up again, as with a real kubelet
            except KubeError as err:
                log.warning("node %s: %s", node.name, err)
                await asyncio.sleep(_RETRY)
                continue
            due, told = loop.time() + _HEARTBEAT, (node.address, ready)
            self._set_ready(node.name, ready=ready)

    async def _register(self, api: PodApi, node: Node, *, ready: bool) -> None:
        try:
            # With manifests the first node is one of the control plane: those have etcd.
            first = self._cluster.manifests is not None and node.name == self._cluster.nodes[0].name
            await api.create_node(objects.node_object(node, ready=ready, control_plane=first))
        except KubeConflict:
            await api.set_node_status(node.name, objects.node_status(node, ready=ready))
        self._registered.add(node.name)

    def _set_ready(self, name: str, *, ready: bool) -> None:
        if ready:
            self._ready.add(name)
        else:
            self._ready.discard(name)
        self._scheduling.set()

    async def _watch_pods(self, api: PodApi, group: asyncio.TaskGroup) -> None:
        async with aclosing(Reflector(api.client, PODS).watch()) as batches:
            async for batch in batches:
                for change in batch:
                    if isinstance(change, Upserted):
                        self._upserted(api, group, change.object)
                    elif isinstance(change, Deleted):
                        self._gone((change.namespace, change.name))

    def _upserted(self, api: PodApi, group: asyncio.TaskGroup, pod: LabPod) -> None:
        uid = pod.metadata.uid
        if self._uids.get(pod.key, uid) != uid:
            self._gone(pod.key)
        self._uids[pod.key] = uid
        if pod.spec.host_network and pod.spec.node_name:
            self._placed_pods[pod.key] = pod
        if not pod.spec.node_name:
            self._unbound[pod.key] = pod
            self._scheduling.set()
            return
        self._unbound.pop(pod.key, None)
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(pod)
        elif (handle := self._nodes.get(pod.spec.node_name)) is not None:
            if self._host is not None and is_ours(pod):
                worker = ProcessPod(self._cluster, handle.node, api, pod, self._host)
            else:
                worker = PodWorker(self._cluster, handle, api, pod)
            self._workers[uid] = worker
            group.create_task(self._work(worker, uid), name=f"pod {pod.title}")

    async def _work(self, worker: Worker, uid: str) -> None:
        try:
            await worker.run()
        finally:
            del self._workers[uid]

    def _gone(self, key: tuple[str, str]) -> None:
        self._unbound.pop(key, None)
        if self._placed_pods.pop(key, None) is not None:
            self._scheduling.set()
        worker = self._workers.get(self._uids.pop(key, ""))
        if worker is not None:
            worker.update(None)

    def _placed(self, node: str) -> list[LabPod]:
        """The pods of the host's network that are on a node: a new one must get on with them."""
        return [pod for pod in self._placed_pods.values() if pod.spec.node_name == node]

    async def _scheduler(self, api: PodApi) -> None:
        while True:
            with contextlib.suppress(
                TimeoutError
            ):  # a node's labels may have changed: nobody here hears of that
                async with asyncio.timeout(_LABELS if self._unbound else None):
                    await self._scheduling.wait()
            self._scheduling.clear()
            for pod in list(self._unbound.values()):
                if pod.metadata.deletion_timestamp is None:
                    await self._bind(api, pod)

    async def _bind(self, api: PodApi, pod: LabPod) -> None:
        names = [name for name in self._nodes if name in self._ready or placing.tolerates_not_ready(pod)]
        names = [name for name in names if placing.fits(pod, self._placed(name))]
        turn = self._turn % len(names) if names else 0
        try:
            labels = await self._labels(api) if names and placing.asks_for_labels(pod) else {}
            chosen = placing.choose(pod, labels, [*names[turn:], *names[:turn]])
            if chosen is None:
                return  # stays Pending until a node that fits becomes Ready
            self._turn = names.index(chosen) + 1
            await api.bind(pod, chosen)
            if pod.spec.host_network:
                self._placed_pods[pod.key] = placing.on(pod, chosen)
            self._unbound.pop(pod.key, None)
        except (KubeNotFound, KubeConflict):
            self._unbound.pop(pod.key, None)  # gone, or bound by somebody else: the watch tells
        except KubeError as err:
            log.warning("pod %s: not bound to a node: %s", pod.title, err)
            await asyncio.sleep(_RETRY)
            self._scheduling.set()

    @staticmethod
    async def _labels(api: PodApi) -> dict[str, dict[str, str]]:
        nodes = (await api.read(NODES.path()))["items"]
        return {node["metadata"]["name"]: node["metadata"].get("labels") or {} for node in nodes}
