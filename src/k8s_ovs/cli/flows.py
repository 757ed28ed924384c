"""`k8s-ovs flows`: what this host's bridge does with packets, by stage, and how many it has done that with.

It reads the switch, and for `--pod` the leases in OVSDB, and changes nothing.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import click

from k8s_ovs.agent.settings import SwitchSettings
from k8s_ovs.cli import options
from k8s_ovs.cli.agent_settings import switch_from
from k8s_ovs.cli.output import columns
from k8s_ovs.dataplane.bridge import FlowStats
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.errors import ConfigError, OvsdbError
from k8s_ovs.flows.names import Meaning, StageId, describe
from k8s_ovs.flows.shown import actions_text, match_text, table_number
from k8s_ovs.flows.tables import TABLES, table_name
from k8s_ovs.model.types import Attachment
from k8s_ovs.runtime.logs import SILENT_VERBOSITY, LogSettings, setup_logging

DEADLINE = 5.0
"""Seconds that ovsdb-server has for an answer: whoever types this command waits for it."""

Row = dict[str, Any]

_NO_ADDRESS = (StageId.TENANT, StageId.SERVICE_NEW)
"""Stages whose cookies speak of something else than an address."""


@click.command(context_settings=options.CONTEXT)
@options.switch_options
@click.option(
    "--table",
    "stage",
    envvar="K8S_OVS_TABLE",
    type=click.Choice([table.name for table in TABLES.values()]),
    help="Only this table.",
)
@click.option("--pod", metavar="NAMESPACE/POD", help="Only what concerns this pod's port, address or MAC.")
@click.option(
    "--dropped",
    envvar="K8S_OVS_DROPPED",
    is_flag=True,
    help="Only what has dropped packets, with the reason.",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def flows(output: str, stage: str | None, pod: str | None, dropped: bool, **flags: object) -> None:
    """Show the flows of this host's bridge: stages and registers by name, packets and bytes, why packets are dropped.

    In the order in which a packet meets them. "drop" is followed by its reason; docs/pipeline.md tells what each stage decides.
    """
    setup_logging(LogSettings(verbosity=SILENT_VERBOSITY))
    settings = switch_from(dict(flags))
    found = asyncio.run(_read(settings, pod))
    if stage is not None:
        found = [flow for flow in found if flow.table == table_number(stage)]
    rows = [as_row(flow) for flow in in_order(found)]
    if dropped:
        rows = [row for row in rows if row["drop"] and row["packets"]]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    else:
        dropless = "nothing was dropped by these flows" if stage or pod else "nothing was dropped"
        click.echo(as_text(rows) or (dropless if dropped and found else "no such flow"))


async def _read(settings: SwitchSettings, pod: str | None) -> list[FlowStats]:
    found = await OfctlFlowTable(settings.management).dump()
    if pod is None:
        return found
    leases = [lease for lease in await read_leases(settings) if f"{lease.namespace}/{lease.pod}" == pod]
    if not leases:
        raise ConfigError(
            f"no pod {pod} has a port on this host's bridge {settings.bridge}",
            remedy="give NAMESPACE/POD, and run this on the pod's node (kubectl get pod -o wide)",
        )
    concerned: list[Callable[[FlowStats], bool]] = [about(lease) for lease in leases]
    return [flow for flow in found if any(concerns(flow) for concerns in concerned)]


async def read_leases(settings: SwitchSettings) -> list[Attachment]:
    """The pods with a port on the bridge, as OVSDB has them. Raises OvsdbError."""
    switch = OvsdbSwitch(settings.rundir, deadline=DEADLINE)
    owner = asyncio.create_task(switch.run(), name="ovsdb")
    try:
        async with asyncio.timeout(DEADLINE):
            await switch.connected()
        return switch.attachments()
    except TimeoutError:
        raise OvsdbError(
            f"no answer from {settings.rundir}/db.sock within {DEADLINE:g} s", remedy="start ovsdb-server"
        ) from None
    finally:
        owner.cancel()


def about(lease: Attachment) -> Callable[[FlowStats], bool]:
    """Whether a flow concerns the pod: its port, address or MAC is matched or used, or the flow was made for its address."""
    words = [rf"in_port={lease.ofport}", re.escape(str(lease.address)), re.escape(lease.mac)]
    port = lease.ofport or -1
    text = re.compile(r"(?<![\w.:])(" + "|".join(words) + r")(?![\w.:/]|\.\d)")
    sends = re.compile(
        rf"(?:\boutput:{port}|(?:0x0*{port:x}|\b{port})(?:/0xffffffff)?->(?:reg2|NXM_NX_REG2\[\]))(?![\w.])"
    )

    def concerns(flow: FlowStats) -> bool:
        meaning = describe(flow.cookie)
        ours = meaning is not None and meaning.stage not in _NO_ADDRESS and meaning.drop is None
        if ours and meaning is not None and meaning.about == int(lease.address):
            return True
        return bool(text.search(flow.match) or text.search(flow.actions) or sends.search(flow.actions))

    return concerns


def in_order(found: Iterable[FlowStats]) -> list[FlowStats]:
    """As a packet meets them: by table, in it from the highest priority."""
    return sorted(found, key=lambda flow: (flow.table, -flow.priority, flow.match))


def as_row(flow: FlowStats) -> Row:
    """One flow as plain data. `drop` is the reason's name, null for a flow that drops nothing; `about` what it was made for."""
    meaning = describe(flow.cookie)
    drop = None if meaning is None or meaning.drop is None else meaning.drop
    return {
        "table": table_name(flow.table),
        "tableNumber": flow.table,
        "priority": flow.priority,
        "packets": flow.packets,
        "bytes": flow.octets,
        "match": match_text(flow.match),
        "actions": actions_text(flow.actions),
        "drop": None if drop is None else drop.label,
        "meaning": None if drop is None else drop.meaning,
        "ours": meaning is not None,
        "about": _about(meaning),
    }


def _about(meaning: Meaning | None) -> str | None:
    if meaning is None or meaning.drop is not None or not meaning.about:
        return None
    return str(meaning).partition(": ")[2]


def as_text(rows: Sequence[Row]) -> str:
    """The rows for people, a paragraph for each table; empty without rows."""
    parts = []
    for number, group in groupby(rows, key=lambda row: row["tableNumber"]):
        table = TABLES.get(number)
        decides = f": {table.decides}" if table is not None else ""
        lines = [("PRIORITY", "PACKETS", "BYTES", "MATCH", "ACTIONS")]
        lines += [
            (
                str(row["priority"]),
                str(row["packets"]),
                str(row["bytes"]),
                row["match"] or "any",
                _actions(row),
            )
            for row in group
        ]
        parts.append(f"{table_name(number)} ({number}){decides}\n{columns(lines)}")
    return "\n\n".join(parts)


def _actions(row: Row) -> str:
    if row["drop"]:
        return f"drop: {row['drop']}"
    return row["actions"] if row["ours"] else f"{row['actions']}   (not ours)"
