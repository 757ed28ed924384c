"""One Pod on its node: from the sandbox to a Running status, and back to nothing. One worker for each Pod (uid).

Started by the kubelet, which tells it what the API says of the Pod; everything about one Pod happens in its worker, in
order. Failures are events on the Pod, and are tried again with backoff, as kubelet does.
"""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import KubeConflict, KubeError, KubeNotFound, LabError
from k8s_ovs.lab import namespaces, objects
from k8s_ovs.lab.cluster import Cluster, Node
from k8s_ovs.lab.cniexec import Chain, Conf, SandboxArgs, address_of, load_conflist
from k8s_ovs.lab.objects import LabPod
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.podlink import PodServerLink
from k8s_ovs.lab.state import replace_file
from k8s_ovs.lab.worker import Worker
from k8s_ovs.lab.workloads.volumes import NETNS_SEEN, PLUGINS_SEEN, host_path
from k8s_ovs.runtime.backoff import Backoff

log = logging.getLogger(__name__)

_PARALLEL = 20
"""Sandboxes that one node sets up or removes at once."""


class NodeHandle:
    """What the workers of one node share."""

    def __init__(self, cluster: Cluster, node: Node, view: Callable[[], int | None] | None = None) -> None:
        self.node = node
        self.netns_seen = NETNS_SEEN if view is not None else None
        if view is None:
            self.chain = Chain(node.netns, cluster.cni_bin)
        else:
            plugins = host_path(cluster, node, str(PLUGINS_SEEN))
            self.chain = Chain(node.netns, plugins, view=view, seen=PLUGINS_SEEN)
        self.servers = PodServerLink(node.podserver_socket)
        self.slots = asyncio.Semaphore(_PARALLEL)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's namespace with its network; `conflist` and `result` are kept for DEL."""

    args: SandboxArgs
    conflist: Conf
    result: Conf
    address: str


class PodWorker(Worker):
    """Makes one Pod so, and keeps it so until it is deleted."""

    def __init__(self, cluster: Cluster, handle: NodeHandle, api: PodApi, pod: LabPod) -> None:
        super().__init__(pod)
        self._cluster = cluster
        self._handle = handle
        self._api = api
        self._sandbox: Sandbox | None = None
        self._running = False
        self._backoff = Backoff(base=0.4, cap=10.0, floor=0.2)
        self._told = ""

    async def run(self) -> None:
        """Live with the Pod. Returns when nothing of it is left."""
        while not self._unwanted:
            self._changed.clear()
            wait = None if self._running else await self._attempt()
            await self._pause(wait)
        self._backoff.reset()
        while not await self._removed():
            await asyncio.sleep(self._backoff.next())

    async def _pause(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _attempt(self) -> float | None:
        """Try to get the Pod running; the seconds until the next try, None when it runs."""
        try:
            async with self._handle.slots:
                address, sandbox = await self._set_up()
            status = objects.running_status(self.pod, self._handle.node, address, sandbox)
            await self._api.set_status(self.pod, status)
        except KubeNotFound:
            return None  # deleted meanwhile: the watch tells
        except (LabError, OSError, KubeError) as err:
            log.warning("pod %s: %s", self.pod.title, err)
            await self._not_yet(err)
            return self._backoff.next()
        self._running = True
        return None

    async def _not_yet(self, err: Exception) -> None:
        """Say why the Pod does not run, where people look: `kubectl get` and `kubectl describe`."""
        if not self._told:
            with contextlib.suppress(KubeError):
                await self._api.set_status(
                    self.pod, objects.waiting_status(self.pod, self._handle.node, str(err))
                )
        await self._tell("FailedCreatePodSandBox", f"Failed to create pod sandbox: {err}")

    async def _set_up(self) -> tuple[str, str]:
        """The Pod's address and sandbox id, with its server answering."""
        pod, handle = self.pod, self._handle
        if pod.spec.host_network:
            await handle.servers.serve(pod.metadata.uid, pod.title, None, pod.serve_ports())
            self._record(str(handle.node.ip), handle.node.netns)
            return str(handle.node.ip), pod.metadata.uid
        if self._sandbox is None:
            self._sandbox = await self._new_sandbox()
        sandbox = self._sandbox
        await handle.servers.serve(pod.metadata.uid, pod.title, sandbox.args.netns, pod.serve_ports())
        self._record(sandbox.address, sandbox.args.netns)
        return sandbox.address, sandbox.args.sandbox

    async def _new_sandbox(self) -> Sandbox:
        conflist = load_conflist(self._handle.node.cni_conf_dir)
        if conflist is None:
            raise LabError(
                "network is not ready: no CNI configuration", remedy="wait for the agent of this node"
            )
        identity, seen = secrets.token_hex(32), self._handle.netns_seen
        args = SandboxArgs(
            sandbox=identity,
            netns=self._cluster.pod_netns(identity),
            namespace=self.pod.metadata.namespace,
            name=self.pod.metadata.name,
            uid=self.pod.metadata.uid,
            ports=self.pod.port_mappings(),
            told_netns=seen / self._cluster.pod_netns(identity).name if seen is not None else None,
        )
        namespaces.create(args.netns)
        try:
            namespaces.loopback_up(args.netns)
            result = await self._handle.chain.add(conflist, args)
            return Sandbox(args, conflist, result, address_of(result))
        except BaseException:
            await self._discard(args, conflist)
            raise

    async def _discard(self, args: SandboxArgs, conflist: Conf) -> None:
        """After a failed ADD: DEL, as the specification wants it, and the namespace goes."""
        try:
            await self._handle.chain.delete(conflist, args, None)
        except LabError as err:
            log.warning("pod %s: DEL after a failed ADD: %s", self.pod.title, err)
        finally:
            namespaces.remove(args.netns)

    async def _removed(self) -> bool:
        """Try to remove everything of the Pod, here and in the API. False: try again."""
        try:
            await self._handle.servers.stop(self.pod.metadata.uid)
            self._file.unlink(missing_ok=True)
            sandbox = self._sandbox
            if sandbox is not None:
                async with self._handle.slots:
                    await self._handle.chain.delete(sandbox.conflist, sandbox.args, sandbox.result)
                namespaces.remove(sandbox.args.netns)
                self._sandbox = None
            if self._exists:
                await self._api.delete_now(self.pod)
        except (KubeNotFound, KubeConflict):
            return True
        except (LabError, OSError, KubeError) as err:
            log.warning("pod %s: %s", self.pod.title, err)
            await self._tell("FailedKillPod", f"error killing pod: {err}")
            return False
        return True

    async def _tell(self, reason: str, message: str) -> None:
        """An event, unless the last one said the same."""
        if message != self._told and self._exists:
            self._told = message
            await self._api.tell(self.pod, reason, message)

    @property
    def _file(self) -> Path:
        """Named by the uid: a Pod's successor has the same name."""
        return self._cluster.pods_dir / f"{self.pod.metadata.uid}.json"

    def _record(self, address: str, netns: Path) -> None:
        """For `lab exec` and `lab matrix`: where the Pod is."""
        record = {
            "namespace": self.pod.metadata.namespace,
            "name": self.pod.metadata.name,
            "node": self._handle.node.name,
            "address": address,
            "netns": str(netns),
            "hostNetwork": self.pod.spec.host_network,
            "ports": self.pod.serve_ports(),
        }
        replace_file(self._file, json.dumps(record))
