"""`k8s-ovs subnet list | assign | release`: host subnets as an administrator sees them, and those of external hosts.

`assign` writes the record that `etcdctl put` could write too; the controller fills the subnet in. What the command can
see to be wrong is refused before anything is written.
"""

import asyncio
import re
import sys
import time
from ipaddress import AddressValueError, IPv4Address
from typing import Any

import click

from k8s_ovs.cli import options
from k8s_ovs.cli.output import columns, emit, format_option
from k8s_ovs.cli.session import EXIT_CODES, TIMED_OUT, Session, commit, following, is_live, opened
from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import ConfigError, RecordError
from k8s_ovs.model.types import HostSubnet
from k8s_ovs.sources.store import Change, Snapshot

Row = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_MAX_NAME = 253
"""A host's name, as Kubernetes has it for Nodes (RFC 1123)."""


@click.group(context_settings=options.CONTEXT)
def subnet() -> None:
    """Show host subnets; give one to an external host (a load balancer outside Kubernetes), and take it back."""


@subnet.command("list", context_settings=options.CONTEXT)
@options.etcd_options
@format_option
def list_(output: str, **flags: object) -> None:
    """List every host with its subnet, and whether its agent lives."""

    async def read() -> list[Row]:
        async with opened(dict(flags)) as session:
            snapshot = await session.store.snapshot()
            rows = [_row(snapshot, record) for record in snapshot.host_subnets.values()]
            bad = [{"error": text} for text in malformed(snapshot).values()]
            return [*sorted(rows, key=lambda row: (row["external"], row["host"])), *bad]

    rows = asyncio.run(read())
    emit(output, rows, lambda: _table(rows))


@subnet.command(context_settings=options.CONTEXT, epilog=EXIT_CODES)
@click.argument("host")
@click.argument("ip")
@options.etcd_options
@click.option("--wait", is_flag=True, help="Return when the controller has given the subnet.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds that --wait waits at most.",
)
@format_option
def assign(host: str, ip: str, output: str, **flags: Any) -> None:
    """Ask for a subnet for the external host HOST, which sends VXLAN from the address IP.

    HOST is what `k8s-ovs agent --external --hostname` says there, in lower case. The host then reaches every pod of
    every tenant: it acts as the hosts of the cluster do.
    """
    patience, waiting = flags.pop("timeout"), flags.pop("wait")
    wanted = HostSubnet(_host(host), _address(ip), None, assign=True)

    async def run() -> tuple[Row, bool]:
        async with opened(flags) as session:
            await commit(session.store, lambda snapshot: _assignment(snapshot, session.config, wanted))
            return await _given(session, wanted, patience) if waiting else (await _now(session, wanted), True)

    row, in_time = asyncio.run(run())
    emit(output, row, lambda: _assigned(row, in_time))
    sys.exit(0 if in_time else TIMED_OUT)


@subnet.command(context_settings=options.CONTEXT, epilog=EXIT_CODES)
@click.argument("host", metavar="HOST|IP")
@options.etcd_options
@click.option(
    "--force", is_flag=True, help="Release the subnet of a Node, or a record that nobody can read, too."
)
@format_option
def release(host: str, output: str, force: bool, **flags: object) -> None:
    """Take the subnet of an external host back: from then on the nodes drop what it sends.

    The subnet of a Node goes with the Node (kubectl delete node). Releasing it by hand is refused without --force: as long as
    the Node is there, the controller gives it another one, and its pods lose their network.
    """

    async def run() -> Row:
        released: list[Row] = []

        def plan(snapshot: Snapshot) -> Change:
            host_ip, row = _releasable(snapshot, host.lower(), force=force)
            released[:] = [row]
            return Change(snapshot.revision, delete_subnets=[host_ip])

        async with opened(dict(flags)) as session:
            await commit(session.store, plan)
        return released[0]

    row = asyncio.run(run())
    emit(
        output, row, lambda: f"released {row['subnet'] or 'no subnet yet'} of {row['host']} ({row['hostIP']})"
    )


def malformed(snapshot: Snapshot) -> dict[str, str]:
    """What is wrong with host subnets that nobody can read, by what their key ends in."""
    found = {}
    for key, problem in snapshot.problems.items():
        folder, _, name = key.rpartition("/")
        if folder.endswith("/subnets"):
            found[name] = str(problem)
    return found


def _host(text: str) -> str:
    name = text.lower()
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise ConfigError(
            f"HOST is {text!r}",
            remedy="give the name that `k8s-ovs agent --external --hostname` says there, like lb1",
        )
    return name


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as err:
        raise ConfigError(f"IP: {err}", remedy="give the host's own IPv4 address") from err


