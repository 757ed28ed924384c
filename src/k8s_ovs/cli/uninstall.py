"""`k8s-ovs uninstall`: take away from this host what the agent made."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from k8s_ovs.agent import conflist
from k8s_ovs.agent.parts import FollowingSwitch
from k8s_ovs.agent.settings import CniSettings
from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import cni_from, switch_from
from k8s_ovs.cni import install as plugins
from k8s_ovs.dataplane.bridge import Firewall
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.errors import ConfigError, DataplaneError, K8sOvsError
from k8s_ovs.runtime.logs import QUIET_VERBOSITY, LogSettings, setup_logging

DEADLINE = 5.0
"""Seconds that ovsdb-server has for an answer: whoever types this command waits for it."""
KEPT_SETTINGS = (
    "kept: net.ipv4.ip_forward=1 and net.ipv4.conf.all.send_redirects=0, as the agent had set them; "
    "if nothing else needs them, set them as they were"
)
KEPT_PLUGINS = "kept: {}, which other networks may use"


@click.command(context_settings=options.CONTEXT)
@options.switch_options
@options.cni_place_options
@options.cni_bin_option
def uninstall(**flags: object) -> None:
    """Remove conflist, NAT rules, bridge and CNI executable from this host. Stop the agent first.

    Pods that still run lose their network. etcd's records stay: the controller removes a host's subnet with its Node.
    The standard CNI plugins stay, whoever installed them.
    The kernel's settings stay, since nobody knows who else counts on them by now; they are named.
    What cannot be removed is named, the rest is removed all the same, and the exit code is 1.
    """
    setup_logging(LogSettings(verbosity=QUIET_VERBOSITY))
    place = switch_from(dict(flags))
    switch = OvsdbSwitch(place.rundir, deadline=DEADLINE)
    asyncio.run(remove_all(cni_from(dict(flags)), place.bridge, IptablesFirewall(), switch))


async def remove_all(cni: CniSettings, bridge_name: str, firewall: Firewall, switch: FollowingSwitch) -> None:
    """Remove everything that can be removed, saying what. Raises ConfigError if an agent runs, DataplaneError at the end.

    The conflist goes first, so that the runtime begins nothing; the executable last, so that it answers until then.
    """
    await _need_no_agent(cni.socket)
    bin_dir = cni.bin_dir

    async def conflist_file() -> str:
        folder = cni.conf_dir
        removed = conflist.remove(folder)
        return f"removed {folder / conflist.CONFLIST}" if removed else f"no {conflist.CONFLIST} in {folder}"

    async def rules() -> str:
        return "removed the NAT and filter rules" if await firewall.remove() else "no NAT and filter rules"

    async def bridge() -> str:
        failure: DataplaneError | None = None
        removed = False
        async with asyncio.TaskGroup() as tasks:
            owner = tasks.create_task(switch.run(), name="ovsdb")
            try:
                removed = await switch.remove_bridge(bridge_name)
            except DataplaneError as err:
                failure = err
            finally:
                owner.cancel()
        if failure is not None:
            raise failure
        return f"removed the bridge {bridge_name}" if removed else f"no bridge {bridge_name}"

    async def executable() -> str:
        removed = plugins.remove(bin_dir)
        return (
            f"removed {bin_dir / plugins.OWN}" if removed else f"no CNI executable {plugins.OWN} in {bin_dir}"
        )

    await _all_of(conflist_file, rules, bridge, executable)
    if standard := plugins.standard_in(bin_dir):
        click.echo(KEPT_PLUGINS.format(" and ".join(str(bin_dir / name) for name in standard)))
    click.echo(KEPT_SETTINGS)


async def _all_of(*steps: Callable[[], Awaitable[str]]) -> None:
    """Do every step, saying what it did or why it failed. Raises DataplaneError if one did."""
    left = 0
    for step in steps:
        try:
            click.echo(await step())
        except K8sOvsError as err:
            left += 1
            click.echo(f"k8s-ovs: {err}", err=True)
    if left:
        raise DataplaneError(
            f"{left} of {len(steps)} parts are still there",
            remedy="mend what is said above, and uninstall again",
        )


async def _need_no_agent(socket: Path) -> None:
    """An agent that still runs would make everything again."""
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return
    writer.close()
    raise ConfigError(f"an agent still serves {socket}", remedy="stop it before it is uninstalled")
