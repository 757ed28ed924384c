"""`k8s-ovs lab up`, `down`, `add-host`, `stop` and `start`. Loaded by `cli.lab` when one of them is used."""

import shlex
import time
from pathlib import Path
from typing import Any

import click

from k8s_ovs.cli.lab_options import Cidr, stop_on_sigterm, which_lab
from k8s_ovs.config import Mode
from k8s_ovs.lab import hostcheck, lifecycle, places, stopping
from k8s_ovs.lab.cluster import ExternalHost, check_name
from k8s_ovs.lab.state import load_cluster

MANIFESTS = places.CHECKOUT / "deploy" / "k8s-ovs.yaml"


@click.command()
@which_lab
@click.option("--nodes", default=3, show_default=True, help="How many nodes: node1, node2, …")
@click.option(
    "--mode",
    type=click.Choice(["multitenant", "subnet"]),
    default="multitenant",
    show_default=True,
    help="A Namespace is a tenant, or one flat network.",
)
@click.option("--pod-cidr", type=Cidr(), help="Pod network.  [default: one that is free on this host]")
@click.option("--service-cidr", type=Cidr(), help="Service network.  [default: one that is free]")
@click.option("--underlay-cidr", type=Cidr(), help="The nodes' own network.  [default: one that is free]")
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
@click.option(
    "--from-manifests",
    "manifests",
    is_flag=False,
    flag_value=MANIFESTS,
    type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    help="Start agents, controllers and etcd as these Kubernetes manifests say.  [without FILE: deploy/k8s-ovs.yaml]",
)
@click.option(
    "--token-seconds",
    type=click.IntRange(10, 86400),
    default=3607,
    show_default=True,
    help="With --from-manifests: how long a service account's token lives.",
)
def up(**flags: Any) -> None:
    """Start a lab and wait until its nodes are Ready."""
    stop_on_sigterm()
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
        manifests=flags["manifests"],
        token_seconds=flags["token_seconds"],
    )
    cluster = lifecycle.up(options, lambda line: click.echo(f"  {line}"))
    click.echo(f"lab {cluster.name} is ready after {time.monotonic() - begun:.1f} s; for your shell:")
    chosen = "" if cluster.name == "lab" else f" --name {cluster.name}"
    click.echo(f'  eval "$({shlex.quote(places.program())} lab env{chosen})"')


@click.command()
@which_lab
def down(name: str, base: Path) -> None:
    """Remove a lab: processes, namespaces, files. It is no error if there is none."""
    hostcheck.check_root()
    existed = lifecycle.down(base / check_name(name))
    click.echo(f"lab {name} is gone" if existed else f"no lab {name} was up")


@click.command("add-host")
@which_lab
@click.option(
    "--with-kubernetes", is_flag=True, help="Give it Kubernetes credentials: it reaches ClusterIPs too."
)
@click.option("--unregistered", is_flag=True, help="Do not call `k8s-ovs subnet assign` for it: you will.")
@click.argument("host", metavar="NAME")
def add_host(name: str, base: Path, host: str, *, with_kubernetes: bool, unregistered: bool) -> None:
    """Add an external host: a machine outside Kubernetes with Open vSwitch and an agent, like a load balancer.

    It is called NAME in `lab exec` and `lab status`, and goes with `lab down`.
    """
    stop_on_sigterm()
    begun = time.monotonic()
    cluster = load_cluster(base, name)
    added = lifecycle.add_host(cluster, ExternalHost(host, with_kubernetes), register=not unregistered)
    state = "waits for its subnet" if unregistered else "is ready"
    click.echo(f"host {added.name} ({added.ip}) {state} after {time.monotonic() - begun:.1f} s")


@click.command()
@which_lab
@click.option("--kill", is_flag=True, help="With SIGKILL.  [default: SIGTERM]")
@click.argument("processes", metavar="PROCESS…", nargs=-1, required=True)
def stop(name: str, base: Path, processes: tuple[str, ...], *, kill: bool) -> None:
    """Stop processes, and keep them stopped until `lab start`.

    They are called etcd, apiserver, controller1, node1/agent, node1/vswitchd, node1/ovsdb and so on.
    """
    stopping.stop(load_cluster(base, name), processes, kill=kill)


@click.command()
@which_lab
@click.argument("processes", metavar="PROCESS…", nargs=-1, required=True)
def start(name: str, base: Path, processes: tuple[str, ...]) -> None:
    """Start processes again that were stopped."""
    stopping.start(load_cluster(base, name), processes)
