"""`k8s-ovs lab demo`. Loaded by `cli.lab` when it is used."""

import sys
from pathlib import Path

import click

from k8s_ovs.cli.lab_options import base_option, stop_on_sigterm
from k8s_ovs.lab import demo, hostcheck


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
