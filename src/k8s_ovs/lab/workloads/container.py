"""One container that runs: its process, kept running, and its probes, which decide whether it is ready and whether it lives.

Made by the pod worker once the init containers are done. What is known of it goes into its `Told`, for the status.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k8s_ovs.lab.cluster import Node
from k8s_ovs.lab.commands import Command
from k8s_ovs.lab.objects import now
from k8s_ovs.lab.processes import Supervised
from k8s_ovs.lab.workloads import probing
from k8s_ovs.lab.workloads.podstatus import Told
from k8s_ovs.lab.workloads.spec import Container, Probe

log = logging.getLogger(__name__)

_LOOK = 0.05
"""Seconds between looks whether the process that is probed is still the same."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the supervisor does for the workers: knows their processes, and where the API is for pods."""

    track: Callable[[Supervised], None]
    untrack: Callable[[Supervised], None]
    changed: Callable[[], None]
    stopped: Callable[[str], bool]
    view: Callable[[str], int | None]
    service: tuple[str, str]
    authority: Path


@dataclass
class RunningContainer:
    """A container of a pod on a node; `dirty` is set when what is told of it has changed."""

    node: Node
    container: Container
    environment: Mapping[str, str]
    told: Told
    dirty: asyncio.Event
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, command: Command, host: Host, grace: Callable[[], float]) -> None:
        """Keep the process running, and probe it. At the end it has `grace` seconds."""
        self.told.waiting = "ContainerCreating"
        process = Supervised(
            command,
            on_change=lambda: self._changed(process, host),
            stopped=lambda: host.stopped(command.name),
        )
        host.track(process)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._supervise(process, grace), name=command.name)
                if self.container.probes:
                    tasks.create_task(self._probe_each(process), name=f"{command.name} probes")
        finally:
            host.untrack(process)

    @staticmethod
    async def _supervise(process: Supervised, grace: Callable[[], float]) -> None:
        run = asyncio.create_task(process.run(), name=f"{process.command.name} process")
        try:
            await asyncio.wait([run])
        finally:
            process.grace = grace()
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await run

    def _changed(self, process: Supervised, host: Host) -> None:
        running, told = process.process_id, self.told
        probed = bool(self.container.probes)
        told.pid = running.pid if running is not None else None
        told.restarts, told.ended = max(process.restarts, 0), process.last_exit
        told.waiting = "" if running is not None else "CrashLoopBackOff"
        told.ready = told.started = running is not None and not probed
        told.since = now()
        self._moved.set()
        self.dirty.set()
        host.changed()

    async def _probe_each(self, process: Supervised) -> None:
        """Probes anew for each start of the process."""
        while True:
            running = process.process_id
            if running is None:
                self._moved.clear()
                await self._moved.wait()
                continue
            asking = asyncio.create_task(self._probe(process), name=f"{process.command.name} probe")
            try:
                while process.process_id == running:
                    await asyncio.sleep(_LOOK)
            finally:
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking

    async def _probe(self, process: Supervised) -> None:
        """Startup first, then liveness and readiness."""
        probes, startup = self.container.probes, asyncio.Event()

        def started(good: bool, said: str) -> None:
            if good:
                startup.set()
            elif not startup.is_set():
                self._kill(process, f"startup probe: {said}")

        def alive(good: bool, said: str) -> None:
            if not good:
                self._kill(process, f"liveness probe: {said}")

        async with asyncio.TaskGroup() as tasks:
            if "startupProbe" in probes:
                first = tasks.create_task(
                    self._watch(process, probes["startupProbe"], started), name="startup"
                )
                await startup.wait()
                first.cancel()
            self.told.started = True
            if "livenessProbe" in probes:
                tasks.create_task(self._watch(process, probes["livenessProbe"], alive), name="liveness")
            if "readinessProbe" in probes:
                tasks.create_task(
                    self._watch(process, probes["readinessProbe"], self._ready), name="readiness"
                )
            else:
                self._ready(True, "")

    async def _watch(self, process: Supervised, probe: Probe, tell: Callable[[bool, str], None]) -> None:
        def enter() -> Sequence[str] | None:
            if process.process_id is None:
                return None
            return ("nsenter", f"--target={process.process_id.pid}", "--mount", "--net", "--uts", "--")

        target = probing.Target(self.node.netns, str(self.node.ip), enter, self.environment)
        await probing.watch(probe, lambda: probing.ask(probe, self.container, target), tell)

    def _ready(self, good: bool, said: str) -> None:
        if self.told.ready != good:
            self.told.ready, self.told.message = good, said
            self.dirty.set()

    @staticmethod
    def _kill(process: Supervised, why: str) -> None:
        log.warning("%s is started again: %s", process.command.name, why)
        if process.process_id is not None:
            process.process_id.signal(signal.SIGKILL)
