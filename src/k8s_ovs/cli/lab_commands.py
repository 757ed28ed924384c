"""The commands of `k8s-ovs lab`: options in, text out. Loaded by `cli.lab` when one of them is used."""

import asyncio
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any, TypeVar

import click

from k8s_ovs.config import Mode
from k8s_ovs.lab import hostcheck, lifecycle, matrix, matrixtext, namespaces, places, status
from k8s_ovs.lab.cluster import check_name
from k8s_ovs.lab.state import load_cluster

F = TypeVar("F", bound=Callable[..., Any])

_BASE = "/run/k8s-ovs-lab"


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class _Cidr(click.ParamType[IPv4Network]):
    name = "cidr"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> IPv4Network:
        try:
            return value if isinstance(value, IPv4Network) else IPv4Network(str(value))
        except (AddressValueError, NetmaskValueError, ValueError) as err:
            self.fail(f"{err}; give an IPv4 CIDR like 10.128.0.0/14", param, ctx)


_name = click.option(
    "--name",
    envvar="K8S_OVS_LAB",
    default="lab",
    show_default=True,
    help="Which lab; several may be up.  [K8S_OVS_LAB]",
)
_base = click.option(
    "--state-dir",
    "base",
    type=click.Path(path_type=Path, resolve_path=True),
    default=_BASE,
    show_default=True,
    help="Where labs keep their files.",
)
_which: Callable[[F], F] = _all(_name, _base)
_json = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json is for programs.",
)


@click.command()
@_which
@click.option("--nodes", default=3, show_default=True, help="How many nodes: node1, node2, …")
@click.option(
    "--mode",
    type=click.Choice(["multitenant", "subnet"]),
    default="multitenant",
    show_default=True,
    help="A Namespace is a tenant, or one flat network.",
)
@click.option("--pod-cidr", type=_Cidr(), help="Pod network.  [default: one that is free on this host]")
@click.option("--service-cidr", type=_Cidr(), help="Service network.  [default: one that is free]")
@click.option("--underlay-cidr", type=_Cidr(), help="The nodes' own network.  [default: one that is free]")
@click.option("--host-bits", default=10, show_default=True, help="Size of a node's share: 10 gives a /22.")
@click.option(
    "--controllers", type=click.IntRange(1, 5), default=2, show_default=True, help="One leads at a time."
)
@click.option("--bare", is_flag=True, help="Nodes and control plane only: no agents, no controllers.")
@click.option(
    "--cni-bin",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The CNI executable.  [default: the built one, or it is compiled now]",
)
@click.option(
    "--kube-bin",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of a real kube-apiserver.  [default: KUBEBUILDER_ASSETS or PATH, else the embedded one]",
)
def up(**flags: Any) -> None:
    """Start a lab and wait until its nodes are Ready."""
    _stop_on_sigterm()
    begun = time.monotonic()
    options = lifecycle.Options(
        name=flags["name"],
        base=flags["base"],
        nodes=flags["nodes"],
        mode=Mode.MULTITENANT if flags["mode"] == "multitenant" else Mode.SUBNET,
        pods=flags["pod_cidr"],
        services=flags["service_cidr"],
        underlay=flags["underlay_cidr"],
        host_bits=flags["host_bits"],
        controllers=flags["controllers"],
        bare=flags["bare"],
        shim=flags["cni_bin"],
        kube_bin=flags["kube_bin"],
    )
    cluster = lifecycle.up(options, lambda line: click.echo(f"  {line}"))
    click.echo(f"lab {cluster.name} is ready after {time.monotonic() - begun:.1f} s; for your shell:")
    chosen = "" if cluster.name == "lab" else f" --name {cluster.name}"
    click.echo(f'  eval "$(k8s-ovs lab env{chosen})"')


@click.command()
@_which
def down(name: str, base: Path) -> None:
    """Remove a lab: processes, namespaces, files. It is no error if there is none."""
    hostcheck.check_root()
    existed = lifecycle.down(base / check_name(name))
    click.echo(f"lab {name} is gone" if existed else f"no lab {name} was up")


@click.command()
@_which
def env(name: str, base: Path) -> None:
    """Print what a shell needs: eval "$(k8s-ovs lab env)"."""
    cluster = load_cluster(base, name)
    for variable, value in places.shell_environment(cluster).items():
        if variable == "PATH":
            click.echo(f'export PATH={shlex.quote(value)}:"$PATH"')
        else:
            click.echo(f"export {variable}={shlex.quote(value)}")


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_which
@click.argument("target", metavar="NODE|NAMESPACE/POD|control|outside")
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
    namespaces.enter(place.netns)
    os.environ.update(place.environment)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - the command is what the user asked for
    except FileNotFoundError:
        click.echo(f"k8s-ovs: {argv[0]}: command not found on this host", err=True)
        sys.exit(127)
    except PermissionError as err:
        click.echo(f"k8s-ovs: {argv[0]}: {err.strerror}", err=True)
        sys.exit(126)


@click.command("status")
@_which
@_json
def status_(name: str, base: Path, output: str) -> None:
    """Show nodes, processes, bridges, host subnets and pods."""
    now = asyncio.run(status.read(load_cluster(base, name)))
    click.echo(json.dumps(now.to_json(), indent=1) if output == "json" else status.render(now))


@click.command("matrix")
@_which
@_json
def matrix_(name: str, base: Path, output: str) -> None:
    """Who reaches whom: every pair, expected against observed. Exits with 1 if anything differs."""
    hostcheck.check_root()
    measured = asyncio.run(matrix.measure(load_cluster(base, name)))
    if output == "json":
        click.echo(json.dumps(measured.to_json(), indent=1))
    else:
        click.echo(matrixtext.render(measured, lambda text, colour: click.style(text, fg=colour)))
    sys.exit(1 if measured.differences else 0)


def _stop_on_sigterm() -> None:
    """End as with Ctrl-C, so that what was begun is removed."""

    def stop(*_: object) -> None:
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)


COMMANDS: dict[str, click.Command] = {
    "up": up,
    "down": down,
    "env": env,
    "exec": exec_,
    "status": status_,
    "matrix": matrix_,
}
