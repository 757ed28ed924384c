"""What `lab status` tells: nodes, their processes and bridges, host subnets, pods, the control plane.

Called by the CLI. Asks the running parts and changes nothing; a part that does not answer is told as such.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from k8s_ovs.errors import ConfigError, SourceError
from k8s_ovs.lab.cluster import ETCD_PREFIX, METRICS_PORT, Cluster, Node
from k8s_ovs.lab.commands import etcd_files, ovs_environment
from k8s_ovs.lab.ovsnode import has_conflist
from k8s_ovs.lab.places import PodPlace, pods
from k8s_ovs.lab.state import LabState, Phase
from k8s_ovs.lab.wait import http_ok
from k8s_ovs.model.types import HostSubnet
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.store import Snapshot

BRIDGE = "br0"
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A supervised process: its pid now (None: not running) and how often it was started again."""

    pid: int | None
    restarts: int


@dataclass(frozen=True, slots=True)
class Bridge:
    """The pods' bridge of a node; `state` is "up", "absent" (no such bridge) or "down" (it does not answer)."""

    name: str
    state: str
    ports: int
    flows: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node."""

    name: str
    ip: str
    subnet: str | None
    ready: bool
    agent: Process
    vswitchd: Process
    ovsdb: Process
    bridge: Bridge


@dataclass(frozen=True, slots=True)
class LabStatus:
    """The whole lab. `hosts` are the external ones, `problems` the malformed records in etcd."""

    name: str
    phase: str
    mode: str
    directory: str
    networks: dict[str, str]
    supervisor: Process
    etcd: Process
    apiserver: Process
    controllers: list[Process]
    nodes: list[NodeStatus]
    hosts: list[NodeStatus]
    pods: list[dict[str, str]]
    problems: list[str]

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)


async def records(cluster: Cluster) -> Snapshot | None:
    """The network's records in the lab's etcd, or None if it does not answer or holds no network config yet."""
    ca, certificate, key = etcd_files(cluster) if cluster.etcd_pod_port is not None else (None, None, None)
    settings = EtcdSettings(
        endpoints=(cluster.loopback_etcd_endpoint,),
        prefix=ETCD_PREFIX,
        cafile=ca,
        certfile=certificate,
        keyfile=key,
    )
    try:
        async with asyncio.timeout(_SECONDS), EtcdStore(settings) as store:
            return await store.snapshot()
    except (SourceError, ConfigError, TimeoutError):
        return None


async def read(cluster: Cluster) -> LabStatus:
    """The status now."""
    state = LabState.read(cluster.directory)
    snapshot, bridges, serving = await asyncio.gather(
        records(cluster),
        asyncio.gather(*(_bridge(node) for node in cluster.members)),
        asyncio.gather(*(_serves(host) for host in cluster.hosts)),
    )
    subnets = {} if snapshot is None else dict(snapshot.host_subnets)
    ready = [*(has_conflist(node.cni_conf_dir) for node in cluster.nodes), *serving]
    members = [
        _node(node, state, subnets.get(node.ip), bridge, ready=is_ready)
        for node, bridge, is_ready in zip(cluster.members, bridges, ready, strict=True)
    ]
    return LabStatus(
        name=cluster.name,
        phase=(Phase.DEAD if state is None else state.phase).value,
        mode=cluster.mode.value,
        directory=str(cluster.directory),
        networks={what: str(getattr(cluster.networks, what)) for what in ("pods", "services", "underlay")},
        supervisor=Process(state.supervisor.pid if state and state.supervisor.alive else None, 0),
        etcd=_process(state, cluster.etcd_process),
        apiserver=_process(state, "apiserver"),
        controllers=[_process(state, f"controller{index + 1}") for index in range(cluster.controllers)],
        nodes=members[: cluster.node_count],
        hosts=members[cluster.node_count :],
        pods=[_pod(pod) for pod in pods(cluster)],
        problems=[]
        if snapshot is None
        else [str(snapshot.problems[key]) for key in sorted(snapshot.problems)],
    )


def _process(state: LabState | None, name: str) -> Process:
    known = None if state is None else state.processes.get(name)
    return Process(None if state is None else state.pid(name), 0 if known is None else known.restarts)


async def _serves(host: Node) -> bool:
    """Whether an external host's agent says that it is ready; there is no conflist to tell it."""
    return await http_ok(METRICS_PORT, "/readyz", netns=host.netns)


