"""The network's records in etcd: the Store of both daemons.

The agent watches it, the controller reads snapshots and commits changes that compare, and `init-config`
writes the network config. What a record should say is decided elsewhere.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType

from k8s_ovs.config import NetworkConfig
from k8s_ovs.errors import ConfigError, EtcdCompacted, EtcdDenied, EtcdError, RecordError, SourceError
from k8s_ovs.model.events import Event, Source, Synced
from k8s_ovs.model.types import HostSubnet, NetNamespace
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.connection import Connection
from k8s_ovs.sources.etcd.ledger import Ledger, decode_all
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.etcd.rangewatch import Batch, Listing, RangeWatch
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.records import Keys, Record, config_key, config_keys, range_end
from k8s_ovs.sources.store import Change, Snapshot

logger = logging.getLogger(__name__)

FAN = 42
"""Operations on one level of a transaction.

etcd allows 128 (--max-txn-ops) and takes from a nested transaction what the levels above it have used: three
levels of 42 fit, which is 74,088 records in one.
"""

RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds between two attempts of a watch to reach any endpoint: doubled from the first to the most, with jitter."""


class EtcdStore:
    """The records of one network; a Store.

    `network` is the seed's option `--network`: whose config to prefer, if there is one. Use it as an async context
    manager, or call `close`.
    """

    def __init__(self, settings: EtcdSettings, network: str | None = None) -> None:
        self._settings = settings
        self._config_keys = config_keys(settings.prefix, network)
        self._client = EtcdClient(settings, probe=self._config_keys[0])
        self._keys: Keys | None = None
        self._problems: dict[str, RecordError] = {}
        self._outage: SourceError | None = None

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
    def outage(self) -> SourceError | None:
        """See Store."""
        return self._outage

    async def network_config(self) -> NetworkConfig | None:
        """See Store."""
        for key in self._config_keys:
            answer = await self._client.range(rpc.RangeRequest(key=key.encode()))
            if answer.kvs:
                config = NetworkConfig.from_json(answer.kvs[0].value, origin=f"etcd key {key}")
                self._keys = Keys(self._settings.prefix, config.name)
                return config
        return None

    async def create_network_config(self, config: NetworkConfig) -> bool:
        """See Store. Written to PREFIX/config; a config under any of the keys that we read counts as there."""
        absent = [
            rpc.Compare(
                result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key.encode(), create_revision=0
            )
            for key in self._config_keys
        ]
        put = _put(config_key(self._settings.prefix), config.to_json().encode())
        answer = await self._client.write_txn(rpc.TxnRequest(compare=absent, success=[put]))
        return answer.succeeded

    async def snapshot(self) -> Snapshot:
        """See Store. Raises ConfigError while there is no network config: it names the records' folder."""
        keys = await self._named()
        request = rpc.TxnRequest(success=[_read(keys.subnets), _read(keys.namespaces)])
        answer = await self._client.read_txn(request)
        entries = [
            (kv.key.decode(errors="backslashreplace"), kv.value)
            for part in answer.responses
            for kv in part.response_range.kvs
        ]
        records, problems = decode_all(keys, entries)
        return Snapshot(
            answer.header.revision,
            {record.host_ip: record for record in records.values() if isinstance(record, HostSubnet)},
            {record.name: record for record in records.values() if isinstance(record, NetNamespace)},
            problems,
        )

    async def commit(self, change: Change) -> bool:
        """See Store.

        Raises EtcdUnavailable when it is unknown whether the change was made: read a snapshot to see.
        RecordError if a record to write is one that nobody could read; ConfigError while there is no network
        config.
        """
        keys = await self._named()
        puts: list[Record] = [*change.put_subnets, *change.put_namespaces]
        writes = [_put(*keys.encode(record)) for record in puts]
        writes += [_delete(keys.subnet(host_ip)) for host_ip in change.delete_subnets]
        writes += [_delete(keys.namespace(name)) for name in change.delete_namespaces]
        compare = []
        if change.put_subnets or change.delete_subnets:
            compare.append(_unchanged(keys.subnets, change.based_on))
        if change.put_namespaces or change.delete_namespaces:
            compare.append(_unchanged(keys.namespaces, change.based_on))
        if not writes:
            return True
        answer = await self._client.write_txn(rpc.TxnRequest(compare=compare, success=_nested(writes)))
        return answer.succeeded

    async def watch(self) -> AsyncIterator[Sequence[Event]]:
        """See Store.

        Raises ConfigError if there is no network config or an invalid one, and EtcdDenied if we are refused
        before the first batch; afterwards a refusal is an outage like others (`outage` tells), as
        certificates can be exchanged.
        """
        teller: _Teller | None = None
        delays = _delays()
        while True:
            connection: Connection | None = None
            try:
                connection = await self._client.connection()
                if teller is None:
                    teller = _Teller(self._client, await self._named(), self._problems)
                async with aclosing(teller.watch.follow(connection)) as source:
                    async for news in source:
                        self._recovered()
                        delays = _delays()
                        events = teller.events(news)
                        if events is not None:
                            yield events
            except EtcdCompacted as err:
                logger.info("%s: reading all records anew", err)
                continue
            except EtcdError as err:
                if isinstance(err, EtcdDenied) and (teller is None or not teller.synced):
                    raise
                self._client.drop(connection)
                self._failed(err)
            await asyncio.sleep(next(delays))

    async def _named(self) -> Keys:
        if self._keys is None:
            await self.network_config()
        if self._keys is None:
            raise ConfigError(
                f"etcd key {self._config_keys[0]}: no network config",
                remedy="write one with k8s-ovs init-config",
            )
        return self._keys

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


