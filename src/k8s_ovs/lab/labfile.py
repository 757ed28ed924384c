"""lab.json: a lab's description as text. Written by `up` and `add-host`; `down` and every other command begin with it. Pure."""

import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import Cluster, ExternalHost, Networks


def to_json(cluster: Cluster) -> str:
    """The text of lab.json."""
    return json.dumps(
        {
            "name": cluster.name,
            "directory": str(cluster.directory),
            "nodes": cluster.node_count,
            "mode": cluster.mode.value,
            "networks": {
                what: str(getattr(cluster.networks, what))
                for what in ("pods", "services", "underlay", "outside")
            },
            "hostBits": cluster.host_bits,
            "loopback": {"etcd": cluster.loopback_etcd, "api": cluster.loopback_api},
            "controllers": cluster.controllers,
            "bare": cluster.bare,
            "shim": _text(cluster.shim),
            "portmap": _text(cluster.portmap),
            "kubeBin": _text(cluster.kube_bin),
            "manifests": _text(cluster.manifests),
            "tokenSeconds": cluster.token_seconds,
            "etcdPodPort": cluster.etcd_pod_port,
            "external": [{"name": host.name, "kubernetes": host.kubernetes} for host in cluster.external],
        },
        indent=1,
    )


def from_json(text: str) -> Cluster:
    """Read lab.json. Raises LabError if it is not ours or cut off."""
    try:
        data: dict[str, Any] = json.loads(text)
        return Cluster(
            name=data["name"],
            directory=Path(data["directory"]),
            node_count=data["nodes"],
            mode=Mode(data["mode"]),
            networks=Networks(**{what: IPv4Network(value) for what, value in data["networks"].items()}),
            host_bits=data["hostBits"],
            loopback_etcd=data["loopback"]["etcd"],
            loopback_api=data["loopback"]["api"],
            controllers=data["controllers"],
            bare=data["bare"],
            shim=_path(data["shim"]),
            portmap=_path(data["portmap"]),
            kube_bin=_path(data["kubeBin"]),
            manifests=_path(data["manifests"]),
            token_seconds=data["tokenSeconds"],
            etcd_pod_port=data["etcdPodPort"],
            external=tuple(ExternalHost(**host) for host in data["external"]),
        )
    except (ValueError, KeyError, TypeError) as err:
        raise LabError(f"lab.json cannot be read ({err!r})", remedy="run `k8s-ovs lab down`") from err


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