def _node(
    node: Node, state: LabState | None, record: HostSubnet | None, bridge: Bridge, *, ready: bool
) -> NodeStatus:
    subnet = None if record is None or record.subnet is None else str(record.subnet)
    return NodeStatus(
        name=node.name,
        ip=str(node.ip),
        subnet=subnet,
        ready=ready,
        agent=_process(state, f"{node.name}/agent"),
        vswitchd=_process(state, f"{node.name}/vswitchd"),
        ovsdb=_process(state, f"{node.name}/ovsdb"),
        bridge=bridge,
    )


def _pod(pod: PodPlace) -> dict[str, str]:
    return {"namespace": pod.namespace, "name": pod.name, "node": pod.node, "address": pod.address}


async def _bridge(node: Node) -> Bridge:
    if not (node.ovs_rundir / f"{BRIDGE}.mgmt").exists():
        return Bridge(BRIDGE, "absent", 0, 0)
    flows = await _tool(node, "ovs-ofctl", "--timeout=3", "dump-aggregate", BRIDGE)
    ports = await _tool(
        node, "ovs-vsctl", "--timeout=3", f"--db=unix:{node.ovs_rundir / 'db.sock'}", "list-ports", BRIDGE
    )
    if flows is None or ports is None:
        return Bridge(BRIDGE, "down", 0, 0)
    count = int(flows.rpartition("flow_count=")[2].split()[0])
    return Bridge(BRIDGE, "up", len(ports.split()), count)


async def _tool(node: Node, *argv: str) -> str | None:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **ovs_environment(node)},
    )
    out, _ = await process.communicate()
    return out.decode() if process.returncode == 0 else None


def render(status: LabStatus) -> str:
    """For people: a few tables."""
    lines = [f"lab {status.name}: {status.phase}, {status.mode}, files in {status.directory}"]
    lines.append("  " + ", ".join(f"{what} {network}" for what, network in status.networks.items()))
    control = {"supervisor": status.supervisor, "etcd": status.etcd, "apiserver": status.apiserver}
    if any(process.restarts or process.pid for process in status.controllers):
        control |= {f"controller{index + 1}": process for index, process in enumerate(status.controllers)}
    lines.append("  " + ", ".join(f"{name} {_pid(process)}" for name, process in control.items()))
    rows = [("NODE", "READY", "ADDRESS", "SUBNET", "AGENT", "VSWITCHD", "OVSDB", "BRIDGE")]
    external = {host.name for host in status.hosts}
    for node in (*status.nodes, *status.hosts):
        bridge = node.bridge
        detail = f" {bridge.ports} ports {bridge.flows} flows" if bridge.state == "up" else ""
        rows.append(
            (
                f"{node.name} (external)" if node.name in external else node.name,
                "yes" if node.ready else "no",
                node.ip,
                node.subnet or "-",
                _pid(node.agent),
                _pid(node.vswitchd),
                _pid(node.ovsdb),
                f"{bridge.name} {bridge.state}{detail}",
            )
        )
    lines += ["", *table(rows)]
    if status.pods:
        pod_rows = [("POD", "NODE", "ADDRESS")]
        pod_rows += [
            (f"{pod['namespace']}/{pod['name']}", pod["node"], pod["address"]) for pod in status.pods
        ]
        lines += ["", *table(pod_rows)]
    if status.problems:
        lines += ["", "MALFORMED RECORDS", *status.problems]
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of text with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _pid(process: Process) -> str:
    again = f" (restarted {process.restarts} times)" if process.restarts else ""
    return f"{process.pid or 'not running'}{again}"
