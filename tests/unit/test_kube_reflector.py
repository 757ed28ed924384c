"""The reflector against a scripted API server: each trap that other libraries fell into."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from fakes.kube_script import (
    AutoClock,
    Reply,
    ScriptServer,
    Stream,
    bookmark,
    line,
    listing,
    obj,
    scripted,
    status,
)
from k8s_ovs.errors import KubeDenied, KubeUnavailable
from k8s_ovs.sources.kube.backoff import Backoff
from k8s_ovs.sources.kube.client import KubeClient, WatchTimes
from k8s_ovs.sources.kube.objects import NODES, PODS, Node
from k8s_ovs.sources.kube.reflector import (
    OBEYED_SECONDS,
    Deleted,
    InSync,
    Pace,
    Reflector,
    Upserted,
)

PATH = "/api/v1/nodes"
DEADLINE = 20.0
"""Seconds of real time after which a test that waits for a batch has failed."""

Told = Sequence[Upserted[Node] | Deleted | InSync]


class Watcher:
    """A reflector, its server and its clock, and what it has told so far as short texts."""

    def __init__(self, server: ScriptServer, client: KubeClient, clock: AutoClock, times: WatchTimes) -> None:
        self.server = server
        self.clock = clock
        backoff = Backoff(random=random.Random(1))
        self.reflector = Reflector(client, NODES, pace=Pace(clock, times, backoff))
        self.stream = self.reflector.watch()

    async def next(self) -> list[str]:
        async with asyncio.timeout(DEADLINE):
            return [short(change) for change in await anext(self.stream)]

    async def take(self, count: int) -> list[str]:
        """The next `count` changes, however they are batched."""
        taken: list[str] = []
        while len(taken) < count:
            taken += await self.next()
        assert len(taken) == count
        return taken

    def lists(self) -> int:
        return len(self.server.requests("GET", PATH))

    def watches(self) -> list[str]:
        """The versions that watches were started from."""
        return [seen.query["resourceVersion"] for seen in self.server.requests("GET", PATH, watch=True)]


def short(change: Upserted[Node] | Deleted | InSync) -> str:
    match change:
        case Upserted(item):
            return f"{item.metadata.name}@{item.metadata.resource_version}"
        case Deleted(namespace, name):
            return f"-{namespace}/{name}".replace("-/", "-")
        case InSync():
            return "sync"


@asynccontextmanager
async def watcher(times: WatchTimes | None = None) -> AsyncIterator[Watcher]:
    clock = AutoClock()
    async with scripted(clock) as (server, client):
        made = Watcher(server, client, clock, times or WatchTimes())
        async with aclosing(made.stream):
            yield made


def watch_answers(made: Watcher, *answers: Reply | Stream) -> None:
    made.server.on("GET", PATH, *answers, watch=True)


async def test_everything_then_insync_then_changes() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10, obj("a", 3), obj("b", 7)))
        events = line("ADDED", obj("c", 11)) + line("MODIFIED", obj("a", 12)) + line("DELETED", obj("b", 13))
        watch_answers(w, Stream([events], end="hang"))
        assert await w.take(3) == ["a@3", "b@7", "sync"]
        assert await w.take(3) == ["c@11", "a@12", "-b"]
        assert w.watches() == ["10"]
        query = w.server.requests("GET", PATH, watch=True)[0].query
        assert query["allowWatchBookmarks"] == "true"
        assert 300 <= int(query["timeoutSeconds"]) <= 450


async def test_an_empty_cluster_is_in_sync() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, Reply({"metadata": {"resourceVersion": "5"}, "items": None}))
        assert await w.next() == ["sync"]


async def test_list_bookmark_close_410_gap_outage() -> None:
    """The sequence on which every library that was tried failed (see docs: dependencies)."""
    async with watcher() as w:
        w.server.on(
            "GET", PATH, listing(10, obj("a", 3), obj("b", 7)), listing(30, obj("a", 3), obj("c", 25))
        )
        gone = line("ERROR", status(410, "Expired", "too old resource version: 20 (29)"))
        watch_answers(w, Stream([bookmark(20)]), Stream([gone]), Stream(end="hang"))
        assert await w.take(3) == ["a@3", "b@7", "sync"]
        # Only the differences: a is not repeated, b vanished in the gap, and InSync is not told again.
        assert await w.take(2) == ["c@25", "-b"]
        assert w.watches()[:2] == ["10", "20"]

        following = asyncio.ensure_future(w.take(1))
        await asyncio.wait_for(w.server.watching.wait(), DEADLINE)
        assert w.watches() == ["10", "20", "30"]
        before, slept = len(w.server.seen), len(w.clock.sleeps)
        w.clock.at(w.clock.elapsed + 5.0, w.server.start)
        watch_answers(w, Stream([line("MODIFIED", obj("a", 31))], end="hang"))
        await w.server.stop()
        assert await following == ["a@31"]
        # Resumed where it was, without a list, after few attempts with pauses between them.
        assert w.watches()[3:] == ["30"]
        assert w.lists() == 2
        assert len(w.server.seen) == before + 1
        attempts = len(w.clock.sleeps) - slept
        assert 2 <= attempts <= 15


async def test_clean_closes_resume_from_the_bookmark_without_a_list() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10, obj("a", 3)))
        closes = [Stream([bookmark(20 + number)]) for number in range(5)]
        watch_answers(w, *closes, Stream([line("ADDED", obj("b", 40))], end="hang"))
        assert await w.take(2) == ["a@3", "sync"]
        assert await w.take(1) == ["b@40"]
        assert w.watches() == ["10", "20", "21", "22", "23", "24"]
        assert w.lists() == 1


async def test_a_server_that_closes_at_once_is_not_hammered() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10))
        watch_answers(w, *[Stream() for _ in range(40)], Stream([line("ADDED", obj("a", 11))], end="hang"))
        assert await w.next() == ["sync"]
        assert await w.take(1) == ["a@11"]
        assert len(w.clock.sleeps) == 40
        assert max(w.clock.sleeps) <= 15.0
        assert sum(w.clock.sleeps[-20:]) > 60


async def test_410_again_and_again_is_not_a_hot_loop() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, *[listing(10 + number, obj("a", 3)) for number in range(31)])
        gone = [Reply(status(410, "Expired"), status=410) for _ in range(30)]
        watch_answers(w, *gone, Stream([line("ADDED", obj("b", 99))], end="hang"))
        assert await w.take(2) == ["a@3", "sync"]
        assert await w.take(1) == ["b@99"]
        assert len(w.clock.sleeps) == 30
        assert sum(w.clock.sleeps) > 60


async def test_a_watch_that_lived_resumes_at_once() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10))
        clock = w.clock
        lived = Stream([line("ADDED", obj("a", 11))])
        watch_answers(w, lived, Stream([line("ADDED", obj("b", 12))], end="hang"))
        assert await w.next() == ["sync"]
        assert await w.take(1) == ["a@11"]
        clock.elapsed += 300.0
        assert await w.take(1) == ["b@12"]
        assert clock.sleeps == []


async def test_410_as_status_lists_anew() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10, obj("a", 3)), listing(30, obj("a", 21)))
        watch_answers(w, Reply(status(410, "Expired"), status=410))
        assert await w.take(2) == ["a@3", "sync"]
        assert await w.take(1) == ["a@21"]


async def test_an_object_replaced_in_the_gap_is_told_as_it_is_now() -> None:
    async with watcher() as w:
        again = obj("a", 25)
        again["metadata"]["uid"] = "another"
        w.server.on("GET", PATH, listing(10, obj("a", 3)), listing(30, again))
        watch_answers(w, Stream([line("ERROR", status(410, "Expired"))]))
        assert await w.take(2) == ["a@3", "sync"]
        assert await w.take(1) == ["a@25"]


async def test_another_error_in_the_stream_resumes_without_a_list() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10))
        error = line("ADDED", obj("a", 11)) + line(
            "ERROR", status(500, "InternalError", "etcd leader changed")
        )
        watch_answers(w, Stream([error]), Stream([line("ADDED", obj("b", 12))], end="hang"))
        assert await w.next() == ["sync"]
        assert await w.take(2) == ["a@11", "b@12"]
        assert w.watches() == ["10", "11"]
        assert w.lists() == 1


async def test_a_broken_connection_resumes_without_loss_or_repeat() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10))
        half = line("ADDED", obj("b", 12))[:20]
        watch_answers(
            w,
            Stream([line("ADDED", obj("a", 11)) + half], end="abort"),
            Stream([line("ADDED", obj("a", 11)), line("ADDED", obj("b", 12))], end="hang"),
        )
        assert await w.next() == ["sync"]
        assert await w.take(2) == ["a@11", "b@12"]
        assert w.watches() == ["10", "11"]


@pytest.mark.parametrize("times", [WatchTimes(server=60, silence=0.05), WatchTimes(server=0.02, grace=0.05)])
async def test_a_silent_connection_is_given_up(times: WatchTimes) -> None:
    """Half-open: the server neither says anything nor closes."""
    async with watcher(times) as w:
        w.server.on("GET", PATH, listing(10))
        change = Stream([line("ADDED", obj("a", 11))], end="hang")
        watch_answers(w, Stream([bookmark(10)], end="hang"), change)
        assert await w.next() == ["sync"]
        assert await w.take(1) == ["a@11"]
        assert w.watches() == ["10", "10"]


async def test_an_expired_continue_token_reads_everything_anew() -> None:
    async with watcher() as w:
        expired = Reply(status(410, "Expired", "The provided continue parameter is too old"), status=410)
        first = listing(10, obj("a", 3), obj("b", 4), token="next")
        w.server.on("GET", PATH, first, expired, listing(20, obj("b", 4), obj("c", 15)))
        assert await w.take(2) == ["a@3", "b@4"]
        # a was told from the first page and is not there any more.
        assert await w.take(3) == ["c@15", "-a", "sync"]
        queries = [seen.query for seen in w.server.requests("GET", PATH)]
        assert queries == [{"limit": "500"}, {"limit": "500", "continue": "next"}, {}]


async def test_pages_belong_together() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10, obj("a", 3), token="next"), listing(10, obj("b", 4)))
        assert await w.take(3) == ["a@3", "b@4", "sync"]
        w.server.on("GET", PATH, listing(20, obj("a", 3), token="more"), listing(20, obj("b", 4)))
        watch_answers(
            w, Reply(status(410, "Expired"), status=410), Stream([line("ADDED", obj("c", 21))], end="hang")
        )
        assert await w.take(1) == ["c@21"]


async def test_a_list_that_fails_midway_tells_nothing_twice() -> None:
    async with watcher() as w:
        bad = Reply(status(500, "InternalError"), status=500)
        first = listing(10, obj("a", 3), token="next")
        w.server.on("GET", PATH, first, bad, listing(11, obj("a", 3), obj("b", 4)))
        assert await w.take(1) == ["a@3"]
        assert await w.take(2) == ["b@4", "sync"]
        assert w.reflector.error is not None


async def test_malformed_objects_are_skipped_and_remembered() -> None:
    async with watcher() as w:
        bad = obj("bad", 4, spec={"unschedulable": "perhaps"})
        w.server.on("GET", PATH, listing(10, obj("a", 3), bad, obj("b", 7)))
        worse = line("MODIFIED", obj("a", 11, status={"addresses": "nowhere"}))
        watch_answers(w, Stream([worse + line("ADDED", obj("c", 12))], end="close"))
        assert await w.take(3) == ["a@3", "b@7", "sync"]
        assert await w.take(1) == ["c@12"]
        problems = w.reflector.problems
        assert set(problems) == {("", "bad"), ("", "a")}
        assert "Node bad" in str(problems["", "bad"])
        assert "unschedulable" in str(problems["", "bad"])

        healed = line("MODIFIED", obj("a", 13)) + line("DELETED", bad)
        watch_answers(w, Stream([healed], end="hang"))
        assert await w.take(1) == ["a@13"]
        assert w.watches()[1] == "12"
        assert not w.reflector.problems


async def test_an_object_that_became_malformed_in_the_gap_is_not_told_as_deleted() -> None:
    async with watcher() as w:
        bad = obj("a", 20, spec=17)
        w.server.on("GET", PATH, listing(10, obj("a", 3), obj("b", 4)), listing(30, bad), listing(40))
        gone = Reply(status(410, "Expired"), status=410)
        watch_answers(w, gone, gone)
        assert await w.take(3) == ["a@3", "b@4", "sync"]
        assert await w.take(1) == ["-b"]
        assert set(w.reflector.problems) == {("", "a")}
        assert await w.take(1) == ["-a"]
        assert not w.reflector.problems


async def test_lines_of_megabytes_in_small_pieces() -> None:
    async with watcher() as w:
        big = obj("a", 11)
        big["metadata"]["annotations"] = {"big": "x" * 2_000_000}
        whole = line("ADDED", big) + line("ADDED", obj("b", 12))
        pieces = [whole[start : start + 65_000] for start in range(0, len(whole), 65_000)]
        w.server.on("GET", PATH, listing(10))
        watch_answers(w, Stream(pieces, end="hang"))
        assert await w.next() == ["sync"]
        assert await w.take(2) == ["a@11", "b@12"]


async def test_a_store_restored_from_a_backup_is_read_anew_in_full() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(1000, obj("a", 900), obj("b", 950)), listing(920, obj("a", 900)))
        watch_answers(w, Stream([bookmark(915)]))
        assert await w.take(3) == ["a@900", "b@950", "sync"]
        # a@900 may be another a@900 now: versions are given out again.
        assert await w.take(2) == ["a@900", "-b"]
        assert w.watches()[0] == "1000"


async def test_a_version_from_the_future_is_read_anew() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10, obj("a", 3)), listing(5, obj("b", 4)))
        too_large = status(
            504, "Timeout", "Too large resource version", causes=[{"reason": "ResourceVersionTooLarge"}]
        )
        watch_answers(w, Reply(too_large, status=504))
        assert await w.take(2) == ["a@3", "sync"]
        assert await w.take(2) == ["b@4", "-a"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Reply(status(403, "Forbidden", "nodes is forbidden"), status=403), KubeDenied),
        (Reply(b"<html>gateway</html>", status=502), KubeUnavailable),
        (Reply(b"<html>welcome</html>", status=200), KubeUnavailable),
        (Reply({"metadata": {}, "items": []}), Exception),
    ],
)
async def test_a_list_that_fails_is_tried_again(answer: Reply, kind: type[Exception]) -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, answer, answer, listing(10))
        watch_answers(w, Stream([line("ADDED", obj("a", 11))], end="hang"))
        assert await w.next() == ["sync"]
        assert isinstance(w.reflector.error, kind)
        assert len(w.clock.sleeps) == 2
        assert await w.take(1) == ["a@11"]
        assert w.reflector.error is None


async def test_selection_and_namespace_are_sent() -> None:
    clock = AutoClock()
    async with scripted(clock) as (server, client):
        path = "/api/v1/namespaces/red/pods"
        server.on("GET", path, listing(10, obj("p", 3, "red", spec={"nodeName": "n1", "containers": None})))
        reflector = Reflector(client, PODS, "red", "spec.nodeName=n1", "app=web", Pace(clock))
        async with aclosing(reflector.watch()) as stream:
            told: list[Any] = list(await anext(stream))
        assert told[0].object.key == ("red", "p")
        query = server.requests("GET", path)[0].query
        assert (query["fieldSelector"], query["labelSelector"]) == ("spec.nodeName=n1", "app=web")


async def test_a_second_watch_begins_anew() -> None:
    async with watcher() as w:
        w.server.on("GET", PATH, listing(10, obj("a", 3)), listing(10, obj("a", 3)))
        assert await w.take(2) == ["a@3", "sync"]
        await w.stream.aclose()
        w.stream = w.reflector.watch()
        async with aclosing(w.stream):
            assert await w.take(2) == ["a@3", "sync"]


@pytest.mark.parametrize(("wish", "least"), [("45", 45.0), ("9999", OBEYED_SECONDS)])
@pytest.mark.parametrize("code", [429, 503])
async def test_a_server_that_wants_to_be_left_alone_is(wish: str, least: float, code: int) -> None:
    """For longer than one call may take; and not all who were told so come back in the same moment."""
    async with watcher() as w:
        busy = Reply(status(code, "TooManyRequests"), status=code, headers={"Retry-After": wish})
        w.server.on("GET", PATH, busy, busy, listing(10))
        assert await w.next() == ["sync"]
        assert all(least < slept <= least + 0.4 for slept in w.clock.sleeps)
        assert len(w.clock.sleeps) == 2


def test_backoff_grows_with_full_jitter_up_to_its_cap() -> None:
    many = [
        [backoff.next() for _ in range(12)]
        for backoff in (Backoff(random=random.Random(seed)) for seed in range(200))
    ]
    for number in range(12):
        column = [delays[number] for delays in many]
        top = min(15.0, 0.2 * 2**number)
        assert 0.05 <= min(column) <= 0.2 * top + 0.05
        assert 0.8 * top <= max(column) <= top


def test_backoff_starts_anew_after_reset() -> None:
    backoff = Backoff()
    for _ in range(50):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.2
