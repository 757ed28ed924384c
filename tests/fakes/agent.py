"""A host with an agent on a dataplane in memory, for tests of the agent as a whole.

world = World(tmp_path)
world.fill()                        # config and records are in the store
async with running(world):
    await world.serving()
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from fakes.dataplane import FakeFirewall, FakeFlowTable, FakeHostNetwork, FakePodLinks, FakeSwitch
from fakes.dataplane_examples import attachment, pod_link
from fakes.node import CONFIG, HOST_IP, NAME, OTHER, OWN, WEB
from fakes.store import FakeStore
from fakes.watching import until
from k8s_ovs.agent.app import Agent, AgentServices
from k8s_ovs.agent.conflist import CONFLIST
from k8s_ovs.agent.parts import AgentParts, PodBatches
from k8s_ovs.agent.settings import AgentSettings, CniSettings
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.kube.objects import Pod
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Upserted
from k8s_ovs.sources.records import config_key


class World:
    """A host with what surrounds it. `ready` counts the announcements to the service manager."""

    def __init__(self, folder: Path) -> None:
        self.store = FakeStore()
        self.links = FakePodLinks()
        self.switch = FakeSwitch(self.links)
        self.flows = FakeFlowTable()
        self.host = FakeHostNetwork({HOST_IP: 1500})
        self.firewall = FakeFirewall()
        self.health = HealthChecks()
        self.registry = CollectorRegistry()
        self.ready = 0
        self.pod_events: asyncio.Queue[list[Upserted[Pod] | Deleted | InSync]] = asyncio.Queue()
        self.conf_dir = folder / "net.d"
        self.settings = AgentSettings(
            hostname=NAME, cni=CniSettings(socket=folder / "run" / "cni.sock", conf_dir=self.conf_dir)
        )

    @property
    def conflist(self) -> Path:
        return self.conf_dir / CONFLIST

    def configure(self) -> None:
        self.store.put_raw(config_key(DEFAULT_PREFIX), CONFIG.to_json())

    def fill(self) -> None:
        self.configure()
        self.store.put(OWN, OTHER, WEB)

    def why(self, check: str) -> str:
        return self.health.readiness()[check]

    def metric(self, name: str) -> float:
        value = self.registry.get_sample_value(name)
        assert value is not None, generate_latest(self.registry).decode()
        return value

    async def serving(self) -> None:
        await until(lambda: self.ready == 1 and self.health.ready, "ready", 10)

    async def _own_pods(self) -> PodBatches:
        while True:
            yield await self.pod_events.get()

    def agent(self) -> Agent:
        def on_ready() -> None:
            self.ready += 1

        services = AgentServices(self.store, None, self.health, self.registry, on_ready)
        parts = AgentParts(
            switch=self.switch,
            flows=self.flows,
            host=self.host,
            links=self.links,
            firewall=self.firewall,
            own_pods=self._own_pods,
            netns_exists=self.links.namespaces.__contains__,
            cni_uid=os.getuid(),
        )
        return Agent(self.settings, services, parts)

    async def call(self, command: str, netns: str = "") -> tuple[int, str]:
        """A CNI request as the executable sends it: exit status and what goes to stdout."""
        reader, writer = await asyncio.open_unix_connection(str(self.settings.cni.socket))
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "sandbox",
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": "K8S_POD_NAMESPACE=web;K8S_POD_NAME=a;K8S_POD_UID=u",
        }
        writer.write(b"k8s-ovs-cni/1\n" + b"".join(f"{k}={v}\0".encode() for k, v in variables.items() if v))
        writer.write(b'\0{"cniVersion":"1.1.0","name":"k8s-ovs","type":"k8s-ovs"}')
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return int(answer[:1]), answer[1:].decode()

    async def attach(self, number: int) -> None:
        """A pod of the agent's life before."""
        await self.switch.ensure_bridge(self.settings.switch.spec)
        self.links.namespaces.add(f"/run/netns/{number}")
        await self.links.create(pod_link(number, f"/run/netns/{number}"))
        await self.switch.add_port(attachment(number, f"/run/netns/{number}"))


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """The agent runs for the block; what ends it is raised here."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(world.agent().run(), name="agent")
        try:
            yield world
            assert not task.done()
        finally:
            task.cancel()
