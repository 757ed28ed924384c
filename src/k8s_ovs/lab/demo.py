"""The demo: what k8s-ovs does, shown on a lab of its own in about a minute, with nothing left behind.

Called by the CLI. Everything printed is measured in that moment; the demo fails if something is not as it should be.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab import forge, lifecycle, matrix, matrixtext, places, probes, status
from k8s_ovs.lab.cluster import ETCD_PREFIX, NETWORK_NAME, Cluster
from k8s_ovs.lab.matrixtext import Paint
from k8s_ovs.lab.objects import HOSTNAME_LABEL, NODES, PODS, LabContainer, LabPod, LabPodSpec
from k8s_ovs.lab.probes import Protocol, Target
from k8s_ovs.lab.wait import until
from k8s_ovs.model.types import GLOBAL_NAMESPACE
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import NAMESPACES, Namespace, ObjectMeta

TENANTS = ("red", "blue")
_POD_SECONDS = 40.0
_COUNTER_SECONDS = 10.0
"""The switch adds a datapath flow's packets to its counters with some delay."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo prints, and how it colours."""

    say: Say
    paint: Paint

    def title(self, text: str) -> None:
        """A new part of the story."""
        self.say("")
        self.say(self.paint(f"── {text} ", "cyan"))


def run(base: Path, stage: Stage) -> bool:
    """The whole demo. False if the network did not do what it should. Raises LabError."""
    begun = time.monotonic()
    right = True
    for mode in (Mode.MULTITENANT, Mode.SUBNET):
        right &= _act(base, mode, stage)
    stage.title(f"done in {time.monotonic() - begun:.0f} s; nothing is left behind")
    return right


def _act(base: Path, mode: Mode, stage: Stage) -> bool:
    """One lab, from nothing to nothing."""
    options = lifecycle.Options(name=f"demo-{os.getpid()}", base=base, nodes=3, mode=mode)
    stage.title(f"three nodes, {mode.value}: each with its own Open vSwitch and agent, in network namespaces")
    cluster = lifecycle.up(options, lambda line: stage.say(f"   {line}"))
    try:
        return asyncio.run(
            _multitenant(cluster, stage) if mode is Mode.MULTITENANT else _subnet(cluster, stage)
        )
    finally:
        lifecycle.remove(cluster)


async def _multitenant(cluster: Cluster, stage: Stage) -> bool:
    async with _client(cluster) as client:
        await _show_nodes(client, stage)
        stage.title(
            f"pods on every node: tenants {' and '.join(TENANTS)}, and {GLOBAL_NAMESPACE}, which is global"
        )
        await _make_pods(cluster, client, stage)
    stage.title("what etcd holds: a subnet for each host, a NetID (VNI) for each Namespace")
    _show_etcd(cluster, stage)
    right = await _show_matrix(cluster, stage)
    right &= await _show_egress(cluster, stage)
    return right & await _show_forgery(cluster, stage)


async def _subnet(cluster: Cluster, stage: Stage) -> bool:
    async with _client(cluster) as client:
        stage.title("the same pods in single-tenant mode: one flat network")
        await _make_pods(cluster, client, stage)
    return await _show_matrix(cluster, stage)


def _client(cluster: Cluster) -> KubeClient:
    return KubeClient(load_credentials(KubeSettings(kubeconfig=cluster.kubeconfig)), component="demo")


async def _show_nodes(client: KubeClient, stage: Stage) -> None:
    rows = [("NAME", "STATUS", "INTERNAL-IP")]
    for node in await client.list(NODES):
        state = "Ready" if node.ready else "NotReady"
        rows.append((node.metadata.name, state, next(node.addresses(), "-")))
    _say_all(stage, status.table(rows))


async def _make_pods(cluster: Cluster, client: KubeClient, stage: Stage) -> None:
    for name in TENANTS:
        await client.create(NAMESPACES, Namespace(metadata=ObjectMeta(name=name)))
    begun = time.monotonic()
    wanted = 0
    for namespace in (*TENANTS, GLOBAL_NAMESPACE):
        for number, node in enumerate(cluster.nodes, start=1):
            spec = LabPodSpec(
                node_selector={HOSTNAME_LABEL: node.name},
                containers=(LabContainer(name="server", image="k8s-ovs/lab"),),
            )
            pod = LabPod(metadata=ObjectMeta(name=f"web{number}", namespace=namespace), spec=spec)
            await client.create(PODS, pod)
            wanted += 1

    async def ready() -> bool:
        return sum(pod.ready for pod in await client.list(PODS)) == wanted

    if not await until(ready, _POD_SECONDS):
        waiting = [pod.title for pod in await client.list(PODS) if not pod.ready]
        raise LabError(f"pods not Ready after {_POD_SECONDS:.0f} s: {', '.join(waiting)}")
    rows = [("POD", "NODE", "ADDRESS")]
    rows += [(pod.title, pod.node, pod.address) for pod in places.pods(cluster)]
    _say_all(stage, status.table(rows))
    stage.say(f"   {wanted} pods Ready {time.monotonic() - begun:.1f} s after the first was created")


