"""`k8s-ovs drops`: where this host's bridge drops packets, and why."""

import asyncio
import json

import click

from k8s_ovs.agent.dropcounts import DropCounter, read_drops
from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import switch_from
from k8s_ovs.dataplane.openflow import OfctlFlowTable


@click.command(context_settings=options.CONTEXT)
@options.switch_options
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option(
    "--all",
    "everything",
    envvar="K8S_OVS_ALL",
    is_flag=True,
    help="Also the drops that have counted nothing.",
)
def drops(output: str, everything: bool, **flags: object) -> None:
    """Show where this host's bridge drops packets, and why."""
    settings: SwitchSettings = switch_from(dict(flags))
    counted = asyncio.run(read_drops(OfctlFlowTable(settings.management)))
    shown = {counter: packets for counter, packets in counted.items() if packets or everything}
    if output == "json":
        click.echo(json.dumps([_as_object(counter, packets) for counter, packets in shown.items()], indent=2))
        return
    click.echo(f"{'STAGE':<12} {'REASON':<24} {'PACKETS':>9}  MEANING")
    for counter, packets in shown.items():
        click.echo(
            f"{counter.stage.label:<12} {counter.reason.label:<24} {packets:>9}  {counter.reason.meaning}"
        )


def _as_object(counter: DropCounter, packets: int) -> dict[str, object]:
    return {
        "stage": counter.stage.label,
        "reason": counter.reason.label,
        "packets": packets,
        "meaning": counter.reason.meaning,
    }
