"""One pod whose containers are processes: volumes, init containers, containers, probes, status, and the end of it all.

Started by the lab's kubelet for pods with an image of this project, which tells it what the API says of the pod. One
worker for each pod (uid).
"""

import asyncio
import contextlib
import json
import logging
import shutil
from dataclasses import dataclass
from typing import Any

from k8s_ovs.errors import KubeConflict, KubeError, KubeNotFound, LabError
from k8s_ovs.lab import commands
from k8s_ovs.lab.cluster import Cluster, Node
from k8s_ovs.lab.objects import LabPod, now
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.processes import log_tail
from k8s_ovs.lab.worker import Worker
from k8s_ovs.lab.workloads import boxes, environment, podstatus
from k8s_ovs.lab.workloads.container import Host, RunningContainer
from k8s_ovs.lab.workloads.environment import Sources
from k8s_ovs.lab.workloads.objects import PodObjects
from k8s_ovs.lab.workloads.podstatus import Told
from k8s_ovs.lab.workloads.spec import IMAGE_PREFIX, Container, PodSpec, Security, parse
from k8s_ovs.lab.workloads.volumes import Volumes
from k8s_ovs.runtime.backoff import Backoff

log = logging.getLogger(__name__)

_REFRESH = 2.0
"""Seconds between looks at ConfigMaps, Secrets and the token. A kubelet takes up to a minute; tests need not."""


def is_ours(pod: LabPod) -> bool:
    """Whether a pod's containers are run as processes: one has an image of this project."""
    groups = (*(pod.spec.init_containers or ()), *(pod.spec.containers or ()))
    return any(container.image.startswith(IMAGE_PREFIX) for container in groups)


