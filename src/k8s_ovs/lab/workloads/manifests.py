"""The manifests of `lab up --from-manifests`: read, adapted as an operator adapts them to his cluster, and applied.

Called by `lifecycle.up` and the supervisor. What an operator has to say is in ConfigMap k8s-ovs-config: the networks, the
datapath, and where the API server is in a cluster without kube-proxy. With manifests
that have no etcd (StatefulSet k8s-ovs-etcd) the lab has one of its own, and Secret and ConfigMap are made as documented.
"""

import base64
import re
from pathlib import Path
from typing import Any

import yaml

from k8s_ovs.config import Mode
from k8s_ovs.errors import KubeConflict, LabError
from k8s_ovs.lab import authority
from k8s_ovs.lab.cluster import API_PORT, ETCD_PORT, ETCD_PREFIX, Cluster
from k8s_ovs.lab.kubeapi.resources import RESOURCES, Resource
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.workloads import spec
from k8s_ovs.lab.workloads.claims import with_claims

Raw = dict[str, Any]
NAMESPACE = "kube-system"
CONFIG = "k8s-ovs-config"
ETCD = "k8s-ovs-etcd"
ETCD_TLS = "k8s-ovs-etcd-tls"
_ADVERTISED = re.compile(r"--advertise-client-urls=https://[^,]+:(\d+)")
_WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")


def load(path: Path) -> list[Raw]:
    """The objects of a file. Raises LabError for what is no YAML or no object of Kubernetes."""
    try:
        found = [entry for entry in yaml.safe_load_all(path.read_text()) if entry is not None]
    except (OSError, yaml.YAMLError) as err:
        raise LabError(f"the manifests {path} cannot be read: {err}") from err
    for entry in found:
        if (
            not isinstance(entry, dict)
            or not entry.get("kind")
            or not (entry.get("metadata") or {}).get("name")
        ):
            raise LabError(f"the manifests {path}: an entry has no kind or name")
    if not any(entry["kind"] in _WORKLOADS for entry in found):
        raise LabError(f"the manifests {path} have no DaemonSet, Deployment or StatefulSet")
    return found


def check(objects: list[Raw]) -> None:
    """Raise LabError for a template that the lab cannot follow."""
    for entry in objects:
        title = f"{entry['kind']} {entry['metadata']['name']}"
        if entry["kind"] in _WORKLOADS:
            templates = entry["spec"].get("volumeClaimTemplates") or ()
            spec.parse(with_claims(entry["spec"]["template"]["spec"], templates, "0"), title)
        resource_of(entry)


def etcd_port(path: Path) -> int | None:
    """Where the StatefulSet of the manifests says that clients reach etcd; None: they have no such etcd. Raises LabError."""
    for entry in load(path):
        if (entry["kind"], entry["metadata"]["name"]) != ("StatefulSet", ETCD):
            continue
        containers = entry["spec"]["template"]["spec"]["containers"]
        words = [word for container in containers for word in container.get("args") or ()]
        for word in words:
            if match := _ADVERTISED.fullmatch(word):
                return int(match[1])
        raise LabError(f"StatefulSet {ETCD} has no argument --advertise-client-urls=https://HOST:PORT")
    return None


def adapt(objects: list[Raw], cluster: Cluster) -> list[Raw]:
    """The objects as an operator of this cluster applies them; needs the lab's certificates."""
    kept = [entry for entry in objects if cluster.etcd_pod_port is not None or not _of_etcd(entry)]
    for entry in kept:
        if (entry["kind"], entry["metadata"]["name"]) == ("ConfigMap", CONFIG):
            entry["data"] = {**(entry.get("data") or {}), **settings(cluster)}
    return kept if cluster.etcd_pod_port is not None else [*_etcd(cluster), *kept]


def settings(cluster: Cluster) -> dict[str, str]:
    """What this cluster's operator writes into k8s-ovs-config."""
    networks = cluster.networks
    return {
        "K8S_OVS_NAME": cluster.network_config.name,
        "K8S_OVS_POD_NETWORK": str(networks.pods),
        "K8S_OVS_HOST_BITS": str(cluster.host_bits),
        "K8S_OVS_SERVICE_NETWORK": str(networks.services),
        "K8S_OVS_MODE": "multitenant" if cluster.mode is Mode.MULTITENANT else "subnet",
        "K8S_OVS_ETCD_PREFIX": ETCD_PREFIX,
        "K8S_OVS_DATAPATH": "netdev",
        "KUBERNETES_SERVICE_HOST": str(networks.control.ip),
        "KUBERNETES_SERVICE_PORT": str(API_PORT),
    }


def _of_etcd(entry: Raw) -> bool:
    meta = entry["metadata"]
    component = (meta.get("labels") or {}).get("app.kubernetes.io/component")
    return component == "etcd" or meta["name"] in (ETCD, ETCD_TLS)


def _etcd(cluster: Cluster) -> list[Raw]:
    files = authority.of(cluster)
    parts = {"ca.crt": files.ca, "client.crt": files.certificate("client"), "client.key": files.key("client")}
    endpoint = f"https://{cluster.networks.control.ip}:{ETCD_PORT}"
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": ETCD_TLS, "namespace": NAMESPACE},
            "data": {name: base64.b64encode(file.read_bytes()).decode() for name, file in parts.items()},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ETCD, "namespace": NAMESPACE},
            "data": {"K8S_OVS_ETCD_ENDPOINTS": endpoint},
        },
    ]


def dump(objects: list[Raw]) -> str:
    """As a file for `kubectl apply -f`."""
    return yaml.safe_dump_all(objects, sort_keys=False)


def resource_of(entry: Raw) -> Resource:
    """Where the API keeps the object. Raises LabError for kinds that the lab's API does not have."""
    for resource in RESOURCES:
        if (resource.api_version, resource.kind) == (entry.get("apiVersion"), entry["kind"]):
            return resource
    raise LabError(
        f"the lab's API has no {entry.get('apiVersion')} {entry['kind']} ({entry['metadata']['name']})",
        remedy="leave it out for the lab",
    )


async def apply(api: PodApi, objects: list[Raw]) -> None:
    """Create them in order, refusing unknown fields; those that are there stay. Raises KubeError and LabError."""
    for entry in objects:
        resource = resource_of(entry)
        path = resource.path(entry["metadata"].get("namespace", "default"))
        try:
            await api.post(path, entry, {"fieldValidation": "Strict"})
        except KubeConflict:
            continue
