"""`k8s-ovs init-config`: write the network config if there is none, and validate it always."""

import asyncio

import click

from k8s_ovs.cli import options
from k8s_ovs.cli.settings import addresses_from, etcd_from
from k8s_ovs.config import EXAMPLE, Mode, NetworkConfig
from k8s_ovs.errors import ConfigError
from k8s_ovs.runtime.logs import LogSettings, setup_logging
from k8s_ovs.sources.etcd.store import EtcdStore


@click.command("init-config", context_settings=options.CONTEXT)
@options.etcd_options
@click.option("--from-json", "text", help=f"The whole config, as in etcd. Example: {EXAMPLE}")
@click.option(
    "--name", default="k8ssdn", show_default=True, help="Name: the network's keys are below PREFIX/NAME."
)
@click.option(
    "--pod-network", default="172.11.0.0/16", show_default=True, help="Network: the cluster's pod CIDR."
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
@click.option("--node-ip", "node_ips", default="", help="Addresses of nodes that no network may contain.")
def init_config(**flags: object) -> None:
    """Write the network config to etcd if there is none; validate what is there always.

    Prints the config in force. Exits with 2, and says why, if the config is invalid: then nothing is written.
    """
    settings: options.Options = dict(flags)
    setup_logging(LogSettings())
    config = _wanted(settings)
    nodes = addresses_from(settings["node_ips"], "--node-ip")
    config.check_nodes(nodes, origin="the wanted config")
    in_force, written = asyncio.run(_ensure(settings, config))
    in_force.check_nodes(nodes)
    if not written and in_force != config and _explicit():
        raise ConfigError(
            f"etcd holds another network config already: {in_force.to_json()}",
            remedy="it is left as it is; a running network cannot be renumbered in place",
        )
    click.echo(("written: " if written else "in force: ") + in_force.to_json())


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


def _explicit() -> bool:
    """Whether the user named any part of the config: then a different one in force is an error, else it is fine."""
    context = click.get_current_context()
    names = ("text", "name", "pod_network", "host_bits", "service_network", "mode")
    default = click.core.ParameterSource.DEFAULT
    return any(context.get_parameter_source(name) is not default for name in names)


async def _ensure(settings: options.Options, config: NetworkConfig) -> tuple[NetworkConfig, bool]:
    async with EtcdStore(etcd_from(settings), settings["network"] or None) as store:
        existing = await store.network_config()
        if existing is not None:
            return existing, False
        if await store.create_network_config(config):
            return config, True
        raced = await store.network_config()
        return raced or config, False
