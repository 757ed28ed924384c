"""Pods attached by the real executable through the real server to a real Open vSwitch and the real kernel.

Only the reconciler is a stand-in: it confirms flows at once.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from fakes.cni_shim import DEADLINE, Outcome, Shim, conf_of, environment_of
from fakes.dataplane import running
from fakes.pods import FakeLimits, PodWorld
from fakes.private_ovs import PrivateOvs, netns_path, network_namespace, private_ovs, run
from k8s_ovs.agent.pods import NodeNetwork, PodNetwork, PodParts
from k8s_ovs.cni.server import CniServer, ServerLimits
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.model.types import Attachment, AttachmentKey, gateway_of

pytestmark = [pytest.mark.root, pytest.mark.ovs, pytest.mark.timeout(300)]

SUBNET = IPv4Network("172.11.4.0/24")


class ContentInstaller:
    """Confirms whatever it is asked; `confirmed` is what has flows now."""

    def __init__(self) -> None:
        self.confirmed: dict[AttachmentKey, Attachment] = {}

    def trouble(self) -> str:
        return ""

    def node(self) -> NodeNetwork:
        network = IPv4Network("172.11.0.0/16")
        return NodeNetwork(SUBNET, gateway_of(SUBNET), network, 1450, checksum_offload=False)

    async def wait_tenant(self, namespace: str, deadline: float) -> None:
        assert deadline > asyncio.get_running_loop().time()

    async def install(self, attachment: Attachment) -> None:
        assert attachment.ofport is not None
        self.confirmed[attachment.key] = attachment

    async def withdraw(self, key: AttachmentKey) -> None:
        self.confirmed.pop(key, None)


@pytest.fixture
def ovs() -> Iterator[PrivateOvs]:
    with private_ovs() as found:
        yield found


@pytest.fixture
def pods() -> Iterator[list[str]]:
    """Twelve network namespaces."""
    with ExitStack() as stack:
        yield [stack.enter_context(network_namespace("k8tp")) for _ in range(12)]


class Node:
    """The agent's parts on one private switch."""

    def __init__(self, ovs: PrivateOvs, socket: Path, shim: Shim) -> None:
        self.ovs = ovs
        self.socket = socket
        self.shim = shim
        self.installer = ContentInstaller()
        self.complaints: list[str] = []

    @asynccontextmanager
    async def agent(self, drain_seconds: float = 0.5) -> AsyncIterator[tuple[PodNetwork, CniServer]]:
        async with running(OvsdbSwitch(self.ovs.rundir)) as switch:
            await switch.ensure_bridge(BridgeSpec(datapath="netdev"))
            links = NetlinkPodLinks(netns=netns_path(self.ovs.netns))
            limited = FakeLimits(PodWorld())
            parts = PodParts(switch, links, self.installer, limited, complain=self.complaints.append)
            pods = PodNetwork(parts)
            limits = ServerLimits(drain_seconds=drain_seconds)
            server = CniServer(self.socket, pods, limits=limits, uid=os.getuid())
            async with asyncio.timeout(8 * DEADLINE), asyncio.TaskGroup() as tasks:
                tasks.create_task(server.run())
                await server.listening.wait()
                try:
                    yield pods, server
                finally:
                    server.stop()

    async def ask(self, command: str, pod: str, **conf: object) -> Outcome:
        environment = environment_of(command, pod) | {"CNI_NETNS": netns_path(pod)}
        return await self.shim(environment, conf_of(self.socket, **conf))

    def veths(self) -> list[str]:
        shown = run("ip", "-n", self.ovs.netns, "-j", "link", "show", "type", "veth")
        return [link["ifname"] for link in json.loads(shown or "[]")]

    def ports(self) -> list[str]:
        return [name for name in self.ovs.vsctl("list-ports", "br0").split() if name.startswith("kovs")]

    def clean(self) -> bool:
        return not (self.veths() or self.ports() or self.installer.confirmed)


@pytest.fixture
def node(ovs: PrivateOvs, socket_path: Path, static_shim: Shim) -> Node:
    return Node(ovs, socket_path, static_shim)


