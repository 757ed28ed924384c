"""What the daemons of a lab are killed in: ADD, DEL, changes of tenants and of limits, a synchronisation.

For `fakes.crashing`, which does each of them once to record its points, and again for each point.
"""

import asyncio
import os
import signal

from fakes.crash_stage import pod_of, reached_by
from fakes.crashing import NODES, Operation, World
from fakes.runtime import address
from k8s_ovs.model.types import UNLIMITED, PodLimits


class Adding:
    """ADD of a pod with limits, repeated until it succeeds."""

    name = "ADD"
    daemons: tuple[str, ...] = ("node1",)
    ends = ""
    _sandbox = ""

    async def prepare(self, world: World) -> None:
        self._sandbox = world.runtimes["node1"].sandbox()

    async def carry_out(self, world: World) -> None:
        answer = await world.insist("ADD", self._sandbox)
        world.coming[self._sandbox] = address(answer.object).partition("/")[0]

    async def judge(self, world: World) -> list[str]:
        found = await world.faults()
        pod = pod_of(world.runtimes["node1"], "node1", "red", self._sandbox, world.coming[self._sandbox])
        try:
            allowed = [world.pods["red1"], world.pods["red2"]]
            found += await reached_by(pod, allowed, [world.pods["blue1"], world.pods["green2"]])
        finally:
            pod.close()
        again = address((await world.insist("ADD", self._sandbox)).object).partition("/")[0]
        if again != pod.address:
            found.append(f"ADD repeated gives {again}, was {pod.address}")
        await world.remove(self._sandbox)
        return found


class GivingUp(Adding):
    """ADD that the runtime does not repeat: it removes the sandbox. The points of that DEL are those of `Deleting`."""

    name = "ADD given up"
    ends = "CNI DEL"

    async def carry_out(self, world: World) -> None:
        await world.ask("ADD", self._sandbox)
        await world.remove(self._sandbox)

    async def judge(self, world: World) -> list[str]:
        return await world.faults()


class Deleting(Adding):
    """DEL of a pod with limits, repeated until it succeeds."""

    name = "DEL"
    ends = ""

    async def prepare(self, world: World) -> None:
        await super().prepare(world)
        await super().carry_out(world)

    async def carry_out(self, world: World) -> None:
        await world.remove(self._sandbox)

    async def judge(self, world: World) -> list[str]:
        return await world.faults()


class Changing:
    """A tenant's change: green joins blue, or leaves it if `join` is False."""

    daemons: tuple[str, ...] = (*NODES, "controller")
    ends = ""

    def __init__(self, *, join: bool) -> None:
        self._join = join
        self.name = "join" if join else "isolate"

    async def prepare(self, world: World) -> None:
        if world.joined == self._join:
            await world.change_tenant()
            await world.tenants_settled()

    async def carry_out(self, world: World) -> None:
        await world.change_tenant()
        await world.tenants_settled()

    async def judge(self, world: World) -> list[str]:
        return await world.faults() + await world.tenant_faults()


class Limiting:
    """The annotations of a pod that runs change."""

    daemons: tuple[str, ...] = ("node1",)
    ends = ""

    def __init__(self, name: str, before: PodLimits, after: PodLimits) -> None:
        self.name = f"limits {name}"
        self._before = before
        self._after = after

    async def prepare(self, world: World) -> None:
        await world.limit(self._before)
        assert not (found := await world.faults()), (self.name, found)  # the shaper comes after the lease

    async def carry_out(self, world: World) -> None:
        await world.limit(self._after)

    async def judge(self, world: World) -> list[str]:
        return await world.faults()


class Synchronising:
    """The first full synchronisation of an agent, after much has changed behind its back."""

    name = "synchronisation"
    daemons: tuple[str, ...] = ("node1",)
    ends = ""
    _pid = 0
    _before = 0

    async def prepare(self, world: World) -> None:
        runtime = world.runtimes["node1"]
        lost = runtime.sandbox()
        await world.insist("ADD", lost)
        self._before = world.ready("node1")
        await world.until(lambda: "node1/agent" in world.lab.pids(), "an agent to run")
        self._pid = world.lab.pids()["node1/agent"]
        os.kill(self._pid, signal.SIGSTOP)
        runtime.remove(lost)
        ofctl = ("ovs-ofctl", "-O", "OpenFlow15")
        green = world.pods["green1"].address
        for command in (
            (*ofctl, "del-flows", "br0", f"ip,nw_dst={green}"),
            (*ofctl, "add-flow", "br0", "table=70,priority=7,ip,nw_dst=192.0.2.77,actions=drop"),
            (*ofctl, "add-group", "br0", "group_id=4242,type=select,bucket=actions=drop"),
            (*ofctl, "add-meter", "br0", "meter=4242,kbps,band=type=drop,rate=1000"),
            ("ip", "addr", "flush", "dev", "tun0"),
            ("ip", "link", "add", "kovs0123456789a", "type", "veth", "peer", "name", "stray"),
            ("ip", "link", "set", "kovs0123456789a", "alias", "k8s-ovs:gone/eth0"),
            ("iptables", "-F", "K8S-OVS-FORWARD"),
            ("sysctl", "-qw", "net.ipv4.conf.tun0.send_redirects=1"),
        ):
            await asyncio.to_thread(world.on_node1, *command)

    async def carry_out(self, world: World) -> None:
        os.kill(self._pid, signal.SIGKILL)
        await world.until(lambda: world.ready("node1") > self._before, "the agent to be ready")

    async def judge(self, world: World) -> list[str]:
        return await world.faults() + await world.tenant_faults()


def operations() -> list[Operation]:
    """Everything that is interrupted. A tenant joins and leaves in turn."""
    some, other = PodLimits(10_000_000, 20_000_000), PodLimits(30_000_000, 40_000_000)
    return [
        Adding(),
        GivingUp(),
        Deleting(),
        Changing(join=True),
        Changing(join=False),
        Limiting("set", UNLIMITED, some),
        Limiting("changed", some, other),
        Limiting("removed", other, UNLIMITED),
        Synchronising(),
    ]
