"""Records of the daemons' settings, made from the flags of `options` and the environment."""

import os
import socket
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import cast

from k8s_ovs.agent.settings import AgentSettings, CniSettings, SwitchSettings
from k8s_ovs.cli.etcd_settings import etcd_from
from k8s_ovs.cli.options import Options
from k8s_ovs.dataplane.bridge import Datapath
from k8s_ovs.errors import ConfigError
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


def agent_from(options: Options, hostname: str) -> AgentSettings:
    """What only the agent has."""
    return AgentSettings(
        hostname=hostname,
        cni=cni_from(options),
        switch=switch_from(options),
        node_ip=_address(options["node_ip"], "--node-ip"),
        mtu=options["mtu"],
        resync_period=options["resync_period"],
        tenant_wait=options["tenant_wait"],
        external=options.get("external", False),
    )


def cni_from(options: Options) -> CniSettings:
    """Where the CNI executable and the container runtime find us."""
    return CniSettings(
        socket=options["cni_socket"],
        conf_dir=options["cni_conf_dir"],
        portmap=options.get("cni_portmap", True),
    )


def switch_from(options: Options) -> SwitchSettings:
    """Where Open vSwitch is."""
    return SwitchSettings(
        rundir=options["ovs_rundir"],
        bridge=options["bridge"],
        datapath=cast("Datapath | None", options.get("datapath")),
    )


def _address(text: str | None, what: str) -> IPv4Address | None:
    if not text:
        return None
    try:
        return IPv4Address(text)
    except AddressValueError as err:
        raise ConfigError(f"{what}: {err}", remedy="give one IPv4 address") from err
