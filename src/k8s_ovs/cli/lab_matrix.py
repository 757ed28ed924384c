"""`k8s-ovs lab matrix`. Loaded by `cli.lab` when it is used."""

import asyncio
import json
import sys
from pathlib import Path

import click

from k8s_ovs.cli.lab_options import output_format, which_lab
from k8s_ovs.lab import hostcheck, matrix, matrixtext
from k8s_ovs.lab.state import load_cluster


@click.command("matrix")
@which_lab
@output_format
def matrix_(name: str, base: Path, output: str) -> None:
    """Who reaches whom: every pair, expected against observed. Exits with 1 if anything differs."""
    hostcheck.check_root()
    measured = asyncio.run(matrix.measure(load_cluster(base, name)))
    if output == "json":
        click.echo(json.dumps(measured.to_json(), indent=1))
    else:
        click.echo(matrixtext.render(measured, lambda text, colour: click.style(text, fg=colour)))
    sys.exit(1 if measured.differences else 0)