def _assignment(snapshot: Snapshot, config: NetworkConfig, wanted: HostSubnet) -> Change | None:
    """The write that asks for the subnet; None if it was asked for before. Raises ConfigError if it cannot be had."""
    what = f"external host {wanted.host} at {wanted.host_ip}"
    _check_address(wanted.host_ip, config, what)
    if problem := malformed(snapshot).get(str(wanted.host_ip)):
        raise ConfigError(
            f"{what}: its record is there, and cannot be read: {problem}",
            remedy=f"`k8s-ovs subnet release {wanted.host_ip} --force` removes it",
        )
    existing = snapshot.host_subnets.get(wanted.host_ip)
    if existing is not None and existing.assign and existing.host == wanted.host:
        return None
    if existing is not None:
        whose = "the external host" if existing.assign else "the node"
        raise ConfigError(
            f"{what}: the address has the record of {whose} {existing.host}",
            remedy=f"give another address, or release that one first (k8s-ovs subnet release {existing.host})"
            if existing.assign
            else "give the external host's own address",
        )
    for record in snapshot.host_subnets.values():
        if record.host == wanted.host:
            kind = "an external host" if record.assign else "a node"
            raise ConfigError(
                f"{what}: {kind} at {record.host_ip} has this name",
                remedy="choose another name, or release that one first",
            )
    return Change(snapshot.revision, put_subnets=[wanted])


def _check_address(address: IPv4Address, config: NetworkConfig, what: str) -> None:
    for name, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        if address in network:
            raise ConfigError(
                f"{what}: the address is inside {name} {network}",
                remedy="give the address that the host has on the nodes' network",
            )
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_reserved:
        raise ConfigError(
            f"{what}: no host can be reached at this address",
            remedy="give the address that the host has on the nodes' network",
        )


def _releasable(snapshot: Snapshot, wanted: str, *, force: bool) -> tuple[IPv4Address, Row]:
    """The record that `wanted` (a host's name or address) means, if it may be released. Raises ConfigError."""
    bad = malformed(snapshot)
    if wanted in bad:
        if not force:
            raise ConfigError(
                f"the record of {wanted} cannot be read ({bad[wanted]}), it may be a Node's",
                remedy="correct it, or remove it with --force",
            )
        return _address(wanted), {"host": "?", "hostIP": wanted, "subnet": None, "external": None}
    found = [
        record for record in snapshot.host_subnets.values() if wanted in (record.host, str(record.host_ip))
    ]
    if not found:
        raise ConfigError(f"no host {wanted} has a subnet", remedy="`k8s-ovs subnet list` shows all")
    if len(found) > 1:
        addresses = ", ".join(str(record.host_ip) for record in found)
        raise ConfigError(f"{len(found)} hosts are called {wanted}", remedy=f"give the address: {addresses}")
    [record] = found
    if not record.assign and not force:
        raise ConfigError(
            f"{record.subnet or 'the record'} is the subnet of the Node {record.host}: its pods would lose their network, "
            "and the controller gives another one as long as the Node is there",
            remedy="delete the Node to release it, or give --force",
        )
    return record.host_ip, _row(snapshot, record)


async def _now(session: Session, wanted: HostSubnet) -> Row:
    snapshot = await session.store.snapshot()
    return _row(snapshot, snapshot.host_subnets.get(wanted.host_ip, wanted))


async def _given(session: Session, wanted: HostSubnet, seconds: float) -> tuple[Row, bool]:
    """The record once it has a subnet, and True; what there is after `seconds`, and False."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(seconds), following(session.store) as snapshot_then:
            while True:
                snapshot = await snapshot_then()
                record = snapshot.host_subnets.get(wanted.host_ip)
                if record is None or not record.assign or record.host != wanted.host:
                    raise RecordError(
                        f"subnets/{wanted.host_ip}",
                        "somebody has removed or replaced it meanwhile",
                        remedy="ask again",
                    )
                if record.subnet is not None:
                    return _row(snapshot, record) | {"seconds": round(time.monotonic() - begun, 3)}, True
    except TimeoutError:
        return _row(None, wanted), False


def _row(snapshot: Snapshot | None, record: HostSubnet) -> Row:
    return {
        "host": record.host,
        "hostIP": str(record.host_ip),
        "subnet": None if record.subnet is None else str(record.subnet),
        "external": record.assign,
        "agent": snapshot is not None and is_live(snapshot, record),
    }


def _assigned(row: Row, in_time: bool) -> str:
    who = f"external host {row['host']} ({row['hostIP']})"
    if row["subnet"]:
        return f"{who} has {row['subnet']}: run `k8s-ovs agent --external --hostname {row['host']}` there"
    if in_time:
        return (
            f"{who}: asked for; `k8s-ovs subnet list` shows the subnet as soon as a controller has given it"
        )
    return f"{who}: no subnet yet; the request stays: see that a controller runs"


def _table(rows: list[Row]) -> str:
    lines = [("HOST", "IP", "SUBNET", "KIND", "AGENT")]
    lines += [
        (
            row["host"],
            row["hostIP"],
            row["subnet"] or "",
            "external" if row["external"] else "node",
            "live" if row["agent"] else "",
        )
        for row in rows
        if "host" in row
    ]
    bad = [row["error"] for row in rows if "error" in row]
    return "\n".join([columns(lines), *(["", "MALFORMED RECORDS", *bad] if bad else [])])
