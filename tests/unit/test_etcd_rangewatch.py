"""How a watch judges a server that loses or repeats events; real servers are in tests/functional/etcd."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from k8s_ovs.errors import EtcdCompacted, EtcdUnavailable
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.faults import FutureRevision
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.etcd.rangewatch import PROOF_ROUNDS, Batch, Listing, RangeWatch
from k8s_ovs.sources.etcd.settings import EtcdSettings

Answers = list[rpc.WatchResponse | None]


@dataclass
class Server:
    """An etcd with one history; `tells` are the answers of its watch, None for a time of silence."""

    cluster: int = 1
    history: list[tuple[str, bytes | None]] = field(default_factory=list)
    compacted: int = 0
    tells: Answers = field(default_factory=list)
    reads: list[rpc.RangeRequest] = field(default_factory=list)
    watched_from: list[int] = field(default_factory=list)
    endpoint: str = "fake"

    def state(self, at: int) -> dict[str, tuple[int, bytes]]:
        now: dict[str, tuple[int, bytes]] = {}
        for revision, (key, value) in enumerate(self.history[:at], 1):
            now.pop(key, None)
            now.update({} if value is None else {key: (revision, value)})
        return now

    async def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        self.reads.append(request)
        if request.revision > len(self.history):
            raise FutureRevision("future")
        if request.revision and request.revision < self.compacted:
            raise EtcdCompacted("compacted", compact_revision=self.compacted)
        state = {} if request.count_only else self.state(request.revision or len(self.history))
        kvs = [
            rpc.KeyValue(key=k.encode(), mod_revision=revision, value=value)
            for k, (revision, value) in sorted(state.items(), key=lambda item: -item[1][0])
        ]
        header = rpc.ResponseHeader(cluster_id=self.cluster, revision=len(self.history))
        return rpc.RangeResponse(header=header, kvs=kvs[: request.limit or None], count=len(kvs))

    @asynccontextmanager
    async def watch(self, request: rpc.WatchCreateRequest) -> AsyncIterator["Server"]:
        self.watched_from.append(request.start_revision)
        yield self

    async def next(self, patience: float) -> rpc.WatchResponse | None:
        if not self.tells:
            raise EtcdUnavailable("the end")
        return self.tells.pop(0)

    def event(self, revision: int) -> rpc.WatchResponse:
        key, value = self.history[revision - 1]
        kind = rpc.Event.DELETE if value is None else rpc.Event.PUT
        kv = rpc.KeyValue(key=key.encode(), mod_revision=revision, value=value or b"")
        return rpc.WatchResponse(events=[rpc.Event(type=kind, kv=kv)])


def watch() -> RangeWatch:
    return RangeWatch(EtcdClient(EtcdSettings(), probe="/p/config"), "/p/net/")


async def told(following: RangeWatch, server: Server, message: str = "the end") -> list[Listing | Batch]:
    """What is told until the connection fails; without the note that the watch is set up."""
    news: list[Listing | Batch] = []

    async def listen() -> None:
        async for item in following.follow(server):
            if isinstance(item, Listing) or item.changes:
                news.append(item)

    with pytest.raises(EtcdUnavailable, match=message):
        await listen()
    return news


async def test_events_are_told_once_and_in_order() -> None:
    server = Server(history=[("/p/net/a", b"1")])
    following = watch()
    server.history += [("/p/net/b", b"2"), ("/p/net/a", None)]
    first = Server(history=server.history[:1])
    assert await told(following, first) == [Listing({"/p/net/a": b"1"})]
    server.tells = [server.event(1), server.event(2), server.event(2), server.event(3), server.event(2)]
    assert await told(following, server) == [
        Batch(2, [("/p/net/b", b"2")]),
        Batch(3, [("/p/net/a", None)]),
    ]
    assert server.watched_from == [2]


async def test_revisions_in_one_answer_are_batches_of_their_own() -> None:
    server = Server(history=[("/elsewhere", None)])
    following = watch()
    await told(following, server)
    server.history += [("/p/net/a", b"1"), ("/p/net/b", b"2")]
    answer = server.event(2)
    answer.events.append(rpc.Event(kv=rpc.KeyValue(key=b"/p/net/c", mod_revision=2, value=b"1")))
    answer.events.extend(server.event(3).events)
    server.tells = [answer]
    assert await told(following, server) == [
        Batch(2, [("/p/net/a", b"1"), ("/p/net/c", b"1")]),
        Batch(3, [("/p/net/b", b"2")]),
    ]


def rewritten(server: Server) -> None:
    server.history[0] = ("/p/net/a", b"another value")


def shorter(server: Server) -> None:
    server.history = []


def other_keys(server: Server) -> None:
    server.history = [("/p/net/x", b"1"), ("/p/net/y", b"1")]


def other_cluster(server: Server) -> None:
    server.cluster = 2


def compacted(server: Server) -> None:
    server.history += [("/p/net/a", b"1")] * 3
    server.compacted = 4


@pytest.mark.parametrize("change", [rewritten, shorter, other_keys, other_cluster, compacted])
async def test_another_history_is_read_anew(change: Callable[[Server], None]) -> None:
    server = Server(history=[("/p/net/a", b"1")])
    following = watch()
    await told(following, server)
    change(server)
    news = await told(following, server)
    assert news == [Listing({key: value for key, (_, value) in server.state(len(server.history)).items()})]


def bumped(server: Server) -> None:
    """As `etcdctl snapshot restore --bump-revision --mark-compacted` leaves it: b is as it was before it changed."""
    server.history[2:] = [("/elsewhere", None)] * 100
    server.compacted = 103


@pytest.mark.parametrize(
    ("change", "restored"),
    [(compacted, False), (shorter, True), (other_keys, True), (other_cluster, True), (bumped, True)],
)
async def test_a_listing_says_whether_it_is_another_history(
    change: Callable[[Server], None], restored: bool
) -> None:
    server = Server(history=[("/p/net/a", b"1"), ("/p/net/b", b"1"), ("/p/net/b", b"2")])
    following = watch()
    (first,) = await told(following, server)
    change(server)
    (second,) = await told(following, server)
    assert isinstance(first, Listing)
    assert isinstance(second, Listing)
    assert (first.restored, second.restored) == (False, restored)


async def test_the_same_history_is_continued() -> None:
    server = Server(history=[("/p/net/a", b"1"), ("/p/net/b", b"1"), ("/p/net/b", None)])
    following = watch()
    await told(following, server)
    server.history += [("/p/net/c", b"1")]
    assert await told(following, server) == []
    assert server.watched_from == [4, 4]


async def test_silence_is_questioned() -> None:
    server = Server(history=[("/p/net/a", b"1")])
    server.tells = [None] * (PROOF_ROUNDS - 1)
    following = watch()
    await told(following, server)
    assert [read.key for read in server.reads[1:]] == [b"/p/config"] * (PROOF_ROUNDS - 1)


async def test_a_proof_moves_the_point_to_continue_from() -> None:
    server = Server(history=[("/p/net/a", b"1")])
    following = watch()
    await told(following, server)
    busy = Server(history=[("/p/net/a", b"1")] + [("/elsewhere", None)] * 5, tells=[None] * PROOF_ROUNDS)
    await told(following, busy)
    busy.compacted = 6
    assert await told(following, busy) == []
    assert busy.watched_from == [2, 7]


@pytest.mark.parametrize("lost", [("/p/net/b", b"1"), ("/p/net/a", None), ("/p/net/a", b"2")])
async def test_an_event_that_never_came_is_noticed(lost: tuple[str, bytes | None]) -> None:
    server = Server(history=[("/p/net/a", b"1")])
    following = watch()
    await told(following, server)
    server.history.append(lost)
    server.tells = [None] * 1000
    await told(following, server, "does not tell what a read shows")
    assert len(server.tells) == 1000 - PROOF_ROUNDS - 1
    assert server.watched_from[-1] == 2


async def test_an_event_that_comes_a_little_later_is_no_reason_to_give_up() -> None:
    server = Server(history=[("/p/net/a", b"1")])
    following = watch()
    await told(following, server)
    server.history.append(("/p/net/b", b"1"))
    server.tells = [*[None] * PROOF_ROUNDS, server.event(2), *[None] * PROOF_ROUNDS]
    assert await told(following, server) == [Batch(2, [("/p/net/b", b"1")])]
    assert not server.tells
