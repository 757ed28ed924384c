"""`k8s-ovs etcd-tls`: make and renew the certificates of the etcd that comes with k8s-ovs.

Runs in etcd's pod: once before etcd starts, and beside it with --every. What is made is decided in `etcd_tls_keep`.
"""

import asyncio
import os
import re
import sys
from functools import partial
from pathlib import Path

import click

from k8s_ovs.cli import options
from k8s_ovs.cli.etcd_tls_keep import Kept, Names, Terms, keep, write_files
from k8s_ovs.cli.settings import logging_from
from k8s_ovs.errors import ConfigError, K8sOvsError
from k8s_ovs.runtime.main import run_daemon
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials

HOUR = 3600.0
RETRY_SECONDS = 60.0
_NAME = re.compile(r"[0-9A-Za-z]([-.0-9A-Za-z]*[0-9A-Za-z])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
"""A DNS name, an IPv4 or an IPv6 address: nothing that means more to openssl's configuration."""


@click.command("etcd-tls", context_settings=options.CONTEXT)
@options.kube_options
@click.option("--namespace", default="kube-system", show_default=True, help="Of Secrets and ConfigMap.")
@click.option("--secret", default="k8s-ovs-etcd-tls", show_default=True, help="CA and certificates.")
@click.option("--ca-secret", default="k8s-ovs-etcd-ca", show_default=True, help="The CA with its key.")
@click.option("--config-map", default="k8s-ovs-etcd", show_default=True, help="Where etcd's endpoint goes.")
@click.option(
    "--address",
    "--etcd-address",
    "addresses",
    envvar="K8S_OVS_ETCD_ADDRESS",
    required=True,
    help="Addresses or names by which etcd is reached, separated by commas (the Pod's status.hostIP).",
)
@click.option("--port", type=click.IntRange(1, 65535), default=2379, show_default=True, help="etcd's port.")
@click.option(
    "--dir",
    "folder",
    envvar="K8S_OVS_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files for etcd there too: ca.crt, server.crt, server.key, client.crt, client.key.",
)
@click.option(
    "--client-name", default="k8s-ovs", show_default=True, help="CommonName of clients: their user in etcd."
)
@click.option(
    "--days", type=click.IntRange(1), default=365, show_default=True, help="How long certificates are valid."
)
@click.option(
    "--ca-days", type=click.IntRange(2), default=3650, show_default=True, help="How long the CA is valid."
)
@click.option(
    "--renew-before",
    type=click.FloatRange(0),
    default=90.0,
    show_default=True,
    help="Days before its end that a certificate is made anew.",
)
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
    help="Stay, and look again every so many hours. etcd reads its renewed certificate without a restart.",
)
@options.log_options
def etcd_tls(**flags: object) -> None:
    """Make and renew the certificates of etcd, its clients and their CA, and keep them in Kubernetes.

    For the etcd that comes with k8s-ovs: without --every before etcd starts, with --every beside it. May be run as often as one
    likes, also twice at once: what is in order stays as it is. Needs the program openssl, and for the two
    Secrets and the ConfigMap the verbs get and patch (create too, if they are not there yet).
    """
    settings: options.Options = dict(flags)
    logging_from(settings)
    names = Names(
        namespace=settings["namespace"],
        secret=settings["secret"],
        ca_secret=settings["ca_secret"],
        config_map=settings["config_map"],
    )
    kube = KubeSettings(kubeconfig=settings["kubeconfig"], environ=dict(os.environ))
    run = partial(_run, kube, names, _terms(settings), settings["folder"], settings["every"])
    if settings["every"] is None:
        asyncio.run(run())
    else:  # in a container this is process 1, which no signal ends that it does not handle
        sys.exit(run_daemon(run))


async def _run(
    kube: KubeSettings, names: Names, terms: Terms, folder: Path | None, every: float | None
) -> None:
    """Once, or for ever: then a failure is told, and tried again."""
    async with KubeClient(load_credentials(kube), component="k8s-ovs-etcd-tls") as client:
        while True:
            pause = (every or 0.0) * HOUR
            try:
                _tell(
                    await keep(client, names, terms, starting=every is None), folder, beside=every is not None
                )
            except K8sOvsError as err:
                if every is None:
                    raise
                click.echo(f"k8s-ovs: {err}", err=True)
                pause = min(RETRY_SECONDS, pause)
            if every is None:
                return
            await asyncio.sleep(pause)


def _tell(kept: Kept, folder: Path | None, *, beside: bool) -> None:
    for change in kept.changes:
        click.echo(change)
    if folder is not None:
        for name in write_files(folder, kept.content):
            click.echo(f"wrote {folder / name}")
    if beside and kept.ca_waits:
        click.echo("the next CA is known everywhere: restart etcd, so that it signs from then on", err=True)
    if not kept.changes and not beside:
        click.echo("certificates are in order")


def _terms(settings: options.Options) -> Terms:
    """What is wanted. Raises ConfigError for what no certificate can be made for."""
    addresses = tuple(part.strip() for part in settings["addresses"].split(",") if part.strip())
    for name in (*addresses, settings["client_name"]):
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no address and no name", remedy="give addresses or DNS names with --address"
            )
    if not addresses:
        raise ConfigError("--address is empty", remedy="give the address of etcd's host")
    if settings["renew_before"] >= settings["days"] or settings["ca_days"] <= settings["days"]:
        raise ConfigError(
            f"--renew-before {settings['renew_before']:g}, --days {settings['days']}, --ca-days {settings['ca_days']} "
            "do not fit together",
            remedy="renew before the end of --days, and let the CA outlive what it signs",
        )
    return Terms(
        addresses=addresses,
        port=settings["port"],
        client_name=settings["client_name"],
        days=settings["days"],
        ca_days=settings["ca_days"],
        renew_before=settings["renew_before"],
    )
