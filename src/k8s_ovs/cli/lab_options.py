"""Options that the commands of `k8s-ovs lab` share."""

import signal
import sys
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_BASE = "/run/k8s-ovs-lab"


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Cidr(click.ParamType[IPv4Network]):
    """An IPv4 network."""

    name = "cidr"

    def convert(  # noqa: D102 - click's
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPv4Network:
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
base_option = click.option(
    "--state-dir",
    "base",
    type=click.Path(path_type=Path, resolve_path=True),
    default=_BASE,
    show_default=True,
    help="Where labs keep their files.",
)
which_lab: Callable[[F], F] = _all(_name, base_option)
output_format = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json is for programs.",
)


def stop_on_sigterm() -> None:
    """End as with Ctrl-C, so that what was begun is removed."""

    def stop(*_: object) -> None:
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
