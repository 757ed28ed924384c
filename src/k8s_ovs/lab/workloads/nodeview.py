"""What a node itself sees of its file system: a process that does nothing but keep the mount namespace.

Started by the supervisor for each node of `lab up --from-manifests`. The container runtime is at home there: it executes
/opt/cni/bin/k8s-ovs, which finds /run/k8s-ovs/cni.sock, as on a real node.
"""

from k8s_ovs.lab.cluster import Cluster, Node
from k8s_ovs.lab.commands import Command
from k8s_ovs.lab.workloads import boxes
from k8s_ovs.lab.workloads.environment import PATH
from k8s_ovs.lab.workloads.volumes import view


def name(node: str) -> str:
    """Of the process."""
    return f"{node}/view"


def command(cluster: Cluster, node: Node) -> Command:
    """The process. Raises LabError."""
    socket = node.cni_socket
    if not socket.is_symlink():
        socket.symlink_to("run/cni.sock")  # where `lab exec` and CHECK look for it
    box = boxes.Box(("sleep", "infinity"), {"PATH": PATH}, view(cluster, node), node.name)
    argv = boxes.write(box, cluster, node.directory / "view", "view")
    return Command(name(node.name), argv, node.netns, cluster.logs / f"{node.name}-view.log")
