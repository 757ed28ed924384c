"""`k8s-ovs drops`: where this host's bridge drops packets, and why."""

import asyncio
import json
from collections.abc import Mapping

import click

from k8s_ovs.agent.dropcounts import DropCounter, read_drops
from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import switch_from
from k8s_ovs.dataplane.openflow import OfctlFlowTable

_LEAST_WIDTHS = (12, 24, 9)
"""Of stage, reason and packets, so that tables of different hosts most often look alike."""


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
    click.echo(_as_text(shown) if shown or not counted else "nothing was dropped")


def _as_text(shown: Mapping[DropCounter, int]) -> str:
    if not shown:
        return "no flow that drops is on this bridge; is it an agent's? See `k8s-ovs status --only node`"
    rows = [
        (counter.stage.label, counter.reason.label, str(packets), counter.reason.meaning)
        for counter, packets in shown.items()
    ]
    stage, reason, count = (
        max(least, *(len(row[column]) for row in rows)) for column, least in enumerate(_LEAST_WIDTHS)
    )
    return "\n".join(
        f"{one:<{stage}} {two:<{reason}} {three:>{count}}  {four}"
        for one, two, three, four in [("STAGE", "REASON", "PACKETS", "MEANING"), *rows]
    )


def _as_object(counter: DropCounter, packets: int) -> dict[str, object]:
    return {
        "stage": counter.stage.label,
        "reason": counter.reason.label,
        "packets": packets,
        "meaning": counter.reason.meaning,
    }
