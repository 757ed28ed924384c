"""The places of a running lab that one can be in: nodes, pods, control, outside. For `lab exec` and the matrix.

Reads what the kubelet has recorded; changes nothing.
"""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import ETCD_PREFIX, Cluster, Node
from k8s_ovs.lab.commands import etcd_environment, operator_environment, ovs_environment

CHECKOUT = Path(__file__).resolve().parents[3]
_OWN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class PodPlace:
    """A pod that has its network."""

    namespace: str
    name: str
    node: str
    address: str
    netns: Path
    host_network: bool
    ports: tuple[int, ...]

    @property
    def title(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command runs: a namespace, and variables that point its tools the right way."""

    netns: Path
    environment: dict[str, str] = field(default_factory=dict)


def pods(cluster: Cluster) -> list[PodPlace]:
    """Every pod that has its network now, in the order of names."""
    found = []
    for file in cluster.pods_dir.glob("*.json"):
        try:
            record = json.loads(file.read_text())
        except OSError:
            continue  # deleted while we looked
        found.append(
            PodPlace(
                namespace=record["namespace"],
                name=record["name"],
                node=record["node"],
                address=record["address"],
                netns=Path(record["netns"]),
                host_network=record["hostNetwork"],
                ports=tuple(record["ports"]),
            )
        )
    return sorted(found, key=lambda pod: pod.title)


def find(cluster: Cluster, target: str) -> Place:
    """NODE, external host, NAMESPACE/POD, `control` or `outside`. Raises LabError, with what there is instead."""
    for node in cluster.nodes:
        if target == node.name:
            return Place(node.netns, node_environment(cluster, node))
    for host in cluster.hosts:
        if target == host.name:
            return Place(host.netns, host_environment(cluster, host))
    if target in ("control", "outside"):
        inside = {"KUBECONFIG": str(cluster.control_kubeconfig)} if target == "control" else {}
        etcd = {**_etcd_environment(cluster.etcd_endpoint), **etcd_environment(cluster)}
        return Place(cluster.netns(target), {**etcd, **inside})
    existing = pods(cluster)
    for pod in existing:
        if target == pod.title:
            return Place(pod.netns)
    known = [node.name for node in cluster.members] + [pod.title for pod in existing] + ["control", "outside"]
    raise LabError(f"lab {cluster.name} has no {target!r}", remedy=f"it has {', '.join(known)}")


def host_environment(cluster: Cluster, host: Node) -> dict[str, str]:
    """What makes ovs-vsctl, etcdctl and k8s-ovs work as on that external host, which has no Kubernetes credentials."""
    return {
        **ovs_environment(host),
        **_etcd_environment(cluster.etcd_endpoint),
        **etcd_environment(cluster),
        "K8S_OVS_HOSTNAME": host.name,
        "K8S_OVS_OVS_RUNDIR": str(host.ovs_rundir),
    }


def node_environment(cluster: Cluster, node: Node) -> dict[str, str]:
    """What makes ovs-vsctl, etcdctl, kubectl and k8s-ovs work as on that node."""
    return {
        **host_environment(cluster, node),
        "KUBECONFIG": str(node.kubeconfig),
        "K8S_OVS_CNI_SOCKET": str(node.cni_socket),
        "K8S_OVS_CNI_CONF_DIR": str(node.cni_conf_dir),
        # A folder that is never there: the nodes share the lab's plugins, and the machine's own are none of ours.
        "K8S_OVS_CNI_BIN_DIR": str(node.directory / "cni-bin"),
    }


def shell_environment(cluster: Cluster) -> dict[str, str]:
    """What `lab env` exports for the user's own shell."""
    return {
        "KUBECONFIG": str(cluster.kubeconfig),
        **_etcd_environment(cluster.loopback_etcd_endpoint),
        **operator_environment(cluster),
        "K8S_OVS_LAB": cluster.name,
    }


def program_directories(checkout: Path = CHECKOUT) -> tuple[Path, ...]:
    """What `lab env` puts before the shell's PATH: where `k8s-ovs` is, and the kubectl of `make kubectl` if there is one."""
    fetched = checkout / "build" / "bin"
    return (_OWN, fetched) if (fetched / "kubectl").exists() else (_OWN,)


def program() -> str:
    """How this shell can call `k8s-ovs`: by its name, or with its path while the PATH does not have it."""
    return "k8s-ovs" if shutil.which("k8s-ovs") else str(_OWN / "k8s-ovs")


def _etcd_environment(endpoint: str) -> dict[str, str]:
    return {
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": endpoint,
        "K8S_OVS_ETCD_ENDPOINTS": endpoint,
        "K8S_OVS_ETCD_PREFIX": ETCD_PREFIX,
    }
