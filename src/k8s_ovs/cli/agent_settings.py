"""Records of what the agent has for settings, made from the flags of `options`.

Also for the commands that look at a host's switch. Apart from `settings`, which the controller uses: it needs no switch.
"""

from ipaddress import AddressValueError, IPv4Address
from typing import cast

from k8s_ovs.agent.settings import AgentSettings, CniSettings, SwitchSettings
from k8s_ovs.cli.options import Options
from k8s_ovs.dataplane.bridge import Datapath
from k8s_ovs.errors import ConfigError


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
        bin_dir=options["cni_bin_dir"],
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
