"""A Store in memory for tests of the agent and the controller.

The contract tests run on it and on a real etcd. `put_raw` and `delete_raw` do what `etcdctl put` and `etcdctl
del` would. `outage` makes every method raise and the watch fall silent, until it is set to None again;
`before_commit` runs once, just before the next commit is judged: the place for another controller's write.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from k8s_ovs.config import DEFAULT_PREFIX, NetworkConfig
from k8s_ovs.errors import ConfigError, RecordError, SourceError
from k8s_ovs.model.events import Event, Source, Synced
from k8s_ovs.model.types import AgentReport, FormerSubnet, HostSubnet, Tenant
from k8s_ovs.sources.etcd.ledger import Decoder, Ledger
from k8s_ovs.sources.etcd.rangewatch import Batch, Listing
from k8s_ovs.sources.etcd.reportsaid import ReportsSaid
from k8s_ovs.sources.former import encode_former
from k8s_ovs.sources.records import Keys, Record, config_key, config_keys, encode_report
from k8s_ovs.sources.store import MAX_NEEDS, Change, Snapshot


class FakeStore:
    def __init__(
        self,
        config: NetworkConfig | None = None,
        *,
        prefix: str = DEFAULT_PREFIX,
        network: str | None = None,
    ) -> None:
        self.prefix = prefix
        self.network = network
        self.revision = 1
        self.told = 0
        self.commits: list[Change] = []
        self.before_commit: Callable[[], None] | None = None
        self._outage: SourceError | None = None
        self._data: dict[str, tuple[bytes, int]] = {}
        self._log: list[tuple[int, dict[str, bytes | None]]] = []
        self._problems: dict[str, RecordError] = {}
        self.lost: dict[str, HostSubnet | Tenant] = {}
        """What a watch would have told and a restored store has no more."""
        self._decoder: Decoder | None = None
        self.reporting: dict[str, list[FakePresence]] = {}
        """Who would report under each key; the one that began last does."""
        self._moved = asyncio.Event()
        if config is not None:
            self.put_raw(config_key(prefix), config.to_json())

    # what a test does behind the program's back

    @property
    def outage(self) -> SourceError | None:
        return self._outage

    @outage.setter
    def outage(self, error: SourceError | None) -> None:
        self._outage = error
        self._wake()

    @property
    def keys(self) -> Keys:
        config = self._config()
        if config is None:
            raise ConfigError(
                f"{config_key(self.prefix)}: no network config", remedy="run k8s-ovs init-config"
            )
        return Keys(self.prefix, config.name)

    def put_raw(self, key: str, value: str | bytes) -> None:
        self._write({key: value.encode() if isinstance(value, str) else value})

    def delete_raw(self, key: str) -> None:
        if key in self._data:
            self._write({key: None})

    def put(self, *records: Record) -> None:
        self._write(dict(self.keys.encode(record) for record in records))

    def report(self, *reports: AgentReport) -> None:
        """What agents would tell."""
        keyed = ((self.keys.report(report.host_ip), report) for report in reports)
        self._write({key: encode_report(key, report) for key, report in keyed})

    def put_former(self, *formers: FormerSubnet) -> None:
        self._write(dict(self._encoded(formers)))

    def raw(self) -> dict[str, bytes]:
        return {key: value for key, (value, _) in self._data.items()}

    # the Store protocol

    async def network_config(self) -> NetworkConfig | None:
        self._check()
        return self._config()

    async def create_network_config(self, config: NetworkConfig) -> bool:
        self._check()
        if any(key in self._data for key in config_keys(self.prefix, self.network)):
            return False
        self.put_raw(config_key(self.prefix), config.to_json())
        return True

    async def snapshot(self) -> Snapshot:
        self._check()
        keys, config = self.keys, self._config()
        assert config is not None, "keys raises ConfigError without one"
        entries = sorted((key, value) for key, (value, _) in self._data.items())
        if self._decoder is None or self._decoder.keys != keys:
            self._decoder = Decoder(keys)
        owned = [revision for key, (_, revision) in self._data.items() if keys.owns(key)]
        return replace(self._decoder.snapshot(self.revision, config, entries), newest=max(owned, default=0))

    async def commit(self, change: Change) -> bool:
        keys = self.keys
        puts: list[Record] = [*change.put_subnets, *change.put_namespaces, *change.put_tenants]
        writes: dict[str, bytes | None] = dict(map(keys.encode, puts))
        writes |= {keys.subnet(ip): None for ip in change.delete_subnets}
        writes |= {keys.namespace(name): None for name in change.delete_namespaces}
        writes |= {keys.tenant(name): None for name in change.delete_tenants}
        writes |= self._encoded(change.put_former)
        writes |= {keys.former(host): None for host in change.delete_former}
        hook, self.before_commit = self.before_commit, None
        if hook is not None:
            hook()
        self._check()
        kinds = [(keys.subnets, keys.formers), (keys.namespaces, keys.tenants)]
        compared = tuple(p for kind in kinds for p in kind if any(k.startswith(kind) for k in writes))
        if compared and any(
            revision > change.based_on for k, (_, revision) in self._data.items() if k.startswith(compared)
        ):
            return False
        needs = [keys.tenant(name) for name in change.needs_tenants]
        needs += [keys.namespace(name) for name in change.needs_namespaces]
        assert len(needs) <= MAX_NEEDS
        if not self._data.keys() >= set(needs):
            return False
        self.commits.append(change)
        self._write({k: v for k, v in writes.items() if v is not None or k in self._data})
        return True

    async def watch(self) -> AsyncIterator[Sequence[Event]]:
        while self._outage is not None:
            await self._moved.wait()
        ledger = Ledger(self.keys, self._problems)
        done = self.revision
        owned = {key: held for key, held in sorted(self._data.items()) if self.keys.owns(key)}
        existing = ledger.replace(
            {key: value for key, (value, _) in owned.items()},
            {key: revision for key, (_, revision) in owned.items()},
        )
        self.told = done
        yield [*existing, Synced(Source.HOST_SUBNETS), Synced(Source.TENANTS)]
        while True:
            moved = self._moved
            news = [] if self._outage is not None else [entry for entry in self._log if entry[0] > done]
            for revision, writes in news:
                done = revision
                events = ledger.apply(writes.items(), revision)
                self.told = revision
                if ledger.stirred:
                    yield events
            if not news:
                await moved.wait()

    async def watch_reports(self) -> AsyncIterator[None]:
        while self._outage is not None:
            await self._moved.wait()
        done, prefix = self.revision, self.keys.reports
        said = ReportsSaid()
        existing = {key: value for key, (value, _) in self._data.items() if key.startswith(prefix)}
        said.differs(Listing(existing))
        yield
        while True:
            moved = self._moved
            news = [] if self._outage is not None else [entry for entry in self._log if entry[0] > done]
            done = max([done, *(revision for revision, _ in news)])
            changes = [
                change for _, writes in news for change in writes.items() if change[0].startswith(prefix)
            ]
            if said.differs(Batch(done, changes)):
                yield
            await moved.wait()

    def presence(self) -> "FakePresence":
        return FakePresence(self)

    @property
    def problems(self) -> Mapping[str, RecordError]:
        return dict(self._problems)

    # inside

    def _config(self) -> NetworkConfig | None:
        for key in config_keys(self.prefix, self.network):
            if key in self._data:
                return NetworkConfig.from_json(self._data[key][0], origin=key)
        return None

    def _encoded(self, formers: Iterable[FormerSubnet]) -> dict[str, bytes]:
        keyed = ((self.keys.former(former.host), former) for former in formers)
        return {key: encode_former(key, former) for key, former in keyed}

    def _check(self) -> None:
        if self._outage is not None:
            raise self._outage

    def _write(self, writes: Mapping[str, bytes | None]) -> None:
        if not writes:
            return
        self.revision += 1
        for key, value in writes.items():
            if value is None:
                del self._data[key]
            else:
                self._data[key] = (value, self.revision)
        self._log.append((self.revision, dict(writes)))
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


class FakePresence:
    """A Presence whose report vanishes at once when `run` ends, not some seconds later."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self._news = asyncio.Event()
        self.report: AgentReport | None = None

    def tell(self, report: AgentReport) -> None:
        self.report = report
        self._news.set()

    async def run(self) -> None:
        await self._news.wait()
        assert self.report is not None
        store, key = self._store, self._store.keys.report(self.report.host_ip)
        rivals = store.reporting.setdefault(key, [])
        rivals.append(self)
        try:
            while True:
                self._news.clear()
                if rivals[-1] is self:
                    store.report(self.report)
                await self._news.wait()
        finally:
            rivals.remove(self)
            if not rivals:
                store.delete_raw(key)
            elif rivals[-1].report is not None:
                store.report(rivals[-1].report)
