"""The network's records in etcd: the Store of both daemons.

The agent watches it, the controller reads snapshots and commits changes that compare, and `init-config`
writes the network config. What a record should say is decided elsewhere.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType

from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import ConfigError, RecordError, SourceError
from k8s_ovs.model.events import Event, Source, Synced
from k8s_ovs.model.types import HostSubnet, Tenant
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.connection import Connection
from k8s_ovs.sources.etcd.following import Following
from k8s_ovs.sources.etcd.ledger import Decoder, Ledger
from k8s_ovs.sources.etcd.operations import (
    absent,
    delete,
    nested,
    present,
    put,
    read_key,
    read_range,
    unchanged,
)
from k8s_ovs.sources.etcd.presence import PRESENCE_TTL, EtcdPresence
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.etcd.rangewatch import Batch, Listing
from k8s_ovs.sources.etcd.reportsaid import ReportsSaid, told_by
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.former import encode_former
from k8s_ovs.sources.records import Keys, Record, config_key, config_keys
from k8s_ovs.sources.store import Change, Snapshot

logger = logging.getLogger(__name__)

SHOWN = 5
"""Keys in one line of the log."""


class EtcdStore:
    """The records of one network; a Store.

    `network` is the seed's option `--network`: whose config to prefer, if there is one. `presence_ttl` is how many
    seconds the report of an agent that has died stays. Use it as an async context manager, or call `close`.
    """

    def __init__(
        self, settings: EtcdSettings, network: str | None = None, *, presence_ttl: int = PRESENCE_TTL
    ) -> None:
        self._settings = settings
        self._config_keys = config_keys(settings.prefix, network)
        self._client = EtcdClient(settings, probe=self._config_keys[0])
        self._presence_ttl = presence_ttl
        self._decoder: Decoder | None = None
        self._read: tuple[Connection, int] | None = None
        """Over which connection the last snapshot was read, and its revision."""
        self._problems: dict[str, RecordError] = {}
        self._lost: dict[str, HostSubnet | Tenant] = {}
        self._outage: SourceError | None = None
        self._told = 0

    async def __aenter__(self) -> "EtcdStore":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to etcd."""
        self._client.close()

    @property
    def problems(self) -> Mapping[str, RecordError]:
        """See Store."""
        return dict(self._problems)

    @property
    def lost(self) -> Mapping[str, HostSubnet | Tenant]:
        """See Store."""
        return dict(self._lost)

    @property
    def outage(self) -> SourceError | None:
        """See Store."""
        return self._outage

    @property
    def told(self) -> int:
        """See Store."""
        return self._told

    async def network_config(self) -> NetworkConfig | None:
        """See Store."""
        for key in self._config_keys:
            answer = await self._client.range(rpc.RangeRequest(key=key.encode()))
            if answer.kvs:
                return self._configured(key, answer.kvs[0].value)
        return None

    async def create_network_config(self, config: NetworkConfig) -> bool:
        """See Store. Written to PREFIX/config; a config under any of the keys that we read counts as there."""
        written = put(config_key(self._settings.prefix), config.to_json().encode())
        request = rpc.TxnRequest(compare=list(map(absent, self._config_keys)), success=[written])
        return (await self._client.write_txn(request)).succeeded

    async def snapshot(self) -> Snapshot:
        """See Store. One round trip: the network config, which names the records' folder, is read along."""
        while True:
            decoder = await self._decoding()
            keys = decoder.keys
            folders = (keys.subnets, keys.namespaces, keys.tenants, keys.reports, keys.formers)
            ranges = [read_range(folder) for folder in folders]
            request = rpc.TxnRequest(success=[*map(read_key, self._config_keys), *ranges])
            answer, connection = await self._client.read_txn(request)
            entries = [
                (kv.key.decode(errors="backslashreplace"), kv.value)
                for part in answer.responses
                for kv in part.response_range.kvs
            ]
            found = dict(entries[: len(self._config_keys)])
            first = next((key for key in self._config_keys if key in found), None)
            if first is None:
                raise self._no_config()
            config = self._configured(first, found[first])
            if self._decoder is decoder:
                self._read = connection, answer.header.revision
                snapshot = decoder.snapshot(answer.header.revision, config, entries)
                return replace(snapshot, newest=_newest(answer, keys))

    async def commit(self, change: Change) -> bool:
        """See Store.

        It goes over the connection of the last snapshot, or is refused: behind another one may be a server that was
        put back to an older state, where the revisions that are compared mean something else.
        Raises EtcdUnavailable when it is unknown whether the change was made: read a snapshot to see.
        RecordError if a record to write is one that nobody could read; ConfigError while there is no network
        config.
        """
        keys = await self._named()
        puts: list[Record] = [*change.put_subnets, *change.put_namespaces, *change.put_tenants]
        writes = [put(*keys.encode(record)) for record in puts]
        writes += [delete(keys.subnet(host_ip)) for host_ip in change.delete_subnets]
        writes += [delete(keys.namespace(name)) for name in change.delete_namespaces]
        writes += [delete(keys.tenant(name)) for name in change.delete_tenants]
        formers = ((keys.former(each.host), each) for each in change.put_former)
        writes += [put(key, encode_former(key, former)) for key, former in formers]
        writes += [delete(keys.former(host)) for host in change.delete_former]
        compare = []
        former = (change.put_former, change.delete_former)
        if change.put_subnets or change.delete_subnets or any(former):
            compare += [unchanged(prefix, change.based_on) for prefix in (keys.subnets, keys.formers)]
        tenants = (change.put_tenants, change.delete_tenants)
        if change.put_namespaces or change.delete_namespaces or any(tenants):
            compare += [unchanged(prefix, change.based_on) for prefix in (keys.namespaces, keys.tenants)]
        compare += [present(keys.tenant(name)) for name in change.needs_tenants]
        compare += [present(keys.namespace(name)) for name in change.needs_namespaces]
        if not writes:
            return True
        connection, revision = self._read or (None, change.based_on)
        if change.based_on > revision or (connection is not None and not connection.usable):
            return False
        request = rpc.TxnRequest(compare=compare, success=nested(writes))
        return (await self._client.write_txn(request, connection)).succeeded

    async def watch(self) -> AsyncIterator[Sequence[Event]]:
        """See Store.

        Raises ConfigError if there is no network config or an invalid one, and EtcdDenied if we are refused
        before the first batch; afterwards a refusal is an outage like others (`outage` tells), as
        certificates can be exchanged.
        """
        following = Following(self._client, self._root, self._failed, self._recovered)
        teller: _Teller | None = None
        async with aclosing(following.news()) as source:
            async for news in source:
                teller = teller or _Teller(await self._named(), self._problems, self._lost)
                events = teller.events(news)
                self._told = told_by(news)
                if events is not None:
                    yield events

    async def watch_reports(self) -> AsyncIterator[None]:
        """See Store."""
        following = Following(self._client, self._reports)
        said = ReportsSaid()
        async with aclosing(following.news()) as source:
            async for news in source:
                if said.differs(news):
                    yield

    def presence(self) -> EtcdPresence:
        """See Store."""
        return EtcdPresence(self._client, self._named, self._presence_ttl)

    async def _root(self) -> str:
        return (await self._named()).root

    async def _reports(self) -> str:
        return (await self._named()).reports

    async def _named(self) -> Keys:
        return (await self._decoding()).keys

    async def _decoding(self) -> Decoder:
        if self._decoder is None:
            await self.network_config()
        if self._decoder is None:
            raise self._no_config()
        return self._decoder

    def _configured(self, key: str, value: bytes) -> NetworkConfig:
        """The network config; from now on its Name says where the records are."""
        config = NetworkConfig.from_json(value, origin=f"etcd key {key}")
        keys = Keys(self._settings.prefix, config.name)
        if self._decoder is None or self._decoder.keys != keys:
            self._decoder = Decoder(keys)
        return config

    def _no_config(self) -> ConfigError:
        return ConfigError(
            f"etcd key {self._config_keys[0]}: no network config",
            remedy="write one with k8s-ovs init-config",
        )

    def _failed(self, error: SourceError) -> None:
        if self._outage is None:
            logger.warning("no news from etcd: %s", error)
        else:
            logger.debug("still no news from etcd: %s", error)
        self._outage = error

    def _recovered(self) -> None:
        if self._outage is not None:
            logger.info("news from etcd again")
            self._outage = None


