"""What a running lab says of itself, read at one time: the API's objects, the records in etcd, the leases in OVSDB.

For `fakes.reality`, which compares it with what switches and kernels hold. Nothing is judged here. Everything is read
by the cheapest way that does not go through an agent.
"""

import asyncio
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, TypeVar

from k8s_ovs.config import NetworkConfig
from k8s_ovs.lab.cluster import DEFAULT_BASE, ETCD_PREFIX, Cluster, Node
from k8s_ovs.lab.objects import PODS, LabPod
from k8s_ovs.lab.state import LabState, load_cluster
from k8s_ovs.model.events import Source
from k8s_ovs.model.services import EndpointSlice, Service
from k8s_ovs.model.state import ClusterState
from k8s_ovs.model.types import Attachment, AttachmentKey, OfPort, PodLimits, SandboxId
from k8s_ovs.model.view import NodeView
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube import services as convert
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import ENDPOINT_SLICES, NAMESPACES, NODES, SERVICES, Namespace
from k8s_ovs.sources.kube.objects import Node as KubeNode
from k8s_ovs.sources.records import range_end
from k8s_ovs.sources.store import Snapshot

T = TypeVar("T")

SECONDS = 20.0
LEASE = "k8s-ovs/"
"""What the keys of a lease in an Interface row's external_ids begin with."""
_TABLES = {
    "Bridge": ("name", "ports", "fail_mode", "datapath_type"),
    "Port": ("_uuid", "name", "interfaces", "qos"),
    "Interface": ("_uuid", "name", "type", "ofport", "error", "external_ids", "options"),
    "QoS": ("_uuid", "type", "queues", "other_config", "external_ids"),
    "Queue": ("_uuid", "other_config", "external_ids"),
}

Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Known:
    """A lab as its records have it. `rows` and `leases` are by the name of the node or external host."""

    cluster: Cluster
    state: LabState
    config: NetworkConfig
    records: Snapshot
    etcd_keys: tuple[str, ...]
    pods: Mapping[tuple[str, str], LabPod]
    nodes: Mapping[str, KubeNode]
    namespaces: Mapping[str, Namespace]
    services: tuple[Service, ...]
    slices: tuple[EndpointSlice, ...]
    rows: Mapping[str, Tables]
    leases: Mapping[str, tuple[Attachment, ...]]

    def view(self, member: Node) -> NodeView:
        """What a node or external host has to bring about, by the product's own pure code."""
        kubernetes = {host.name: host.kubernetes for host in self.cluster.external}.get(member.name, True)
        state = ClusterState.from_snapshot(
            config=self.config,
            host_subnets=self.records.host_subnets.values(),
            tenants=self.records.tenants.values(),
            attachments=self.leases[member.name],
            services=self.services if kubernetes else (),
            endpoint_slices=self.slices if kubernetes else (),
            synced=Source,
        )
        view = NodeView(member.name, member.ip)
        for event in state.events():
            view.apply(event)
        view.set_sctp(tracked=False)  # the userspace datapath
        return view


def read(lab: str) -> Known:
    """Everything. Raises SourceError, OSError and the like while a part of the lab is away."""
    cluster = load_cluster(DEFAULT_BASE, lab)
    state = LabState.read(cluster.directory)
    assert state is not None, f"lab {lab} is not up"
    rows = {member.name: read_rows(member) for member in cluster.members}
    return asyncio.run(_read(cluster, state, rows))


async def _read(cluster: Cluster, state: LabState, rows: Mapping[str, Tables]) -> Known:
    settings = EtcdSettings(endpoints=(cluster.loopback_etcd_endpoint,), prefix=ETCD_PREFIX)
    credentials = load_credentials(KubeSettings(kubeconfig=cluster.kubeconfig))
    async with (
        asyncio.timeout(SECONDS),
        EtcdStore(settings) as store,
        KubeClient(credentials, component="test") as kube,
    ):
        records = await store.snapshot()
        config = records.config
        assert config is not None
        return Known(
            cluster=cluster,
            state=state,
            config=config,
            records=records,
            etcd_keys=await _keys(settings),
            pods={pod.key: pod for pod in await kube.list(PODS)},
            nodes={node.metadata.name: node for node in await kube.list(NODES)},
            namespaces={each.metadata.name: each for each in await kube.list(NAMESPACES)},
            services=_values(convert.service(each) for each in await kube.list(SERVICES)),
            slices=_values(convert.endpoint_slice(each) for each in await kube.list(ENDPOINT_SLICES)),
            rows=rows,
            leases={name: tuple(leases(tables)) for name, tables in rows.items()},
        )


async def _keys(settings: EtcdSettings) -> tuple[str, ...]:
    client = EtcdClient(settings, probe=ETCD_PREFIX)
    try:
        end = range_end(ETCD_PREFIX)
        answer = await client.range(rpc.RangeRequest(key=ETCD_PREFIX.encode(), range_end=end))
    finally:
        client.close()
    return tuple(entry.key.decode() for entry in answer.kvs)


def _values(converted: Iterable[convert.Converted[T]]) -> tuple[T, ...]:
    return tuple(each.value for each in converted if each.value is not None)


# -- OVSDB: RFC 7047, section 5.1 for the notation of values ----------------------------------------------------------


def read_rows(member: Node) -> Tables:
    """The tables of a node's OVSDB that matter, in one transaction; values as Python has them."""
    selects = [
        {"op": "select", "table": table, "where": [], "columns": list(columns)}
        for table, columns in _TABLES.items()
    ]
    socket = f"unix:{member.ovs_rundir / 'db.sock'}"
    printed = run("ovsdb-client", "-t", "10", "transact", socket, json.dumps(["Open_vSwitch", *selects]))
    found: Tables = {}
    for table, answer in zip(_TABLES, json.loads(printed), strict=True):
        found[table] = [{name: _value(text) for name, text in row.items()} for row in answer["rows"]]
    return found


def _value(told: Any) -> Any:
    """Sets become lists, maps dicts, uuids their text."""
    match told:
        case ["set", list(items)]:
            return [_value(item) for item in items]
        case ["map", list(pairs)]:
            return {_value(key): _value(value) for key, value in pairs}
        case ["uuid" | "named-uuid", str(text)]:
            return text
        case _:
            return told


def several(value: Any) -> list[Any]:
    """A column that holds any number of values: one alone is printed without the set."""
    return value if isinstance(value, list) else [value]


def leases(tables: Tables) -> Iterator[Attachment]:
    """Every lease in the Interface rows."""
    for row in tables["Interface"]:
        ids = {
            key.removeprefix(LEASE): value
            for key, value in row["external_ids"].items()
            if key.startswith(LEASE)
        }
        if not ids:
            continue
        number = row["ofport"]
        yield Attachment(
            key=AttachmentKey(SandboxId(ids["sandbox"]), ids["ifname"]),
            address=IPv4Address(ids["address"]),
            namespace=ids["namespace"],
            pod=ids["pod"],
            uid=ids["uid"],
            netns=ids["netns"],
            host_ifname=row["name"],
            ofport=OfPort(number) if isinstance(number, int) and number > 0 else None,
            limits=PodLimits(
                _number(ids, "ingress-limit"), _number(ids, "egress-limit"), ids.get("limits-by") == "runtime"
            ),
        )


def _number(ids: Mapping[str, str], name: str) -> int | None:
    return int(ids[name]) if name in ids else None


def run(*argv: str, stdin: str = "", fine: Sequence[int] = (0,)) -> str:
    """The output of a command that must end with one of these statuses."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode not in fine:
        raise OSError(f"{' '.join(argv)}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout
