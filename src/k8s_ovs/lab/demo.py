"""The demo: what k8s-ovs does, shown on a lab of its own in under a minute, with nothing left behind.

Called by the CLI. Everything printed is measured in that moment; the demo fails if something is not as it should be.
The parts are in `demo_tenants` and `demo_features`; here is their order, and what they all stand on.
"""

import asyncio
import os
import time
from pathlib import Path

from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab import demo_features, demo_tenants, lifecycle, matrix, places, status
from k8s_ovs.lab.cluster import Cluster
from k8s_ovs.lab.demo_features import SERVER_LABEL
from k8s_ovs.lab.demo_stage import Shell, Stage
from k8s_ovs.lab.demo_tenants import BLUE, GREEN, RED, TENANTS, Story
from k8s_ovs.lab.objects import HOSTNAME_LABEL, PODS, LabContainer, LabPod, LabPodSpec
from k8s_ovs.lab.wait import until
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import ObjectMeta

__all__ = ["Stage", "run"]

_POD_SECONDS = 40.0
_GONE_SECONDS = 20.0
_PLACED = (
    (RED, "web1", 1),
    (RED, "web2", 2),
    (RED, "shop", 3),
    (BLUE, "web1", 1),
    (BLUE, "web2", 2),
    (GREEN, "web1", 1),
    (GREEN, "web2", 3),
)
"""Namespace, name and number of the node of each pod."""


def run(base: Path, stage: Stage) -> bool:
    """The whole demo. False if the network did not do what it should. Raises LabError."""
    begun = time.monotonic()
    for mode in (Mode.MULTITENANT, Mode.SUBNET):
        _act(base, mode, stage)
    stage.title(f"done in {time.monotonic() - begun:.0f} s")
    for failure in stage.failures:
        stage.say(stage.paint(f"   NOT AS IT SHOULD BE: {failure}", "red"))
    return not stage.failures


def _act(base: Path, mode: Mode, stage: Stage) -> None:
    """One lab, from nothing to nothing."""
    options = lifecycle.Options(name=f"demo-{os.getpid()}", base=base, nodes=3, mode=mode)
    stage.title(f"three nodes, {mode.value}: each with its own Open vSwitch and agent, in network namespaces")
    cluster = lifecycle.up(options, lambda line: stage.say(f"   {line}"))
    shell = Shell(cluster, stage)
    try:
        asyncio.run(_multitenant(shell) if mode is Mode.MULTITENANT else _subnet(shell))
    finally:
        lifecycle.remove(cluster)
    left = leftovers(cluster)
    stage.found("left of this lab", ", ".join(left) or "no process, no mount, no file", right=not left)


async def _multitenant(shell: Shell) -> None:
    await shell.run("kubectl", "get", "nodes")
    shell.stage.title(f"pods of three tenants: {', '.join(TENANTS)}")
    await _make_pods(shell)
    story = await demo_tenants.changes(shell)
    await demo_features.service(shell, story)
    await demo_features.bandwidth(shell)
    await demo_features.external_host(shell)
    await demo_features.egress(shell)
    await demo_features.forgery(shell)
    await _clean_up(shell)


async def _subnet(shell: Shell) -> None:
    shell.stage.title("the same pods in single-tenant mode: one flat network")
    await _make_pods(shell)
    measured = await matrix.measure(shell.cluster)
    demo_tenants.judge(shell.stage, measured, Story(everywhere=frozenset(TENANTS)))


async def _make_pods(shell: Shell) -> None:
    """Namespaces and pods. Raises LabError if a pod does not become Ready."""
    cluster, stage = shell.cluster, shell.stage
    for name in TENANTS:
        await shell.run("kubectl", "create", "namespace", name, quiet=True)
    credentials = load_credentials(KubeSettings(kubeconfig=cluster.kubeconfig))
    async with KubeClient(credentials, component="demo") as client:
        begun = time.monotonic()
        for namespace, name, number in _PLACED:
            await client.create(PODS, _pod(namespace, name, cluster.nodes[number - 1].name))

        async def ready() -> bool:
            return sum(pod.ready for pod in await client.list(PODS)) == len(_PLACED)

        if not await until(ready, _POD_SECONDS):
            waiting = [pod.title for pod in await client.list(PODS) if not pod.ready]
            raise LabError(f"pods not Ready after {_POD_SECONDS:.0f} s: {', '.join(waiting)}")
    rows = [("POD", "NODE", "ADDRESS")]
    rows += [(pod.title, pod.node, pod.address) for pod in places.pods(cluster)]
    stage.lines(status.table(rows))
    stage.say(f"   {len(_PLACED)} pods Ready {time.monotonic() - begun:.1f} s after the first was created")


def _pod(namespace: str, name: str, node: str) -> LabPod:
    spec = LabPodSpec(
        node_selector={HOSTNAME_LABEL: node},
        containers=(LabContainer(name="server", image="k8s-ovs/lab"),),
    )
    labels = SERVER_LABEL if name.startswith("web") else None
    return LabPod(metadata=ObjectMeta(name=name, namespace=namespace, labels=labels), spec=spec)


async def _clean_up(shell: Shell) -> None:
    """Take everything away again, and see that it has gone."""
    shell.stage.title("clean up: with a Namespace go its pods and its tenant")
    await shell.run("kubectl", "delete", "namespace", *TENANTS)

    async def gone() -> bool:
        snapshot = await status.records(shell.cluster)
        known = () if snapshot is None else (*snapshot.net_namespaces, *snapshot.tenants)
        return snapshot is not None and not set(known) & set(TENANTS) and not places.pods(shell.cluster)

    right = await until(gone, _GONE_SECONDS)
    await shell.run("k8s-ovs", "tenant", "list")
    shell.stage.found("pods and tenants", "gone" if right else "still there", right=right)


def leftovers(cluster: Cluster) -> list[str]:
    """What still exists of a lab that was removed: processes, mounts, files."""
    mark = str(cluster.directory)
    found = [f"the directory {mark}"] if cluster.directory.exists() else []
    if f" {mark}/" in Path("/proc/self/mountinfo").read_text():
        found.append("a mount")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if f"{mark}/" in words or f"{mark}\0" in words:
            found.append(f"process {entry.name}")
    return found
