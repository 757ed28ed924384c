"""A lab as data, for tests of what follows from it; nothing of it exists."""

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from k8s_ovs.config import Mode
from k8s_ovs.lab.cluster import Cluster, Networks

NETWORKS = Networks(
    pods=IPv4Network("10.128.0.0/14"),
    services=IPv4Network("10.96.0.0/16"),
    underlay=IPv4Network("100.64.10.0/24"),
    outside=IPv4Network("198.51.100.0/24"),
)


def cluster(**changes: Any) -> Cluster:
    base = Cluster(
        name="lab",
        directory=Path("/run/k8s-ovs-lab/lab"),
        node_count=3,
        mode=Mode.MULTITENANT,
        networks=NETWORKS,
        host_bits=10,
        loopback_etcd=40001,
        loopback_api=40002,
    )
    return replace(base, **changes)
