"""A cluster as `k8s-ovs status` finds it, for tests: healthy, and then as a test spoils it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from k8s_ovs import __version__
from k8s_ovs.cli.status_facts import Facts, Leader, ThisNode
from k8s_ovs.config import EXAMPLE, NetworkConfig
from k8s_ovs.model.types import AgentHealth, AgentReport, HostSubnet, NetNamespace, Tenant, Vni
from k8s_ovs.sources.kube.objects import Condition, Lease, LeaseSpec, Node, NodeStatus, ObjectMeta
from k8s_ovs.sources.store import Snapshot

LEADER = Leader("control_ab", "2026-01-31T12:00:00Z")
HEALTH = AgentHealth(version=__version__, since="2026-01-31T12:00:00Z", revision=50, pods=3, mtu=1450)


def node(name: str, *, ready: bool = True) -> Node:
    condition = Condition(
        type="Ready", status="True" if ready else "False", message="" if ready else "no network"
    )
    return Node(metadata=ObjectMeta(name=name), status=NodeStatus(conditions=(condition,)))


def lease(holder: str = "control_ab", *, age: float = 0, version: str = "1") -> Lease:
    renewed = (datetime.now(UTC) - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = LeaseSpec(
        holder_identity=holder, lease_duration_seconds=15, renew_time=renewed, acquire_time=renewed
    )
    return Lease(metadata=ObjectMeta(name="k8s-ovs-controller", resource_version=version), spec=spec)


@dataclass
class Cluster:
    """Three nodes and an external host, whose agents report; tenant red. `facts()` is what status finds."""

    subnets: dict[IPv4Address, HostSubnet] = field(default_factory=dict)
    reports: dict[IPv4Address, AgentReport] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    tenants: dict[str, Tenant] = field(default_factory=lambda: {"red": Tenant("red", Vni(10))})
    namespaces: dict[str, NetNamespace] = field(default_factory=dict)
    config: NetworkConfig = field(default_factory=lambda: NetworkConfig.from_json(EXAMPLE))
    newest: int = 50
    leader: Leader | None = LEADER
    here: ThisNode | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    lasting: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for number, name in enumerate(("node1", "node2", "node3", "lb"), 1):
            ip = IPv4Address(f"192.0.2.{number}")
            subnet = IPv4Network(f"172.11.{4 * number}.0/22")
            self.subnets[ip] = HostSubnet(name, ip, subnet, assign=name == "lb")
            self.reports[ip] = AgentReport(name, ip, health=HEALTH)
            if name != "lb":
                self.nodes[name] = node(name)

    def ip(self, name: str) -> IPv4Address:
        return next(ip for ip, record in self.subnets.items() if record.host == name)

    def health(self, name: str, **changed: Any) -> None:
        """The agent of `name` tells this."""
        ip = self.ip(name)
        self.reports[ip] = replace(self.reports[ip], health=replace(HEALTH, **changed))

    def snapshot(self) -> Snapshot:
        return Snapshot(
            60,
            self.subnets,
            self.namespaces,
            tenants=self.tenants,
            reports=self.reports,
            config=self.config,
            newest=self.newest,
        )

    def facts(self) -> Facts:
        return Facts(self.snapshot(), self.nodes, self.leader, self.here, self.unknown, self.lasting)
