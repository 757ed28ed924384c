"""`k8s-ovs uninstall`: take away from this host what the agent made."""

import asyncio

import click

from k8s_ovs.agent import conflist
from k8s_ovs.cli import options
from k8s_ovs.cli.settings import agent_from
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.runtime.logs import LogSettings, setup_logging


@click.command(context_settings=options.CONTEXT)
@options.agent_options
def uninstall(**flags: object) -> None:
    """Remove conflist, NAT rules and bridge from this host. Stop the agent first.

    Pods that still run lose their network. etcd's records stay: the controller removes a host's subnet with its Node.
    """
    setup_logging(LogSettings())
    asyncio.run(_uninstall(dict(flags)))


async def _uninstall(flags: options.Options) -> None:
    settings = agent_from(flags, "")
    if conflist.remove(settings.cni.conf_dir):
        click.echo(f"removed {settings.cni.conf_dir / conflist.CONFLIST}")
    await IptablesFirewall().remove()
    click.echo("removed the NAT and filter rules")
    switch = OvsdbSwitch(settings.switch.rundir)
    async with asyncio.TaskGroup() as tasks:
        owner = tasks.create_task(switch.run(), name="ovsdb")
        await switch.remove_bridge(settings.switch.bridge)
        owner.cancel()
    click.echo(f"removed the bridge {settings.switch.bridge}")
