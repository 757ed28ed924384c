"""The metric that says which version a process is. Registered once a process, by `cli`."""

from prometheus_client import CollectorRegistry, Gauge

from k8s_ovs import __version__


def register(registry: CollectorRegistry) -> None:
    """Add k8s_ovs_build_info."""
    info = Gauge(
        "k8s_ovs_build_info", "Always 1; the label is this process's version.", ["version"], registry=registry
    )
    info.labels(__version__).set(1)
