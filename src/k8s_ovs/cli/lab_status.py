"""`k8s-ovs lab status` and `list`. Loaded by `cli.lab` when one of them is used."""

import asyncio
import json
from pathlib import Path

import click

from k8s_ovs.cli.lab_options import base_option, output_format, which_lab
from k8s_ovs.lab import status
from k8s_ovs.lab.state import labs, load_cluster


@click.command("status")
@which_lab
@output_format
def status_(name: str, base: Path, output: str) -> None:
    """Show nodes, processes, bridges, host subnets and pods."""
    now = asyncio.run(status.read(load_cluster(base, name)))
    click.echo(json.dumps(now.to_json(), indent=1) if output == "json" else status.render(now))


@click.command("list")
@base_option
def list_(base: Path) -> None:
    """Show the names of all labs that are up."""
    for name in labs(base):
        click.echo(name)