async def test_add_check_again_and_del_side_by_side(node: Node, pods: list[str]) -> None:
    async with node.agent():
        added = await asyncio.gather(*(node.ask("ADD", pod) for pod in pods))
        assert {outcome.status for outcome in added} == {0}, added
        addresses = {outcome.answer["ips"][0]["address"] for outcome in added}
        assert len(addresses) == len(pods)
        inside = json.loads(run("ip", "-n", pods[0], "-j", "-4", "address", "show", "eth0"))[0]
        assert inside["addr_info"][0]["local"] + "/24" == added[0].answer["ips"][0]["address"]
        again = await asyncio.gather(*(node.ask("ADD", pod) for pod in pods))
        assert [outcome.answer for outcome in again] == [outcome.answer for outcome in added]
        for pod, outcome in zip(pods[:3], added, strict=False):
            checked = await node.ask("CHECK", pod, prevResult=outcome.answer)
            assert checked.status == 0, checked
        run("ip", "-n", pods[0], "link", "set", "eth0", "mtu", "1400")
        broken = await node.ask("CHECK", pods[0], prevResult=added[0].answer)
        assert (broken.status, broken.answer["code"]) == (1, 103)
        repaired = await node.ask("ADD", pods[0])
        assert repaired.answer == added[0].answer
        assert (await node.ask("CHECK", pods[0], prevResult=added[0].answer)).status == 0
        deleted = await asyncio.gather(*(node.ask("DEL", pod) for pod in [*pods, *pods]))
        assert {outcome.status for outcome in deleted} == {0}, deleted
    assert node.clean()


async def test_an_agent_that_stops_in_the_middle_leaves_nothing_half_made(
    node: Node, pods: list[str]
) -> None:
    """Whatever moment the stop hits: an attachment is whole and answered, or it does not exist."""
    seed = random.Random(5)
    for _ in range(5):
        async with asyncio.TaskGroup() as asking, node.agent(drain_seconds=0) as (_, server):
            tasks = [asking.create_task(node.ask("ADD", pod)) for pod in pods]
            while not server.busy:
                await asyncio.sleep(0)
            await asyncio.sleep(seed.uniform(0, 0.1))  # not a wait for anything: the random moment itself
        answered = sum(task.result().status == 0 for task in tasks)
        assert {task.result().answer["code"] for task in tasks if task.result().status} <= {11}
        assert len(node.veths()) == len(node.ports()) == len(node.installer.confirmed)
        assert answered <= len(node.ports())
        async with node.agent() as (network, _):
            assert await network.recover() == 0
            for pod in pods:
                assert (await node.ask("DEL", pod)).status == 0
        assert node.clean()


async def test_leftovers_of_a_killed_agent_are_recovered(node: Node, pods: list[str]) -> None:
    async with node.agent() as (network, _):
        for pod in pods[:3]:
            assert (await node.ask("ADD", pod)).status == 0
        first, second, third = node.ports()
        node.ovs.vsctl("del-port", "br0", first)
        run("ip", "-n", node.ovs.netns, "link", "delete", second)
        dead = ("type", "veth", "peer", "name", "eth0", "netns", pods[3])
        node.ovs.exec("ip", "link", "add", "kovsdead", *dead)
        node.ovs.exec("ip", "link", "set", "kovsdead", "alias", "k8s-ovs:dead/eth0")
        recovered = 0
        async with asyncio.timeout(DEADLINE):
            while not node.complaints:  # the agent hears of what others did to the database a moment later
                recovered += await network.recover()
        assert recovered == 1, "the veth of a killed ADD; the lease keeps its namespace"
        assert sorted(node.veths()) == sorted([first, third]), "the one without a lease is a living pod's"
        outcome = await node.ask("GC", pods[0], **{"cni.dev/valid-attachments": []})
        assert outcome.status == 0, outcome
        assert node.veths() == node.ports() == []


async def test_a_missing_namespace_is_error_3_and_del_for_it_succeeds(node: Node) -> None:
    async with node.agent():
        outcome = await node.ask("ADD", "no-such-namespace")
        assert (outcome.status, outcome.answer["code"]) == (1, 3)
        assert (await node.ask("DEL", "no-such-namespace")).status == 0
    assert node.clean()