class ProcessPod(Worker):
    """Makes one pod so, and keeps it so until it is deleted."""

    def __init__(self, cluster: Cluster, node: Node, api: PodApi, pod: LabPod, host: Host) -> None:
        super().__init__(pod)
        self._cluster, self._node, self._api, self._host = cluster, node, api, host
        self._dirty = asyncio.Event()
        self._folder = node.directory / "pods" / pod.metadata.uid
        self._told: dict[str, Told] = {}
        self._conditions = podstatus.Conditions()
        self._begun = now()
        self._said = ""
        self._objects = PodObjects(api, pod)
        self._spec: PodSpec | None = None
        self._sources: Sources | None = None

    async def run(self) -> None:
        """Live with the pod. Returns when nothing of it is left."""
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(self._live(), name=f"{self.pod.title} life")
            while not self._unwanted:
                self._changed.clear()
                if not self._unwanted:
                    await self._changed.wait()
            life.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)
        await self._last_word()

    async def _last_word(self) -> None:
        backoff = Backoff(base=0.2, cap=5.0, floor=0.1)
        while self._exists:
            try:
                await self._api.delete_now(self.pod)
            except (KubeNotFound, KubeConflict):
                return
            except KubeError as err:
                log.warning("pod %s: %s", self.pod.title, err)
                await asyncio.sleep(backoff.next())
            else:
                return

    async def _live(self) -> None:
        backoff = Backoff(base=0.4, cap=1.0, floor=0.2)
        while True:
            try:
                raw = await self._objects.read()
                spec = self._spec = parse(raw["spec"], f"pod {self.pod.title}")
                waiting = "PodInitializing" if spec.init else "ContainerCreating"
                self._told = {c.name: Told(waiting=waiting) for c in (*spec.init, *spec.containers)}
                claims = await self._objects.claims(spec)
                volumes = Volumes(self._cluster, self._node, self._folder, spec, claims)
                await self._refresh(raw, volumes)
                break
            except KubeNotFound:
                pass  # the watch tells
            except (LabError, KubeError, OSError) as err:
                await self._complain(
                    "FailedMount" if isinstance(err, environment.Missing) else "Failed", str(err)
                )
                await self._tell_waiting()
            await asyncio.sleep(backoff.next())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_status(spec), name=f"{self.pod.title} status")
            tasks.create_task(self._keep_fresh(raw, volumes), name=f"{self.pod.title} volumes")
            for container in spec.init:
                await self._run_init(container, volumes)
            for container in spec.containers:
                name = f"{self.pod.title} {container.name}"
                tasks.create_task(self._run_container(container, volumes), name=name)

    async def _refresh(self, raw: dict[str, Any], volumes: Volumes) -> None:
        config_maps, secrets = await self._objects.sources(volumes.spec)
        sources = Sources(raw, str(self._node.ip), config_maps, secrets, self._host.service)
        self._sources = sources
        volumes.refresh(sources)
        if volumes.spec.token:
            token = await self._objects.token(volumes.spec.account)
            volumes.write_account(token, self._host.authority.read_bytes(), self.pod.metadata.namespace)

    async def _keep_fresh(self, raw: dict[str, Any], volumes: Volumes) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            try:
                await self._refresh(raw, volumes)
            except (LabError, KubeError, OSError) as err:
                log.warning("pod %s: volumes are as they were: %s", self.pod.title, err)

    async def _boxed(self, container: Container, volumes: Volumes) -> "_Boxed":
        """What is started now, with the ConfigMaps and Secrets of now; once everything that it names is there."""
        told, backoff = self._told[container.name], Backoff(base=0.4, cap=5.0, floor=0.2)
        while True:
            try:
                return self._box(container, volumes)
            except (LabError, OSError) as err:
                told.waiting, told.message = "CreateContainerConfigError", str(err)
                self._dirty.set()
                await self._complain("Failed", f"container {container.name}: {err}")
                await asyncio.sleep(backoff.next())

    def _box(self, container: Container, volumes: Volumes) -> "_Boxed":
        if self._sources is None:
            raise LabError(f"pod {self.pod.title} has no volumes yet")
        values = environment.build(container, self._sources)
        box = boxes.Box(
            argv=[environment.expand(word, values) for word in container.argv],
            environment=values,
            mounts=volumes.mounts(container),
            hostname=self._node.name,
            directory=container.directory,
            capabilities=_capabilities(container.security),
            read_only_root=container.security.read_only_root,
            user=container.security.user,
            group=container.security.group,
        )
        return _Boxed(boxes.write(box, self._cluster, self._folder / "boxes", container.name), values)

    def _command(self, container: Container, argv: tuple[str, ...]) -> commands.Command:
        name = f"{self._node.name}/{container.name}"
        file = self._cluster.logs / f"{self._node.name}-{container.name}.log"
        return commands.Command(name=name, argv=argv, netns=self._node.netns, log=file)

    async def _run_init(self, container: Container, volumes: Volumes) -> None:
        """Run an init container until it has succeeded."""
        told, backoff = self._told[container.name], Backoff(base=0.5, cap=10.0, floor=0.2)
        while True:
            command = self._command(container, (await self._boxed(container, volumes)).argv)
            with command.log.open("ab") as file:
                process = await asyncio.create_subprocess_exec(
                    *command.full_argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            told.pid, told.since = process.pid, now()
            self._dirty.set()
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
            told.pid, told.ended, told.since = None, status, now()
            told.waiting = "" if status == 0 else "CrashLoopBackOff"
            self._dirty.set()
            if status == 0:
                return
            told.restarts += 1
            told.message = log_tail(command.log, 3)
            await self._complain(
                "BackOff", f"init container {container.name} failed ({status}): {told.message}"
            )
            await asyncio.sleep(backoff.next())

    async def _run_container(self, container: Container, volumes: Volumes) -> None:
        boxed = await self._boxed(container, volumes)
        told, command = self._told[container.name], self._command(container, boxed.argv)
        running = RunningContainer(self._node, container, boxed.environment, told, self._dirty)
        await running.run(command, self._host, self._grace)

    def _grace(self) -> float:
        """Seconds that a process has to end: none when the lab ends, and not the pod."""
        return self._spec.grace if self._unwanted and self._spec is not None else 0.0

    async def _tell_waiting(self) -> None:
        """The status of a pod whose volumes are not there yet."""
        if self._spec is None:
            return
        status = podstatus.status(self._spec, self._told, str(self._node.ip), self._conditions, self._begun)
        with contextlib.suppress(KubeError):  # it is told once more, at the latest when the pod runs
            await self._api.set_status(self.pod, status)

    async def _tell_status(self, spec: PodSpec) -> None:
        last = ""
        while True:
            self._dirty.clear()
            status = podstatus.status(spec, self._told, str(self._node.ip), self._conditions, self._begun)
            text = json.dumps(status)
            if text != last:
                try:
                    await self._api.set_status(self.pod, status)
                    last = text
                except (KubeNotFound, KubeConflict):
                    last = text  # the watch tells
                except KubeError as err:
                    log.warning("pod %s: status not told: %s", self.pod.title, err)
                    await asyncio.sleep(0.5)
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._dirty.wait()

    async def _complain(self, reason: str, message: str) -> None:
        """Say why the pod does not run, where people look for it; once."""
        if message == self._said:
            return
        self._said = message
        log.warning("pod %s: %s", self.pod.title, message)
        await self._api.tell(self.pod, reason, message)


@dataclass(frozen=True, slots=True)
class _Boxed:
    argv: tuple[str, ...]
    environment: dict[str, str]


def _capabilities(security: Security) -> frozenset[str] | None:
    if security.privileged:
        return None
    if "ALL" in security.dropped:
        return security.added
    return (boxes.DEFAULT_CAPABILITIES - security.dropped) | security.added