def _newest(answer: rpc.TxnResponse, keys: Keys) -> int:
    """The revision of the newest record of the network: of what the watch tells of."""
    pairs = (kv for part in answer.responses for kv in part.response_range.kvs)
    ours = (kv.mod_revision for kv in pairs if keys.owns(kv.key.decode(errors="backslashreplace")))
    return max(ours, default=0)


class _Teller:
    """What one watch has told, and what there is to tell."""

    def __init__(
        self, keys: Keys, problems: dict[str, RecordError], lost: dict[str, HostSubnet | Tenant]
    ) -> None:
        self._synced = False
        self._ledger = Ledger(keys, problems)
        self._problems = problems
        self._lost = lost

    def events(self, news: Listing | Batch) -> list[Event] | None:
        """What there is to tell about `news`, empty if only net namespaces or malformed records came or went.

        None: nothing at all.
        """
        before = dict(self._problems)
        if isinstance(news, Batch):
            events = self._ledger.apply(news.changes, news.revision)
        else:
            events = self._ledger.replace(news.entries, news.revisions, restored=news.restored)
        # Whether `problems` changed would not do: two watches of one store share them.
        stirred = self._ledger.stirred
        self._note_lost()
        if not self._synced and isinstance(news, Listing):
            self._synced = stirred = True
            events += [Synced(Source.HOST_SUBNETS), Synced(Source.TENANTS)]
        for key, problem in self._problems.items():
            if str(before.get(key)) != str(problem):
                logger.warning("malformed record skipped: %s", problem)
        return events if stirred else None

    def _note_lost(self) -> None:
        """Let the store show what etcd has lost, and log what is new of it."""
        lost = self._ledger.lost.records
        if more := sorted(lost.keys() - self._lost.keys()):
            logger.error(
                "etcd was put back to an older state, or emptied: %d records are missing that nobody has deleted; "
                "what they said stays in force (%s)",
                len(more),
                ", ".join(more[:SHOWN]) + (", …" if len(more) > SHOWN else ""),
            )
        elif self._lost and not lost:
            logger.info("no record is missing in etcd any more")
        if lost != self._lost:
            self._lost.clear()
            self._lost.update(lost)
