"""Where the cluster's etcd is, for an operator who has only a kubeconfig: from the manifests' ConfigMap and Secret.

For `k8s-ovs status`. Only if no endpoint is given; what is given counts. The client's key is in a file for as long as the
command runs, readable for nobody else.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from k8s_ovs.errors import ConfigError, KubeError
from k8s_ovs.sources.etcd.settings import EtcdSettings, split_endpoints
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, credentials_given, load_credentials
from k8s_ovs.sources.kube.objects import CONFIG_MAPS, SECRETS

NAMESPACE = "kube-system"
CONFIG_MAP, ENDPOINTS = "k8s-ovs-etcd", "K8S_OVS_ETCD_ENDPOINTS"
SECRET = "k8s-ovs-etcd-tls"  # noqa: S105 - its name
FILES = {"cafile": "ca.crt", "certfile": "client.crt", "keyfile": "client.key"}
SECONDS = 4.0
"""Who asks next waits too, and says why: together no longer than somebody at a terminal, or monitoring, waits."""


@asynccontextmanager
async def cluster_etcd(
    given: EtcdSettings, kube: KubeSettings, *, wanted: bool
) -> AsyncIterator[EtcdSettings]:
    """`given`, or if `wanted` what the cluster says, where it says anything that we may read."""
    if not wanted or not credentials_given(kube):
        yield given
        return
    with TemporaryDirectory(prefix="k8s-ovs-") as folder:  # mode 0700
        try:
            async with KubeClient(load_credentials(kube), timeout=SECONDS) as client:
                said = await client.get(CONFIG_MAPS, CONFIG_MAP, NAMESPACE)
                endpoints = split_endpoints((said.data or {}).get(ENDPOINTS, ""))
                files = await _files(client, Path(folder)) if any("https" in one for one in endpoints) else {}
        except (KubeError, ConfigError):
            endpoints, files = (), {}  # whoever asks next says why, if it is not only this
        if not endpoints:
            yield given
            return
        yield replace(
            given,
            endpoints=endpoints,
            cafile=files.get("cafile", given.cafile),
            certfile=files.get("certfile", given.certfile),
            keyfile=files.get("keyfile", given.keyfile),
        )


async def _files(client: KubeClient, folder: Path) -> dict[str, Path]:
    """CA, certificate and key as files. Raises KubeError."""
    data = (await client.get(SECRETS, SECRET, NAMESPACE)).data or {}
    found = {}
    for setting, key in FILES.items():
        if key in data:
            path = folder / key
            path.touch(mode=0o600)
            path.write_bytes(data[key])
            found[setting] = path
    return found
