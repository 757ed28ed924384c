"""A watch of all keys with one prefix that survives what happens to servers.

The store's watch runs on it. It tells what exists once (Listing) and then every revision (Batch) in order,
none twice and none left out, over lost connections, restarted and hung servers. Only when the history that it
followed is gone (compacted, or etcd was restored from an older snapshot) does it tell a new Listing; the
ledger finds the differences, and is told if it is another history.

How it knows:

- It continues at the revision after the last one told, after asking, with a linearizable read, whether the server's
  history at that revision ends with what was told: a restored server may have reached the same number another way.
- When nothing comes for a while, the server is asked for a linearizable read, with a deadline: a stopped process
  keeps its connections, and a member that lost the others keeps its watches.
- Now and then that read compares the newest change in the range with what was told. If they agree, everything up to
  the server's present revision is known, so that a quiet range is not left behind by compaction; if they do not
  agree twice, the watch has lost something, and is set up anew.
"""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from k8s_ovs.errors import EtcdCompacted, EtcdUnavailable
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.connection import Connection, WatchReader
from k8s_ovs.sources.etcd.faults import FutureRevision
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.records import range_end

logger = logging.getLogger(__name__)

PROOF_ROUNDS = 20
"""Silent rounds of the watchdog between two comparisons, which cost the server a read of the whole range."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything that exists, by key; and the revision that wrote it last.

    `restored`: this is not the history that was told before. Nothing says that what is missing was ever deleted.
    """

    entries: Mapping[str, bytes]
    revisions: Mapping[str, int] = field(default_factory=dict, compare=False)
    restored: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one revision changed; None is a deletion. An empty one says that the watch is set up (again)."""

    revision: int
    changes: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class _Entry:
    revision: int
    value: bytes


class RangeWatch:
    """Follows the keys that start with `prefix`.

    `follow` runs on one connection; call it again when it failed.
    """

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._key, self._end = prefix.encode(), range_end(prefix)
        self._entries: dict[str, _Entry] = {}
        self._cluster = 0
        self._revision = 0
        """All that happened up to here was told; 0 is nothing."""
        self._silent = 0
        self._doubt = False
        self._restored = False

    async def follow(self, connection: Connection) -> AsyncGenerator[Listing | Batch, None]:
        """What is new, until `connection` fails; ends when there is one with newer credentials.

        Raises EtcdUnavailable, EtcdDenied.

        EtcdCompacted: the watch fell behind compaction; call again at once, and it begins with a Listing.
        """
        if not await self._continues(connection):
            yield await self._list(connection)
        self._silent, self._doubt = 0, False
        request = rpc.WatchCreateRequest(
            key=self._key, range_end=self._end, start_revision=self._revision + 1
        )
        async with connection.watch(request) as reader:
            yield Batch(self._revision, ())
            while not await self._client.outdated(connection):
                for batch in await self._next(connection, reader):
                    yield batch

    async def _continues(self, connection: Connection) -> bool:
        """Whether the server's history contains what was told."""
        self._restored = False
        if not self._revision:
            return False
        try:
            then = await connection.range(self._newest(at=self._revision))
        except EtcdCompacted as err:
            logger.info("%s: reading all records anew", err)
            return False
        except FutureRevision as err:
            self._restored = True
            logger.warning("%s: etcd has an older state than before; reading all records anew", err)
            return False
        if then.header.cluster_id == self._cluster and self._agrees(then):
            return True
        self._restored = True
        logger.warning(
            "etcd %s has another history than before: reading all records anew", connection.endpoint
        )
        return False

    async def _list(self, connection: Connection) -> Listing:
        answer = await connection.range(rpc.RangeRequest(key=self._key, range_end=self._end))
        before, header = self._entries, answer.header
        self._entries = {_text(kv.key): _Entry(kv.mod_revision, kv.value) for kv in answer.kvs}
        if self._revision and (header.cluster_id != self._cluster or header.revision < self._revision):
            self._restored = True
        # What a restore with --bump-revision --mark-compacted shows as compaction: no key's revision ever falls.
        self._restored |= any(
            key in before and entry.revision < before[key].revision for key, entry in self._entries.items()
        )
        self._cluster, self._revision = header.cluster_id, header.revision
        return Listing(
            {key: entry.value for key, entry in self._entries.items()},
            {key: entry.revision for key, entry in self._entries.items()},
            self._restored,
        )

    async def _next(self, connection: Connection, reader: WatchReader) -> list[Batch]:
        answer = await reader.next(self._client.settings.watchdog)
        if answer is None:
            await self._prove(connection)
            return []
        self._silent, self._doubt = 0, False
        fresh = [event for event in answer.events if event.kv.mod_revision > self._revision]
        return [self._apply(revision, list(events)) for revision, events in groupby(fresh, _revision_of)]

    def _apply(self, revision: int, events: list[rpc.Event]) -> Batch:
        changes: list[tuple[str, bytes | None]] = []
        for event in events:
            key = _text(event.kv.key)
            if event.type == rpc.Event.DELETE:
                self._entries.pop(key, None)
                changes.append((key, None))
            else:
                self._entries[key] = _Entry(revision, event.kv.value)
                changes.append((key, event.kv.value))
        self._revision = revision
        return Batch(revision, changes)

    async def _prove(self, connection: Connection) -> None:
        """Ask a silent server whether it lives, and now and then whether anything was lost."""
        self._silent += 1
        if self._silent % PROOF_ROUNDS and not self._doubt:
            await connection.range(self._client.probe)
            return
        now = await connection.range(self._newest())
        if self._agrees(now):
            self._revision, self._doubt = max(self._revision, now.header.revision), False
        elif not self._doubt:
            self._doubt = True  # an event may be under way at this moment: the next round decides
        else:
            raise EtcdUnavailable(f"etcd {connection.endpoint}: the watch does not tell what a read shows")

    def _newest(self, at: int = 0) -> rpc.RangeRequest:
        """A read of the newest key of the range and of their number, now or `at` a revision."""
        return rpc.RangeRequest(
            key=self._key,
            range_end=self._end,
            limit=1,
            revision=at,
            sort_order=rpc.RangeRequest.DESCEND,
            sort_target=rpc.RangeRequest.MOD,
        )

    def _agrees(self, answer: rpc.RangeResponse) -> bool:
        """Whether the answer to `_newest` fits what was told: then no change between is missing.

        A key that was written since would be the newest, and one that was deleted since is missing in the
        count.
        """
        if answer.count != len(self._entries):
            return False
        if not answer.kvs:
            return True
        newest = answer.kvs[0]
        known = self._entries.get(_text(newest.key))
        return known == _Entry(newest.mod_revision, newest.value)


def _revision_of(event: rpc.Event) -> int:
    return event.kv.mod_revision


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
