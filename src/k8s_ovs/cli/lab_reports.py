"""`k8s-ovs lab status`, `matrix` and `demo`. Loaded by `cli.lab` when one of them is used."""

import asyncio
import json
import sys
from pathlib import Path

import click

from k8s_ovs.cli.lab_options import base_option, output_format, stop_on_sigterm, which_lab
from k8s_ovs.lab import demo, hostcheck, matrix, matrixtext, status
from k8s_ovs.lab.state import load_cluster


@click.command("status")
@which_lab
@output_format
def status_(name: str, base: Path, output: str) -> None:
    """Show nodes, processes, bridges, host subnets and pods."""
    now = asyncio.run(status.read(load_cluster(base, name)))
    click.echo(json.dumps(now.to_json(), indent=1) if output == "json" else status.render(now))


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


@click.command("demo")
@base_option
def demo_(base: Path) -> None:
    """Show in under a minute what k8s-ovs does, measured on three nodes in both modes. Leaves nothing behind.

    Exits with 1 if anything is not as it should be.
    """
    stop_on_sigterm()
    hostcheck.check_root()
    stage = demo.Stage(click.echo, lambda text, colour: click.style(text, fg=colour))
    sys.exit(0 if demo.run(base, stage) else 1)
