"""The way of the lab's own tools to the etcd of the manifests' StatefulSet: the client's part of its Secret as files.

Run by the supervisor. On a real cluster an operator takes them with kubectl; the agents do not use these files, but their own
volumes. The Secret may come late, and be renewed.
"""

from contextlib import aclosing

from k8s_ovs.lab import commands
from k8s_ovs.lab.cluster import Cluster
from k8s_ovs.lab.workloads import manifests
from k8s_ovs.lab.workloads.volumes import write_atomically
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import Credentials
from k8s_ovs.sources.kube.objects import SECRETS, Secret
from k8s_ovs.sources.kube.reflector import Reflector, Upserted

_MODE = 0o600


def ready(cluster: Cluster) -> bool:
    """Whether the files are there."""
    return all(path.exists() for path in commands.etcd_files(cluster))


async def follow(cluster: Cluster, credentials: Credentials) -> None:
    """Write the files whenever the Secret changes, until cancelled. They stay when it is deleted."""
    async with (
        KubeClient(credentials, component="lab") as client,
        aclosing(Reflector(client, SECRETS).watch()) as batches,
    ):
        async for batch in batches:
            for change in batch:
                if isinstance(change, Upserted):
                    _write(cluster, change.object)


def _write(cluster: Cluster, secret: Secret) -> None:
    data = secret.data or {}
    names = [path.name for path in commands.etcd_files(cluster)]
    if secret.key == (manifests.NAMESPACE, manifests.ETCD_TLS) and all(name in data for name in names):
        write_atomically(
            commands.etcd_files(cluster)[0].parent, {name: (data[name], _MODE) for name in names}
        )
