"""The agent's Prometheus metrics. Filled by the composition root; nothing else knows of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from k8s_ovs.agent.health import HealthKeeper
from k8s_ovs.agent.lag import SourceLag
from k8s_ovs.agent.reconcile import Reconciler
from k8s_ovs.agent.repairs import Repairs
from k8s_ovs.dataplane.findings import Kind
from k8s_ovs.flows.tables import table_name
from k8s_ovs.model.alloc import AddressPool
from k8s_ovs.sources.store import Store

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class AgentMetrics:
    """Instruments that are written as things happen, and a collector for what is read when asked."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.cni_seconds = Histogram(
            "k8s_ovs_cni_request_seconds",
            "Time that a CNI request took, by command and CNI error code (0: success).",
            ["command", "code"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "k8s_ovs_commit_seconds",
            "Time from sending a bundle of flows until the switch confirmed it.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.settle_seconds = Histogram(
            "k8s_ovs_settle_seconds",
            "Time until no packet was handled any more by what was before a step of a tenant's change.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.ready = Gauge("k8s_ovs_agent_ready", "1 while this node can serve pods.", registry=registry)
        self.kube_outage = Gauge(
            "k8s_ovs_kube_outage",
            "1 while no news of Services arrives from the Kubernetes API.",
            registry=registry,
        )
        self.collected = Counter(
            "k8s_ovs_leases_collected",
            "Ports removed because their sandbox no longer exists.",
            registry=registry,
        )

    def observe_cni(self, command: str, seconds: float, code: int) -> None:
        """One CNI request is through; `code` is 0 or the CNI error code."""
        self.cni_seconds.labels(command, str(code)).observe(seconds)


class ReconcileCollector(Collector):
    """Reads the reconciler's counters when Prometheus asks."""

    def __init__(self, reconciler: Reconciler, repaired: Repairs) -> None:
        self._reconciler = reconciler
        self._repaired = repaired

    def collect(self) -> list[Metric]:
        """The values now."""
        stats = self._reconciler.stats
        view = self._reconciler.view
        metrics: list[Metric] = [
            GaugeMetricFamily("k8s_ovs_flows", "Flows that this node should hold.", value=stats.flows),
            GaugeMetricFamily(
                "k8s_ovs_pods", "Pods attached to this node.", value=len(view.state.attachments)
            ),
            GaugeMetricFamily(
                "k8s_ovs_hosts", "Host subnets in the cluster.", value=len(view.state.host_subnets)
            ),
            GaugeMetricFamily(
                "k8s_ovs_tenant_changes",
                "Namespaces whose tenant changes at the moment, as this node has been told.",
                value=len(view.steps),
            ),
            GaugeMetricFamily(
                "k8s_ovs_unusable_records",
                "Host subnets, NetIDs and leases that cannot be used as they are; the log names them.",
                value=len(view.problems),
            ),
            CounterMetricFamily("k8s_ovs_commits", "Bundles of flows sent.", value=stats.commits),
            CounterMetricFamily("k8s_ovs_full_syncs", "Full synchronisations.", value=stats.full_syncs),
            CounterMetricFamily(
                "k8s_ovs_sync_failures", "Commits and synchronisations that failed.", value=stats.failures
            ),
        ]
        repairs = CounterMetricFamily(
            "k8s_ovs_repairs", "Things found changed behind our back and put right.", labels=["kind"]
        )
        for kind in Kind:
            repairs.add_metric([kind], self._repaired.counts[kind])
        metrics.append(repairs)
        return metrics


class NodeCollector(Collector):
    """Reads what this node knows and has left when Prometheus asks."""

    def __init__(self, reconciler: Reconciler, lag: SourceLag, health: HealthKeeper) -> None:
        self._reconciler = reconciler
        self._lag = lag
        self._health = health

    def collect(self) -> list[Metric]:
        """The values now."""
        state, local = self._reconciler.view.state, self._reconciler.view.local
        tables = GaugeMetricFamily(
            "k8s_ovs_pipeline_flows", "Flows that this node should hold, by table.", labels=["table"]
        )
        for number, count in sorted(self._reconciler.stats.by_table().items()):
            tables.add_metric([table_name(number)], count)
        lag = GaugeMetricFamily(
            "k8s_ovs_news_lag_seconds",
            "Time since a source of the cluster's state has fallen silent; 0 while its news arrive.",
            labels=["source"],
        )
        for source, seconds in self._lag.look().items():
            lag.add_metric([source], seconds)
        free = 0 if local is None else AddressPool(local.subnet, local.gateway).size - len(state.attachments)
        mtu = self._reconciler.stats.mtu
        return [
            tables,
            lag,
            GaugeMetricFamily(
                "k8s_ovs_free_addresses", "Addresses of this node that no pod has.", value=free
            ),
            GaugeMetricFamily(
                "k8s_ovs_tenants",
                "Namespaces with a NetID, as this node has been told.",
                value=len(state.tenants),
            ),
            GaugeMetricFamily(
                "k8s_ovs_applied_revision",
                "Revision of etcd up to which the switch has what the records say.",
                value=self._health.applied,
            ),
            GaugeMetricFamily(
                "k8s_ovs_mtu_bytes", "MTU of this node's pods; 0 before it is known.", value=mtu
            ),
        ]


class StoreCollector(Collector):
    """Reads what the store says of itself when Prometheus asks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> list[Metric]:
        """The values now."""
        return [
            GaugeMetricFamily(
                "k8s_ovs_store_problems",
                "Malformed records that are skipped; the log names them.",
                value=len(self._store.problems),
            ),
            GaugeMetricFamily(
                "k8s_ovs_store_outage",
                "1 while no news of the network's records arrives.",
                value=0 if self._store.outage is None else 1,
            ),
            GaugeMetricFamily(
                "k8s_ovs_store_lost_records",
                "Records that the store has no more although nobody has deleted them; they stay in force.",
                value=len(self._store.lost),
            ),
            GaugeMetricFamily(
                "k8s_ovs_store_revision",
                "Revision of etcd up to which the records' changes have been heard.",
                value=self._store.told,
            ),
        ]
