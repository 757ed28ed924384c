"""`k8s-ovs loglevel LEVEL`: how much a daemon of this host logs, from now until it ends."""

from http.client import HTTPException

import click

from k8s_ovs.cli import options
from k8s_ovs.cli.status_here import fetch
from k8s_ovs.errors import ConfigError
from k8s_ovs.runtime.logs import parse_verbosity


@click.command(context_settings=options.CONTEXT)
@click.argument("level")
@click.option(
    "--metrics-address",
    default="127.0.0.1:9640",
    show_default=True,
    help="Where the daemon answers: an agent, or a controller (usually 127.0.0.1:9641).",
)
def loglevel(level: str, metrics_address: str) -> None:
    """Set how much a running daemon logs: info, debug or trace, or a number as of --v (0 to 6).

    Nothing is restarted, and the next start has the level of --v again. It works on the daemon's own host only.
    """
    parse_verbosity(level)
    try:
        answer = fetch(metrics_address, "/loglevel", method="POST", body=level).strip()
    except (OSError, HTTPException) as err:
        raise ConfigError(
            f"no daemon answers at {metrics_address} ({err})",
            remedy="run this on the daemon's host, with its --metrics-address",
        ) from err
    if not answer.startswith("--v="):
        raise ConfigError(
            f"{metrics_address} refuses: {answer}", remedy="see that a daemon of ours answers there"
        )
    click.echo(f"{metrics_address} logs with {answer}")
