"""`k8s-ovs lab exec` and `env`: being in a lab. Loaded by `cli.lab` when one of them is used.

Apart from what starts and stops labs, and without asyncio: `exec` is called for every command that somebody runs in a
lab, and what Python imports is most of its time.
"""

import os
import shlex
import sys
from pathlib import Path

import click

from k8s_ovs.cli.lab_options import which_lab
from k8s_ovs.errors import LabError
from k8s_ovs.lab import hostcheck, namespaces, places
from k8s_ovs.lab.state import load_cluster


@click.command()
@which_lab
def env(name: str, base: Path) -> None:
    """Print what a shell needs: eval "$(k8s-ovs lab env)"."""
    cluster = load_cluster(base, name)
    for variable, value in places.shell_environment(cluster).items():
        click.echo(f"export {variable}={shlex.quote(value)}")
    ours = ":".join(str(directory) for directory in places.program_directories())
    click.echo(f'export PATH={shlex.quote(ours)}:"$PATH"')


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@which_lab
@click.argument("target", metavar="NODE|HOST|NAMESPACE/POD|control|outside")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, base: Path, target: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in the network of a node or pod, with this host's file system.

    The exit code is the command's own.
    """
    hostcheck.check_root()
    place = places.find(load_cluster(base, name), target)
    argv = list(command[1:] if command[0] == "--" else command)
    if not argv:
        raise click.UsageError("nothing to run: k8s-ovs lab exec node1 -- ip addr")
    try:
        namespaces.enter(place.netns)
    except OSError as err:
        raise LabError(f"{target} has gone ({err})", remedy="see `k8s-ovs lab status`") from err
    os.environ.update(place.environment)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - the command is what the user asked for
    except FileNotFoundError:
        click.echo(f"k8s-ovs: {argv[0]}: command not found on this host", err=True)
        sys.exit(127)
    except PermissionError as err:
        click.echo(f"k8s-ovs: {argv[0]}: {err.strerror}", err=True)
        sys.exit(126)
