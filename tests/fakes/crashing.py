"""Kills the daemons of a lab at every point of what they do, and looks at what is left.

For the end-to-end test (a selection of points) and `make soak` (all of them). Each of `fakes.crash_operations` is done once
to record its points (`fakes.crashpoints`), then again for each point: the daemon dies there, its supervisor starts it, the
runtime repeats its request as kubelet does, and `fakes.crash_audit` compares everything with what should be.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fakes import crashpoints
from fakes.crash_audit import Audit, audit
from fakes.crash_plan import Plan
from fakes.crash_stage import LIMITED, LIMITS, ApiPod, Pod, Stream, attach, create, reached_by, streaming
from fakes.labs import Lab, running_lab
from fakes.runtime import Answer, Runtime, runtime_on
from k8s_ovs.lab.cluster import DEFAULT_BASE, ETCD_PREFIX, Node
from k8s_ovs.lab.state import load_cluster
from k8s_ovs.model.types import UNLIMITED, PodLimits

RECORDS = f"{ETCD_PREFIX}/k8ssdn/netnamespaces/"
NODES = ("node1", "node2")
DEADLINE = 45.0
"""Seconds in which everything has to be right again: fewer than the agent's period, which would put right much."""
READY = b"ready: serving pods"
STANDING = {
    f"{name}{number}": (f"node{number}", name.rstrip("ab"))
    for name in ("red", "green", "blue", "reda", "redb")
    for number in (1, 2)
}
"""Pods that stay: their nodes and Namespaces. Those of red are probed; reda and redb talk all the time."""


@dataclass
class World:
    """A lab with two nodes, pods that stay, and traffic among them that nothing may disturb."""

    lab: Lab
    nodes: dict[str, Node]
    plan: Plan
    audit: Audit
    runtimes: dict[str, Runtime]
    limited: ApiPod
    """On node1; the only one whose annotations change."""
    pods: dict[str, Pod] = field(default_factory=dict)
    coming: dict[str, str] = field(default_factory=dict)
    """Sandboxes on node1 that come and go, and their addresses."""
    joined: bool = False
    _read: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def ask(self, command: str, sandbox: str) -> Answer:
        """ADD with limits, or DEL, of a pod of red on node1."""
        conf = {"runtimeConfig": LIMITS} if command == "ADD" else {}
        return await self.runtimes["node1"].ask(command, sandbox, "red", **conf)

    async def insist(self, command: str, sandbox: str) -> Answer:
        """Ask until it succeeds, as kubelet does."""
        deadline = time.monotonic() + DEADLINE
        while (answer := await self.ask(command, sandbox)).status:
            assert answer.code == 11, answer
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.05)
        return answer

    async def remove(self, sandbox: str) -> None:
        """DEL, and the end of the sandbox."""
        await self.insist("DEL", sandbox)
        self.coming.pop(sandbox, None)
        self.runtimes["node1"].remove(sandbox)

    async def change_tenant(self) -> None:
        """Let green join blue, or leave it again; return once that is asked for."""
        action, other = ("isolate", "") if self.joined else ("join", "blue")
        request = {"NetName": "green", "Action": action, "Namespace": other}
        await asyncio.to_thread(self.lab.etcdctl, "put", RECORDS + "green", json.dumps(request))
        self.joined = not self.joined

    async def tenants_settled(self) -> None:
        """Return once the last change of tenants is complete."""
        deadline = time.monotonic() + DEADLINE
        while True:
            records = await self.audit.snapshot()
            green, blue = records.tenants["green"], records.tenants["blue"]
            if (green.vni == blue.vni) is self.joined and not green.change:
                return
            assert time.monotonic() < deadline, f"the tenant's change is not complete: {records.tenants}"
            await asyncio.sleep(0.05)

    async def limit(self, limits: PodLimits) -> None:
        """Change the annotations of the limited pod; return once its lease says so."""
        await asyncio.to_thread(self.limited.limit, limits)
        switch, sandbox = self.audit.nodes["node1"].switch, self.limited.sandbox

        def leased() -> bool:
            return any(row.key.sandbox == sandbox and row.limits == limits for row in switch.attachments())

        await self.until(leased, f"the lease of the limited pod to have {limits}")

    async def faults(self) -> list[str]:
        """What is still wrong when everything has had its time to be right: nothing."""
        together = {name: frozenset[str]() for name in ("red", "green", "blue")}
        if self.joined:
            together |= {"green": frozenset({"blue"}), "blue": frozenset({"green"})}
        held = {
            node: {pod.sandbox: (pod.address, UNLIMITED) for pod in self.pods.values() if pod.node == node}
            for node in NODES
        }
        held["node1"] |= {sandbox: (where, LIMITED) for sandbox, where in self.coming.items()}
        held["node1"][self.limited.sandbox] = (self.limited.address, self.limited.limits)
        deadline = time.monotonic() + DEADLINE
        while (found := await self.audit.faults(held, together)) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return found

    async def tenant_faults(self) -> list[str]:
        """Who of green does not reach whom it should on both nodes, or whom it should not."""
        wrong = []
        for node in (1, 2):
            blue = [self.pods["blue1"], self.pods["blue2"]]
            allowed = [self.pods[f"green{3 - node}"], *(blue if self.joined else [])]
            forbidden = [self.pods["red1"], self.pods["red2"], *([] if self.joined else blue)]
            wrong += await reached_by(self.pods[f"green{node}"], allowed, forbidden)
        return wrong

    def ready(self, agent: str) -> int:
        """How often this agent has said that it serves. Cheap: only what is new in its log is read."""
        with (self.lab.home / "log" / f"{agent}-agent.log").open("rb") as log:
            offset, count = self._read.get(agent, (0, 0))
            log.seek(offset)
            lines = log.read().rpartition(b"\n")[0]
        self._read[agent] = offset + len(lines), count + lines.count(READY)
        return self._read[agent][1]

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
            await asyncio.sleep(0.02)

    def on_node1(self, *command: str) -> None:
        """Run a command as an administrator of node1 would, at the cost of one process."""
        node = self.nodes["node1"]
        environment = {**os.environ, "OVS_RUNDIR": str(node.ovs_rundir)}
        argv = ["nsenter", f"--net={node.netns}", "--", *command]
        subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)


