"""`k8s-ovs init-config`: write the network config if there is none, and validate it always."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address

import click

from k8s_ovs.cli import options
from k8s_ovs.cli.etcd_settings import addresses_from, etcd_from
from k8s_ovs.config import EXAMPLE, Mode, NetworkConfig
from k8s_ovs.errors import ConfigError
from k8s_ovs.runtime.logs import LogSettings, setup_logging
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.store import Store


@click.command("init-config", context_settings=options.CONTEXT)
@options.etcd_options
@click.option(
    "--from-json",
    "text",
    envvar="K8S_OVS_FROM_JSON",
    help=f"The whole config, as in etcd. Example: {EXAMPLE}",
)
@click.option(
    "--name", default="k8ssdn", show_default=True, help="Name: the network's keys are below PREFIX/NAME."
)
@click.option(
    "--pod-network",
    default="172.11.0.0/16",
    show_default=True,
    help="Network: the cluster's pod CIDR. The default is the seed's, and not private address space.",
)
@click.option(
    "--host-bits", default=10, show_default=True, help="HostSubnetLength: 10 gives each host a /22."
)
@click.option(
    "--service-network",
    default="10.96.0.0/12",
    show_default=True,
    help="ServiceNetwork: the API server's --service-cluster-ip-range.",
)
@click.option(
    "--mode",
    type=click.Choice(["multitenant", "subnet"]),
    default="multitenant",
    show_default=True,
    help="PluginName: tenants, or one flat network.",
)
@click.option(
    "--node-ip",
    "node_ips",
    envvar="K8S_OVS_NODE_IP",
    default="",
    help="Addresses of nodes that no network may contain, separated by commas.",
)
def init_config(**flags: object) -> None:
    """Write the network config to etcd if there is none; validate what is there always.

    Prints the config in force. Exits with 2, and says why, if the config is invalid (then nothing is written), or if
    another one than the flags name is in force (it is left as it is).
    """
    settings: options.Options = dict(flags)
    setup_logging(LogSettings())
    config = _wanted(settings)
    nodes = addresses_from(settings["node_ips"], "--node-ip")
    in_force, written = asyncio.run(_in_etcd(settings, config, nodes))
    if differences := _differences(in_force, config, _named()):
        raise ConfigError(
            f"etcd holds another network config already ({differences}): {in_force.to_json()}",
            remedy="it is left as it is; a running network cannot be renumbered in place",
        )
    click.echo(("written: " if written else "in force: ") + in_force.to_json())


async def ensure_config(
    store: Store, config: NetworkConfig, nodes: Sequence[IPv4Address]
) -> tuple[NetworkConfig, bool]:
    """The config in force, and whether it was written now. Raises ConfigError if it is invalid or contains a node."""
    in_force = await store.network_config()
    written = False
    if in_force is None:
        config.check_nodes(nodes, origin="the wanted config")
        written = await store.create_network_config(config)
        # Somebody else may have been faster.
        in_force = config if written else await store.network_config() or config
    in_force.check_nodes(nodes, origin="the network config in force")
    return in_force, written


async def _in_etcd(
    settings: options.Options, config: NetworkConfig, nodes: Sequence[IPv4Address]
) -> tuple[NetworkConfig, bool]:
    async with EtcdStore(etcd_from(settings), settings["network"] or None) as store:
        return await ensure_config(store, config, nodes)


def _wanted(settings: options.Options) -> NetworkConfig:
    """The config from flags. Raises ConfigError."""
    if settings["text"]:
        return NetworkConfig.from_json(settings["text"], origin="--from-json")
    mode = Mode.MULTITENANT if settings["mode"] == "multitenant" else Mode.SUBNET
    return NetworkConfig.from_fields(
        {
            "Name": settings["name"],
            "Network": settings["pod_network"],
            "HostSubnetLength": settings["host_bits"],
            "ServiceNetwork": settings["service_network"],
            "PluginName": mode.value,
        },
        origin="the flags",
    )


_FIELDS = {
    "name": "name",
    "pod_network": "network",
    "host_bits": "host_bits",
    "service_network": "service_network",
    "mode": "mode",
}
"""Flags, and what of a NetworkConfig each of them gives; --from-json gives all."""


def _named() -> set[str]:
    """The parts of the config that the user named: if they differ from what is in force, that is an error."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    if context.get_parameter_source("text") is not default:
        return set(_FIELDS.values())
    return {field for flag, field in _FIELDS.items() if context.get_parameter_source(flag) is not default}


def _differences(in_force: NetworkConfig, wanted: NetworkConfig, named: set[str]) -> str:
    """The named parts that differ, for people; empty if none does."""
    parts = [field for field in _FIELDS.values() if field in named]
    return ", ".join(
        f"{field.replace('_', ' ')} {getattr(in_force, field)}, not {getattr(wanted, field)}"
        for field in parts
        if getattr(in_force, field) != getattr(wanted, field)
    )
