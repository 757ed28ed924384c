"""What `k8s-ovs status` finds out: records and reports in etcd, Nodes and the Lease in Kubernetes, this host's own agent.

Read by `cli.status`, judged by `cli.status_judge`. A source that cannot be read is named with its reason; nothing here
waits longer than a look takes, and nothing is changed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import K8sOvsError, KubeNotFound
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK
from k8s_ovs.sources.kube.credentials import KubeSettings, credentials_given, load_credentials
from k8s_ovs.sources.kube.lease import LEASE_NAME, LEASE_NAMESPACE
from k8s_ovs.sources.kube.objects import LEASES, NODES, Lease, Node
from k8s_ovs.sources.store import Snapshot, Store

SECONDS = 8.0
"""What the API server has for one answer: somebody waits at a terminal."""
SECOND_LOOK = 12.0
"""Seconds after which what is on its way at the first look counts as stuck: agents tell of it at most every ten."""
LOOK_AGAIN = 1.0
RENEWED_WITHIN = 6.0
"""Seconds in which a leader renews its Lease at least twice."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Who holds the controllers' Lease ("": nobody) and since when; `stale`: it was not renewed while we looked."""

    identity: str = ""
    since: str = ""
    stale: bool = False

    @property
    def leads(self) -> bool:
        """Whether somebody leads."""
        return bool(self.identity) and not self.stale


@dataclass(frozen=True, slots=True)
class ThisNode:
    """The agent and the switch of the host on which the command runs. An empty `agent_error` means that it answers."""

    agent_error: str = ""
    checks: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    switch_error: str = ""
    ports: int = 0
    flows: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was found. `unknown` names what could not be, with the reason.

    `lasting` is what the first look has found as well: changes of tenants by Namespace and step, and hosts behind.
    """

    snapshot: Snapshot | None = None
    nodes: Mapping[str, Node] | None = None
    leader: Leader | None = None
    here: ThisNode | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    lasting: frozenset[str] = frozenset()

    @property
    def config(self) -> NetworkConfig | None:
        """The network config, if etcd could be read."""
        return None if self.snapshot is None else self.snapshot.config


def under_way(snapshot: Snapshot) -> frozenset[str]:
    """What is normal for a moment and wrong if it lasts: steps of tenants' changes, and hosts behind the records."""
    steps = {
        f"tenant {tenant.name} {tenant.change.token}"
        for tenant in snapshot.tenants.values()
        if tenant.change is not None
    }
    behind = {
        f"host {host_ip}"
        for host_ip, report in snapshot.reports.items()
        if report.health is not None and report.health.revision < snapshot.newest
    }
    return frozenset(steps | behind)


async def read_store(
    settings: EtcdSettings, network: str | None, patience: float
) -> tuple[Snapshot, frozenset[str]]:
    """The records, and what is still under way as it was at first. Raises SourceError, ConfigError."""
    async with EtcdStore(settings, network) as store:
        return await look_twice(store, patience)


async def look_twice(store: Store, patience: float) -> tuple[Snapshot, frozenset[str]]:
    """A snapshot in which nothing is under way; or, after `patience` seconds, the one of then and what has lasted."""
    clock = asyncio.get_running_loop().time
    until = clock() + patience
    snapshot = await store.snapshot()
    lasting = under_way(snapshot)
    while lasting and clock() < until:
        await asyncio.sleep(min(LOOK_AGAIN, max(0.0, until - clock())))
        snapshot = await store.snapshot()
        lasting &= under_way(snapshot)
    return snapshot, lasting


async def read_kube(settings: KubeSettings) -> tuple[dict[str, Node], Leader]:
    """The Nodes by name, and who leads. Raises KubeError, ConfigError."""
    async with KubeClient(load_credentials(settings), timeout=SECONDS) as client:
        nodes = {node.metadata.name: node for node in await client.list(NODES)}
        return nodes, await read_leader(lambda: client.get(LEASES, LEASE_NAME, LEASE_NAMESPACE))


async def read_leader(read: Callable[[], Awaitable[Lease]], pause: float = RENEWED_WITHIN / 3) -> Leader:
    """Who leads. A Lease that looks old by our clock is looked at again: clocks differ, and a leader renews it."""
    try:
        lease = await read()
        if _fresh(lease):
            return _leader(lease, stale=False)
        for _ in range(3):
            await asyncio.sleep(pause)
            again = await read()
            if again.metadata.resource_version != lease.metadata.resource_version:
                return _leader(again, stale=False)
    except KubeNotFound:
        return Leader()
    return _leader(lease, stale=True)


def _leader(lease: Lease, *, stale: bool) -> Leader:
    holder = lease.spec.holder_identity or ""
    return Leader(holder, lease.spec.acquire_time or "", stale=stale and bool(holder))


def _fresh(lease: Lease) -> bool:
    if not lease.spec.holder_identity:
        return True
    try:
        renewed = datetime.fromisoformat(lease.spec.renew_time or "")
    except ValueError:
        return False
    allowed = timedelta(seconds=lease.spec.lease_duration_seconds or 15)
    return abs(SYSTEM_CLOCK.now() - renewed) <= allowed


async def gather(
    etcd: EtcdSettings, network: str | None, kube: KubeSettings, patience: float = SECOND_LOOK
) -> Facts:
    """What the cluster is like, as far as it can be found out."""
    unknown: dict[str, str] = {}
    snapshot, lasting = None, frozenset[str]()
    nodes: Mapping[str, Node] | None = None
    leader: Leader | None = None

    async def records() -> None:
        nonlocal snapshot, lasting
        try:
            snapshot, lasting = await read_store(etcd, network, patience)
        except K8sOvsError as err:
            unknown["etcd"] = str(err)

    async def objects() -> None:
        nonlocal nodes, leader
        if not credentials_given(kube):
            unknown["kubernetes"] = "no credentials for the API server: give --kubeconfig"
            return
        try:
            nodes, leader = await read_kube(kube)
        except K8sOvsError as err:
            unknown["kubernetes"] = str(err)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(records(), name="status: etcd")
        tasks.create_task(objects(), name="status: kubernetes")
    return Facts(snapshot, nodes, leader, unknown=dict(sorted(unknown.items())), lasting=lasting)
