"""`k8s-ovs tenant list | show | join | isolate | global`: tenants as an administrator sees and changes them.

The commands only ask: they write the net namespace that `etcdctl put` could write too, and the controller carries the
request out. What the command can see to be wrong is refused before anything is written.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import click

from k8s_ovs.cli import options
from k8s_ovs.cli.output import emit, format_option
from k8s_ovs.cli.session import EXIT_CODES, TIMED_OUT, opened
from k8s_ovs.cli.tenant_change import Outcome, Request, ask, wait
from k8s_ovs.cli.tenant_report import list_table, net_ids, reach, show_table, tenant_row
from k8s_ovs.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings=options.CONTEXT)
def tenant() -> None:
    """Show tenants (Namespaces and their NetIDs), join, isolate them, make them global."""


@tenant.command("list", context_settings=options.CONTEXT)
@options.etcd_options
@format_option
def list_(output: str, **flags: object) -> None:
    """List every Namespace with its NetID, whom it shares it with, and what is under way."""

    async def read() -> list[dict[str, Any]]:
        async with opened(dict(flags)) as session:
            snapshot = await session.store.snapshot()
            ids = net_ids(snapshot, session.config.mode)
            return [tenant_row(snapshot, name, ids) for name in ids]

    rows = asyncio.run(read())
    emit(output, rows, lambda: list_table(rows))


@tenant.command(context_settings=options.CONTEXT)
@click.argument("namespace")
@options.etcd_options
@format_option
def show(namespace: str, output: str, **flags: object) -> None:
    """Show one Namespace: NetID, whom it reaches, and how far a change has come on which node."""

    async def read() -> tuple[dict[str, Any], str]:
        async with opened(dict(flags)) as session:
            snapshot = await session.store.snapshot()
            ids = net_ids(snapshot, session.config.mode)
            if namespace not in ids:
                raise unknown(namespace)
            row = tenant_row(snapshot, namespace, ids)
            row["reaches"] = reach(namespace, ids, session.config.mode)
            return row, show_table(row, snapshot.tenants.get(namespace))

    row, text = asyncio.run(read())
    emit(output, row, lambda: text)


def unknown(namespace: str) -> ConfigError:
    """There is nothing about this Namespace."""
    return ConfigError(
        f"Namespace {namespace}: no tenant of this name",
        remedy="`k8s-ovs tenant list` shows all; a new one gets its NetID as soon as a controller runs",
    )


def _changing(command: F) -> F:
    """The flags of the commands that change a tenant."""
    for option in reversed(
        (
            options.etcd_options,
            options.kube_options,
            click.option(
                "--dry-run", is_flag=True, help="Only show who newly reaches whom, and who no longer does."
            ),
            click.option(
                "--wait", is_flag=True, help="Return when the change is complete on every node that lives."
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0),
                default=120.0,
                show_default=True,
                help="Seconds that --wait waits at most.",
            ),
            click.option("--force", is_flag=True, help="Replace another request that is not answered yet."),
            format_option,
        )
    ):
        command = option(command)
    return command


@tenant.command(context_settings=options.CONTEXT, epilog=EXIT_CODES)
@click.argument("namespace")
@click.argument("other")
@_changing
def join(namespace: str, other: str, **flags: Any) -> None:
    """Make NAMESPACE one tenant with OTHER: it takes OTHER's NetID, and leaves those whom it shared its own with.

    Traffic that is allowed before and after loses nothing.
    """
    _run(Request(namespace, "join", other), flags)


@tenant.command(context_settings=options.CONTEXT, epilog=EXIT_CODES)
@click.argument("namespace")
@_changing
def isolate(namespace: str, **flags: Any) -> None:
    """Give NAMESPACE a NetID of its own. One that shares none stays as it is.

    Traffic that is allowed before and after loses nothing; what is forbidden afterwards is dead when the change is complete.
    """
    _run(Request(namespace, "isolate"), flags)


@tenant.command("global", context_settings=options.CONTEXT, epilog=EXIT_CODES)
@click.argument("namespace")
@_changing
def global_(namespace: str, **flags: Any) -> None:
    """Make NAMESPACE global (NetID 0): it reaches all, and all reach it."""
    _run(Request(namespace, "global"), flags)


@dataclass(frozen=True, slots=True)
class _Flags:
    """What the user chose for one change."""

    output: str
    dry_run: bool
    wait: bool
    timeout: float
    force: bool


def _run(request: Request, flags: options.Options) -> None:
    chosen = _Flags(**{name: flags.pop(name) for name in ("output", "dry_run", "wait", "timeout", "force")})
    if chosen.dry_run:
        # Only a preview reads Kubernetes: its client is most of what Python would import.
        import_module("k8s_ovs.cli.tenant_preview").show(request, chosen.output, flags, force=chosen.force)
        return
    outcome = asyncio.run(_change(request, chosen, flags))
    emit(chosen.output, outcome.to_json(), lambda: str(outcome))
    sys.exit({"timed out": TIMED_OUT, "refused": 1, "replaced": 1}.get(outcome.result, 0))


async def _change(request: Request, chosen: _Flags, flags: options.Options) -> Outcome:
    async with opened(flags) as session:
        begun = time.monotonic()
        outcome = await ask(session, request, force=chosen.force)
        if not chosen.wait or outcome.result == "unchanged":
            return outcome
        return await wait(session, request, begun, chosen.timeout)
