"""`k8s-ovs lab status`. Loaded by `cli.lab` when it is used."""

import asyncio
import json
from pathlib import Path

import click

from k8s_ovs.cli.lab_options import output_format, which_lab
from k8s_ovs.lab import status
from k8s_ovs.lab.state import load_cluster


@click.command("status")
@which_lab
@output_format
def status_(name: str, base: Path, output: str) -> None:
    """Show nodes, processes, bridges, host subnets and pods."""
    now = asyncio.run(status.read(load_cluster(base, name)))
    click.echo(json.dumps(now.to_json(), indent=1) if output == "json" else status.render(now))
