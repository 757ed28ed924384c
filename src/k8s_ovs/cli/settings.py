"""Records of what both daemons have for settings, made from the flags of `options` and the environment."""

import os
import socket
from dataclasses import dataclass

from k8s_ovs.cli.etcd_settings import etcd_from
from k8s_ovs.cli.options import Options
from k8s_ovs.runtime.logs import LogSettings, parse_verbosity, setup_logging
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.kube.credentials import KubeSettings


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """What every daemon has."""

    hostname: str
    metrics_address: str
    etcd: EtcdSettings
    network: str | None
    kube: KubeSettings


def logging_from(options: Options) -> None:
    """Set up logging. Raises ConfigError."""
    setup_logging(LogSettings(verbosity=parse_verbosity(options["verbosity"]), as_json=options["log_json"]))


def daemon_from(options: Options) -> DaemonSettings:
    """What every daemon has. Raises ConfigError."""
    hostname = options["hostname"] or socket.gethostname()
    return DaemonSettings(
        hostname=hostname.lower(),
        metrics_address=options["metrics_address"],
        etcd=etcd_from(options),
        network=options["network"] or None,
        kube=KubeSettings(kubeconfig=options["kubeconfig"], environ=dict(os.environ)),
    )