class Operation(Protocol):
    """What daemons are killed in. `daemons` are those whose points count, up to the first one with the word `ends`."""

    name: str
    daemons: tuple[str, ...]
    ends: str

    async def prepare(self, world: World) -> None:
        """What comes before it, without any plan."""

    async def carry_out(self, world: World) -> None:
        """Do it, with what repeats it."""

    async def judge(self, world: World) -> list[str]:
        """What is wrong once the daemon is back, and tidy up."""


async def record(world: World, operation: Operation) -> list[str]:
    """The points of an operation, in the order in which they are passed."""
    await operation.prepare(world)
    world.plan.record()
    await operation.carry_out(world)
    await world.plan.quiet()
    passed = world.plan.recorded()
    points = [point for point in passed if point.split(":")[0] in operation.daemons]
    if operation.ends:
        points = points[: next(place for place, point in enumerate(points) if operation.ends in point)]
    assert not (found := await operation.judge(world)), (operation.name, found)
    return points


@dataclass(frozen=True)
class Crash:
    """What became of one: `fired` False if the daemon did not pass the point this time."""

    operation: str
    point: str
    fired: bool
    faults: list[str]
    seconds: float


async def crash(world: World, operation: Operation, point: str) -> Crash:
    """Do the operation with its daemon killed at `point`; what is wrong when it is back."""
    begun = time.monotonic()
    daemon = point.split(":", maxsplit=1)[0]
    await operation.prepare(world)
    before = 0 if daemon == "controller" else world.ready(daemon)
    world.plan.kill_at(point)
    await operation.carry_out(world)
    fired = await world.plan.awaited()
    world.plan.clear()
    if fired and daemon != "controller":
        await world.until(lambda: world.ready(daemon) > before, f"the agent of {daemon} to be back")
    faults = await operation.judge(world)
    return Crash(operation.name, point, fired, faults, time.monotonic() - begun)


@asynccontextmanager
async def crash_world(directory: Path) -> AsyncIterator[tuple[World, list[Stream]]]:
    """A lab with points, with its standing pods and their traffic. The streams are complete after the block."""
    site, place = directory / "site", directory / "points"
    site.mkdir()
    place.mkdir()
    async with AsyncExitStack() as stack:
        lab = stack.enter_context(running_lab(nodes=2, environment=crashpoints.environment(site, place)))
        for name in ("red", "green", "blue"):
            lab.kubectl("create", "namespace", name)
        cluster = load_cluster(DEFAULT_BASE, lab.name)
        runtimes = {name: stack.enter_context(runtime_on(lab, name)) for name in NODES}
        looking = await stack.enter_async_context(audit(lab, cluster.nodes))
        for node in looking.nodes.values():
            await node.begin()
        nodes = {node.name: node for node in cluster.nodes}
        limited = await asyncio.to_thread(create, lab, "node1", "red", "limited")
        world = World(lab, nodes, Plan(place), looking, runtimes, limited)
        for name, (node_name, namespace) in STANDING.items():
            world.pods[name] = await attach(runtimes[node_name], node_name, namespace)
            stack.callback(world.pods[name].close)
        pairs = (("reda1", "redb1"), ("redb1", "reda2"), ("reda2", "reda1"))
        assert not await reached_by(world.pods["reda1"], [world.pods["redb2"], world.pods["reda2"]], [])
        assert not await reached_by(world.pods["reda2"], [world.pods["reda1"]], [])
        streams = [Stream(world.pods[one], world.pods[other]) for one, other in pairs]
        stack.enter_context(streaming(*streams))
        yield world, streams