class _Teller:
    """What one watch has told, and how it goes on."""

    def __init__(self, client: EtcdClient, keys: Keys, problems: dict[str, RecordError]) -> None:
        self.watch = RangeWatch(client, keys.root)
        self.synced = False
        self._keys = keys
        self._ledger = Ledger(keys, problems)
        self._problems = problems

    def events(self, news: Listing | Batch) -> list[Event] | None:
        """What there is to tell about `news`, empty if only malformed records came or went; None: nothing at all."""
        before = dict(self._problems)
        if isinstance(news, Batch):
            events = self._ledger.apply(news.changes, news.revision)
            # Whether `problems` changed would not do: two watches of one store share them.
            silent = not any(self._keys.owns(key) for key, _ in news.changes)
        else:
            events = self._ledger.replace(news.entries, news.revisions)
            silent = not events and self._problems.keys() == before.keys()
            if not self.synced:
                self.synced = True
                events += [Synced(Source.HOST_SUBNETS), Synced(Source.NET_NAMESPACES)]
        for key, problem in self._problems.items():
            if str(before.get(key)) != str(problem):
                logger.warning("malformed record skipped: %s", problem)
        return None if silent and not events else events


def _delays() -> Iterator[float]:
    delay = RETRY_FIRST
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        delay = min(2 * delay, RETRY_MOST)


def _read(prefix: str) -> rpc.RequestOp:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=prefix.encode(), range_end=range_end(prefix)))


def _put(key: str, value: bytes) -> rpc.RequestOp:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=value))


def _delete(key: str) -> rpc.RequestOp:
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key.encode()))


def _unchanged(prefix: str, since: int) -> rpc.Compare:
    """True if no key with `prefix` was created or modified after revision `since` (an empty range is fine)."""
    return rpc.Compare(
        result=rpc.Compare.LESS,
        target=rpc.Compare.MOD,
        key=prefix.encode(),
        range_end=range_end(prefix),
        mod_revision=since + 1,
    )


def _nested(operations: list[rpc.RequestOp]) -> list[rpc.RequestOp]:
    """The same operations on at most FAN operations a level."""
    while len(operations) > FAN:
        operations = [
            rpc.RequestOp(request_txn=rpc.TxnRequest(success=operations[start : start + FAN]))
            for start in range(0, len(operations), FAN)
        ]
    return operations