def _show_etcd(cluster: Cluster, stage: Stage) -> None:
    for kind in ("subnets", "netnamespaces"):
        prefix = f"{ETCD_PREFIX}/{NETWORK_NAME}/{kind}/"
        stage.say(f"   $ etcdctl get --prefix {prefix}")
        done = subprocess.run(
            ["etcdctl", "get", "--prefix", "--print-value-only", prefix],
            capture_output=True,
            check=False,
            text=True,
            env={**os.environ, **places.shell_environment(cluster)},
        )
        _say_all(stage, (done.stdout or done.stderr).splitlines())


async def _show_matrix(cluster: Cluster, stage: Stage) -> bool:
    stage.title("who reaches whom: every pair, TCP, UDP and ICMP, expected against observed")
    measured = await matrix.measure(cluster)
    _say_all(stage, matrixtext.render(measured, stage.paint).splitlines())
    return not measured.differences


async def _show_egress(cluster: Cluster, stage: Stage) -> bool:
    stage.title("out of the cluster: the pod is seen with its node's address")
    pod = _pod(cluster, "red/web1")
    target = Target(str(cluster.networks.outside_host.ip), matrix.OUTSIDE_PORT)
    answers = await probes.probe_from(pod.netns, [(target, Protocol.TCP)], seconds=matrix.SECOND_SECONDS)
    answer = answers[target, Protocol.TCP]
    right = answer.seen == str(cluster.node(pod.node).ip)
    stage.say(
        f"   {pod.title} ({pod.address} on {pod.node}) asks {target.address}, which sees {answer.seen or 'nothing'}"
    )
    return right


async def _show_forgery(cluster: Cluster, stage: Stage) -> bool:
    stage.title("a hostile pod: forged source address, hand-made VXLAN")
    red, friend, victim = (_pod(cluster, name) for name in ("red/web1", "red/web2", "blue/web2"))
    node = cluster.node(red.node)
    before = await forge.drops(node)
    own, forged = IPv4Address(red.address), IPv4Address(_pod(cluster, "blue/web1").address)
    there = IPv4Address(friend.address)
    honest = await forge.arrives(red.netns, own, friend.netns, there)
    as_other = await forge.arrives(red.netns, forged, friend.netns, there)
    tunnel = await forge.vxlan_arrives(
        red.netns, cluster.node(victim.node).ip, 0, victim.netns, IPv4Address(victim.address)
    )
    for text, outcome, wanted in (
        (f"to {friend.title} from its own address {own}", honest, True),
        (f"to {friend.title} as {forged}, which is blue/web1", as_other, False),
        (f"VXLAN to {victim.node} with VNI 0, {victim.title} inside", tunnel, False),
    ):
        verdict = "arrives" if outcome else "does not arrive"
        stage.say(
            f"   {red.title} sends {text}: " + stage.paint(verdict, "green" if outcome == wanted else "red")
        )
    counted = await _new_drops(cluster, red.node, before, ("pod-spoofed-ip", "pod-vxlan"))
    stage.say(
        f"   drop counters on {red.node}: " + ", ".join(f"{name} +{count}" for name, count in counted.items())
    )
    return honest and not as_other and not tunnel and all(counted.values())


async def _new_drops(
    cluster: Cluster, node: str, before: dict[str, int], names: tuple[str, ...]
) -> dict[str, int]:
    counted = dict.fromkeys(names, 0)

    async def all_counted() -> bool:
        now = await forge.drops(cluster.node(node))
        counted.update({name: now.get(name, 0) - before.get(name, 0) for name in names})
        return all(counted.values())

    await until(all_counted, _COUNTER_SECONDS)
    return counted


def _pod(cluster: Cluster, title: str) -> places.PodPlace:
    for pod in places.pods(cluster):
        if pod.title == title:
            return pod
    raise LabError(f"pod {title} has gone", remedy="run the demo again")


def _say_all(stage: Stage, lines: list[str]) -> None:
    for line in lines:
        stage.say(f"   {line}" if line else "")
