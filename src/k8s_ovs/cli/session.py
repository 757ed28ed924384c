"""One command's connection to the network's records: read, write on top of what was read, follow.

Used by the commands for tenants and subnets. What a record should say is decided there and by the controller.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from k8s_ovs.cli import options
from k8s_ovs.cli.etcd_settings import etcd_from
from k8s_ovs.cli.output import say
from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import ConfigError, EtcdDenied, SourceError
from k8s_ovs.model.types import HostSubnet
from k8s_ovs.runtime.backoff import Backoff
from k8s_ovs.runtime.logs import QUIET_VERBOSITY, LogSettings, setup_logging
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.store import Change, Snapshot, Store

ATTEMPTS = 20
"""How often a write is tried anew because something else was written in between."""

TIMED_OUT = 3
"""Exit code of `--wait` when the time is over; what was asked for stays asked for."""

EXIT_CODES = """\b
Exit codes:
  0  done (with --wait: complete)
  1  etcd cannot be used, the controller refused, or somebody else changed it meanwhile
  2  wrong usage, or refused by this command; nothing was written
  3  --wait: not complete within --timeout; the request stays, and may still be served
"""


@dataclass(frozen=True, slots=True)
class Session:
    """The store, and the network config that is in force."""

    store: Store
    config: NetworkConfig


@asynccontextmanager
async def opened(flags: options.Options) -> AsyncIterator[Session]:
    """Connect as the flags say. Raises ConfigError while there is no network config, EtcdError without etcd."""
    setup_logging(LogSettings(verbosity=QUIET_VERBOSITY))
    async with EtcdStore(etcd_from(flags), flags["network"] or None) as store:
        config = await store.network_config()
        if config is None:
            raise ConfigError("etcd holds no network config", remedy="write one with `k8s-ovs init-config`")
        yield Session(store, config)


async def commit(store: Store, plan: Callable[[Snapshot], Change | None]) -> bool:
    """Write what `plan` makes of the records, on top of exactly those; again if others were written in between.

    `plan` is asked anew each time, so that what it refuses (it raises) stays refused. False if it had nothing to write.
    Raises SourceError if others are always faster.
    """
    for _ in range(ATTEMPTS):
        change = plan(await store.snapshot())
        if change is None:
            return False
        if await store.commit(change):
            return True
    raise SourceError(
        f"the records were changed by others {ATTEMPTS} times while this command tried to write",
        remedy="run it again",
    )


Next = Callable[[], Awaitable[Snapshot]]


@asynccontextmanager
async def following(store: Store) -> AsyncIterator[Next]:
    """Gives a function that returns a snapshot: at once the first time, then after something has changed.

    An outage is told on stderr, and waited out.
    """
    news = asyncio.Event()
    news.set()

    async def listen(source: AsyncIterator[object]) -> None:
        async for _ in source:
            news.set()

    async def following_snapshot() -> Snapshot:
        await news.wait()
        news.clear()
        return await _patiently(store)

    try:
        async with asyncio.TaskGroup() as tasks:
            sources = {"records": store.watch(), "reports": store.watch_reports()}
            listeners = [tasks.create_task(listen(source), name=name) for name, source in sources.items()]
            try:
                yield following_snapshot
            finally:
                for listener in listeners:
                    listener.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _patiently(store: Store) -> Snapshot:
    backoff, told = Backoff(base=0.2, cap=2.0), False
    while True:
        try:
            return await store.snapshot()
        except EtcdDenied:
            raise
        except SourceError as err:
            if not told:
                told = True
                say(f"still waiting, but {err}")
        await asyncio.sleep(backoff.next())


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def node_names(snapshot: Snapshot) -> dict[IPv4Address, str]:
    """The hosts that a change of a tenant waits for: nodes, by address, in the order of names."""
    nodes = [record for record in snapshot.host_subnets.values() if not record.assign]
    return {record.host_ip: record.host for record in sorted(nodes, key=lambda record: record.host)}


def without_agent(snapshot: Snapshot) -> list[str]:
    """The nodes whose agent has not reported lately: nobody waits for them."""
    return [host for host_ip, host in node_names(snapshot).items() if host_ip not in snapshot.reports]


def is_live(snapshot: Snapshot, record: HostSubnet) -> bool:
    """Whether the host's agent has reported lately."""
    return record.host_ip in snapshot.reports
