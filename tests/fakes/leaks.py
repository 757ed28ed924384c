"""Pods that come and go by the thousand on one node, and what the agent and the switch keep of them.

For `bench/leaks.py` and its short form in the end-to-end tests: the real CNI executable, several at once, each pod with a
datagram through a Service so that conntrack has something to keep. Sandboxes share network namespaces, as they come and go.
"""

import asyncio
import json
import secrets
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from fakes.crash_stage import PORT, Pod, attach, listen
from fakes.labs import Lab, running_lab
from fakes.runtime import Runtime, runtime_on
from k8s_ovs.dataplane import unixctl
from k8s_ovs.lab.cluster import DEFAULT_BASE, Node
from k8s_ovs.lab.state import load_cluster

NODE, NAMESPACE = "node1", "default"
PATIENCE = 120.0
"""Seconds that conntrack's entries of pods that are gone may need to go: no less than their timeout."""
SETTLING = 30.0


@dataclass(frozen=True)
class Footprint:
    """What is there while no pod comes or goes. Memory in kB; `switch_kb` is for information."""

    agent_kb: int
    fds: int
    threads: int
    interfaces: int
    links: int
    flows: int
    connections: int
    switch_kb: int

    @property
    def steady(self) -> tuple[int, ...]:
        """What pods that are gone must not change. Not threads and idle connections, which wait for the next pods."""
        return self.interfaces, self.links, self.flows, self.connections

    def row(self, pairs: int) -> str:
        """A row of a Markdown table."""
        cells = [pairs, *(getattr(self, each.name) for each in fields(self))]
        return f"| {' | '.join(f'{cell:,}' for cell in cells)} |"


LOOKS = 5

HEADER = """| pairs | agent RSS, kB | descriptors | threads | Interface rows | links | flows | conntrack | vswitchd RSS, kB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


@dataclass
class Mill:
    """A node on which pods come and go."""

    lab: Lab
    node: Node
    runtime: Runtime
    server: Pod
    service: str
    pairs: int = 0
    namespaces: list[str] = field(default_factory=list)

    async def turn(self, pairs: int) -> None:
        """So many ADD and DEL, as many at once as there are namespaces. AssertionError if one of them fails."""
        left = iter(range(pairs))

        async def work(netns: str) -> None:
            for _ in left:
                await self._pair(netns)

        async with asyncio.TaskGroup() as tasks:
            for netns in self.namespaces:
                tasks.create_task(work(netns))
        self.pairs += pairs

    async def _pair(self, netns: str) -> None:
        sandbox = secrets.token_hex(16)
        self.runtime.sandboxes[sandbox] = netns
        try:
            answer = await self.runtime.ask("ADD", sandbox, NAMESPACE)
            assert answer.status == 0, answer
            await asyncio.to_thread(self._talk, sandbox)
            answer = await self.runtime.ask("DEL", sandbox, NAMESPACE)
            assert answer.status == 0, answer
        finally:
            del self.runtime.sandboxes[sandbox]

    def _talk(self, sandbox: str) -> None:
        """A datagram through the Service."""
        with listen(self.runtime, sandbox) as client:
            for _ in range(20):
                client.sendto(sandbox.encode(), (self.service, PORT))
                if select.select([client], [], [], 0.5)[0]:
                    assert client.recv(100) == sandbox.encode()
                    return
        raise AssertionError(f"no answer from the Service {self.service}")

    def answer(self) -> None:
        """What the Service's endpoint does with a datagram: for the loop."""
        data, client = self.server.socket.recvfrom(100)
        self.server.socket.sendto(data, client)

    async def footprint(self) -> Footprint:
        """What is there now."""
        pids = self.lab.pids()
        agent, switch = pids[f"{NODE}/agent"], pids[f"{NODE}/vswitchd"]
        links = Path(f"/proc/{agent}/net/dev").read_text().count(":")
        async with unixctl.connect(self.node.ovs_rundir, 10, "counting") as control:
            connections = int((await control.call("dpctl/ct-get-nconns")).text)
            flows = (await control.call("bridge/dump-flows", "br0")).text.count("\n")
        return Footprint(
            agent_kb=_status(agent, "VmRSS"),
            fds=await _descriptors(agent),
            threads=_status(agent, "Threads"),
            interfaces=await self._interfaces(),
            links=links,
            flows=flows,
            connections=connections,
            switch_kb=_status(switch, "VmRSS"),
        )

    async def forgotten(self, connections: int) -> Footprint:
        """The same once conntrack holds no more than `connections`. AssertionError if it keeps more for good."""
        async with asyncio.timeout(PATIENCE):
            while (found := await self.footprint()).connections > connections:
                await asyncio.sleep(0.2)
        return found

    async def settled(self, before: Footprint, fds: int) -> Footprint:
        """The same once it is what was there `before`, with no more than `fds` descriptors; or else what is there for good."""
        deadline = asyncio.get_running_loop().time() + SETTLING
        while (found := await self.footprint()).steady != before.steady or found.fds > fds:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.2)
        return found

    async def _interfaces(self) -> int:
        process = await asyncio.create_subprocess_exec(
            "ovs-vsctl",
            f"--db=unix:{self.node.ovs_rundir}/db.sock",
            "--bare",
            "--columns=name",
            "list",
            "Interface",
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return len(out.split())


async def _descriptors(pid: int) -> int:
    """How many a process has while it does nothing: the least of some looks, as a look at the API or a command has some too."""
    counts = []
    for _ in range(LOOKS):
        counts.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
        await asyncio.sleep(0.1)
    return min(counts)


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(f"/proc/{pid}/status has no {name}")


def _service(lab: Lab, endpoint: str) -> str:
    """A Service whose only endpoint is written by hand; its address."""
    name, port = "mill", {"name": "udp", "protocol": "UDP", "port": PORT}
    meta = {"name": name, "namespace": NAMESPACE}
    items = [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [port]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": True}}],
        },
    ]
    lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return lab.kubectl("get", "service", "-n", NAMESPACE, name, "-o", "jsonpath={.spec.clusterIP}")


@asynccontextmanager
async def mill(at_once: int) -> AsyncIterator[Mill]:
    """A lab of one node, with `at_once` network namespaces in which pods can be made."""
    with running_lab(nodes=1) as lab, runtime_on(lab, NODE) as runtime:
        node = next(iter(load_cluster(DEFAULT_BASE, lab.name).nodes))
        server = await attach(runtime, NODE, NAMESPACE)
        one = Mill(lab, node, runtime, server, _service(lab, server.address))
        one.namespaces = [runtime.sandboxes[runtime.sandbox()] for _ in range(at_once)]
        server.socket.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(server.socket, one.answer)
        try:
            yield one
        finally:
            loop.remove_reader(server.socket)
            server.close()
