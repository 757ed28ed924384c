"""What a daemon's process has, and both halves share if both run in it. Filled by `cli.daemons`."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from k8s_ovs.runtime.http import HealthChecks
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """`kube` is None on hosts without Kubernetes credentials; `on_ready` is called when the agent serves."""

    store: Store
    kube: KubeClient | None
    health: HealthChecks
    registry: CollectorRegistry
    on_ready: Callable[[], None]
