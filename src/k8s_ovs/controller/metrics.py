"""The controller's metrics. Made once per process by `app`; `worker` and `report` set them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from k8s_ovs.sources.store import Snapshot

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class ControllerMetrics:
    """Names begin with k8s_ovs_controller_; units are seconds and counts.

    What the leader sees counts only where `leader` is 1.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "k8s_ovs_controller_"
        self.leader = Gauge(
            prefix + "leader", "Whether this controller leads (1) or not (0).", registry=registry
        )
        self.problems = Gauge(
            prefix + "problems", "What an operator has to put right, by kind.", ["kind"], registry=registry
        )
        self.free_subnets = Gauge(
            prefix + "free_subnets", "Host subnets that can still be given.", registry=registry
        )
        self.free_vnis = Gauge(prefix + "free_vnis", "VNIs that can still be given.", registry=registry)
        self.silent_agents = Gauge(
            prefix + "silent_agents",
            "Nodes and external hosts with a subnet whose agent does not report, as the leader sees it.",
            registry=registry,
        )
        self.unready_agents = Gauge(
            prefix + "unready_agents",
            "Agents that report that they cannot serve pods, as the leader sees it.",
            registry=registry,
        )
        self.tenants = Gauge(
            prefix + "tenants", "Namespaces with a NetID, as the leader sees it.", registry=registry
        )
        self.changing_tenants = Gauge(
            prefix + "changing_tenants",
            "Tenants whose change is under way, as the leader sees it.",
            registry=registry,
        )
        self.allocations = Counter(
            prefix + "allocations", "Subnets and VNIs given.", ["kind"], registry=registry
        )
        self.deletions = Counter(
            prefix + "deletions",
            "Records deleted because their Node or Namespace is gone.",
            ["kind"],
            registry=registry,
        )
        self.commits = Counter(
            prefix + "commits",
            "Transactions by result: done, refused, unknown.",
            ["result"],
            registry=registry,
        )
        self.tenant_changes = Counter(
            prefix + "tenant_changes",
            "Tenants that were joined, isolated or made global.",
            registry=registry,
        )
        self.tenant_refusals = Counter(
            prefix + "tenant_refusals", "Requests for a tenant that were refused.", registry=registry
        )
        self.tenant_change_seconds = Histogram(
            prefix + "tenant_change_seconds",
            "From the first step of a tenant's change to its completion, as one leader has seen it.",
            buckets=(*_BUCKETS, 10.0, 30.0, 60.0),
            registry=registry,
        )
        self.tenant_skips = Counter(
            prefix + "tenant_skips", "Nodes that a tenant's change was made without.", registry=registry
        )
        self.round_seconds = Histogram(
            prefix + "round_seconds",
            "From the snapshot of the records to the commits of what had to change.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.errors = Counter(
            prefix + "round_errors", "Rounds that a source or the network config stopped.", registry=registry
        )

    def see(self, snapshot: Snapshot, free_subnets: int, free_vnis: int) -> None:
        """What a round of the leader has found."""
        self.free_subnets.set(free_subnets)
        self.free_vnis.set(free_vnis)
        given = [ip for ip, record in snapshot.host_subnets.items() if record.subnet is not None]
        self.silent_agents.set(sum(host_ip not in snapshot.reports for host_ip in given))
        told = [report.health for report in snapshot.reports.values() if report.health is not None]
        self.unready_agents.set(sum(bool(health.trouble) for health in told))
        self.tenants.set(len(snapshot.tenants))
        self.changing_tenants.set(sum(tenant.change is not None for tenant in snapshot.tenants.values()))
