"""The Kubernetes control plane of a lab, embedded or real, behind one set of questions. Asked by the supervisor."""

import json
import secrets

from k8s_ovs.lab import authority, commands, realkube
from k8s_ovs.lab.cluster import API_PORT, Cluster
from k8s_ovs.lab.commands import Command
from k8s_ovs.lab.wait import http_ok
from k8s_ovs.lab.workloads import manifests


def prepare(cluster: Cluster) -> None:
    """Write what the processes and their clients need: keys, and every kubeconfig. Raises LabError."""
    if cluster.kube_bin is not None:
        realkube.prepare(cluster)
    if cluster.manifests is not None:
        _secure(cluster)
    inside = f"{cluster.networks.control.ip}:{API_PORT}"
    cluster.kubeconfig.write_text(kubeconfig(cluster, f"127.0.0.1:{cluster.loopback_api}", "admin"))
    cluster.control_kubeconfig.write_text(kubeconfig(cluster, inside, "controller"))
    for node in cluster.nodes:
        node.directory.mkdir(parents=True, exist_ok=True)
        node.kubeconfig.write_text(kubeconfig(cluster, inside, f"system:node:{node.name}"))


def kubeconfig(cluster: Cluster, address: str, user: str) -> str:
    """A kubeconfig (JSON is YAML).

    Without manifests the embedded API speaks plain HTTP: it listens on the lab's own underlay only.
    """
    scheme, trusted, proof = "http", dict[str, str](), dict[str, str]()
    if cluster.kube_bin is not None:
        scheme = "https"
        trusted, proof = realkube.access(cluster)
    elif cluster.manifests is not None:
        scheme, files = "https", authority.of(cluster)
        trusted, proof = {"certificate-authority": str(files.ca)}, {"token": files.admin_token.read_text()}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": f"{scheme}://{address}", **trusted}}],
            "users": [{"name": user, "user": proof}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        },
        indent=1,
    )


def _secure(cluster: Cluster) -> None:
    """Certificates, and the one token that may do everything."""
    files = authority.make(cluster)
    files.admin_token.touch(mode=0o600)
    files.admin_token.write_text(secrets.token_hex(16))
    cluster.manifests_file.write_text(
        manifests.dump(manifests.adapt(manifests.load(cluster.manifests_file), cluster))
    )


def processes(cluster: Cluster) -> list[Command]:
    """The processes to start."""
    if cluster.kube_bin is None:
        return [commands.embedded_api(cluster)]
    return realkube.commands(cluster, cluster.kube_bin)


def has_scheduler(cluster: Cluster) -> bool:
    """Whether a real scheduler runs, so that the lab's own must not."""
    return cluster.kube_bin is not None and realkube.has(cluster.kube_bin, realkube.SCHEDULER)


async def ready(cluster: Cluster) -> bool:
    """Whether the API answers."""
    tls = cluster.kube_bin is not None or cluster.manifests is not None
    return await http_ok(cluster.loopback_api, "/readyz", tls=tls)
