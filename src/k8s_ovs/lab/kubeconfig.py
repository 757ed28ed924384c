"""The kubeconfig files of a lab: one for the user's shell, one for processes inside, one for each node.

Called by the supervisor. The embedded API server speaks plain HTTP and asks for no credentials: it listens on the lab's
own underlay only.
"""

import json

from k8s_ovs.lab.cluster import API_PORT, Cluster


def text(server: str, user: str) -> str:
    """A kubeconfig (JSON is YAML) for a server without TLS."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": server}}],
            "users": [{"name": user, "user": {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        },
        indent=1,
    )


def write_all(cluster: Cluster) -> None:
    """Write every kubeconfig of the cluster."""
    inside = f"http://{cluster.control.ip}:{API_PORT}"
    cluster.kubeconfig.write_text(text(f"http://127.0.0.1:{cluster.loopback_api}", "admin"))
    cluster.control_kubeconfig.write_text(text(inside, "controller"))
    for node in cluster.nodes:
        node.directory.mkdir(parents=True, exist_ok=True)
        node.kubeconfig.write_text(text(inside, f"system:node:{node.name}"))
