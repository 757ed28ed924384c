"""`k8s-ovs install-cni`: put the CNI executable where the container runtime finds it."""

from pathlib import Path

import click

from k8s_ovs.cli import options
from k8s_ovs.cni.install import Outcome, Placed, install

_WORDS = {
    Outcome.INSTALLED: "installed {}",
    Outcome.REPLACED: "replaced {}",
    Outcome.CURRENT: "{} is this version already",
    Outcome.KEPT: "kept {}, which was there",
    Outcome.MISSING: "no {} there, and none to install: the package containernetworking-plugins has it",
}


@click.command("install-cni", context_settings=options.CONTEXT)
@options.cni_bin_option
@click.option(
    "--plugins-from",
    type=click.Path(path_type=Path),
    default=Path("/usr/lib/k8s-ovs/cni"),
    show_default=True,
    help="The folder that has the plugins to install.",
)
def install_cni(cni_bin_dir: Path, plugins_from: Path) -> None:
    """Install the CNI executable, and the standard plugins portmap and loopback if the host has none.

    Each is written beside its place, tried and renamed: a run that fails or is killed leaves what was there, and may be
    repeated. A standard plugin that is there stays, whatever its version. No network config is written: the agent does
    that once it can serve. Exits with 2, and says why, if something cannot be installed.
    """
    for placed in install(plugins_from, cni_bin_dir):
        click.echo(_said(placed))
        if placed.trouble:
            click.echo(f"k8s-ovs: {placed.trouble}", err=True)


def _said(placed: Placed) -> str:
    name = placed.path.name if placed.outcome is Outcome.MISSING else placed.path
    return _WORDS[placed.outcome].format(name)
