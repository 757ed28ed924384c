"""List one kind of object and watch it, for as long as the process lives.

Used by the agent (its own Pods) and the controller (Nodes, Namespaces). It keeps names and versions, not objects: what
they mean is the consumer's. It never ends by itself and raises no KubeError: outages are waited out inside.

What ends a watch, and what follows (https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes):

    the server closes it (timeoutSeconds)         watch again from the last version seen (event or bookmark)
    connection broken, silent, 429, 5xx, 401, …   the same, after a pause that grows
    410, as status or as ERROR line               list again and tell only the differences, Deleted included
"""

import dataclasses
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic

from k8s_ovs.errors import KubeError, KubeGone, RecordError
from k8s_ovs.sources.kube.backoff import Backoff
from k8s_ovs.sources.kube.client import KubeClient, Selection, WatchTimes
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock
from k8s_ovs.sources.kube.codec import Codec, Malformed, Page, WatchLine, identity
from k8s_ovs.sources.kube.objects import Resource, T

SETTLED_SECONDS = 5.0
"""A watch that ends younger than this counts as a failure, however it ended: no server can make us busy."""

OBEYED_SECONDS = 60.0
"""The longest Retry-After that is obeyed: whoever asks for more gets no more."""

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""(namespace, name)."""


@dataclass(frozen=True, slots=True)
class Upserted(Generic[T]):
    """The object is this now (new or changed)."""

    object: T


@dataclass(frozen=True, slots=True)
class Deleted:
    """No such object exists; the namespace is empty for cluster-wide kinds."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class InSync:
    """Everything that existed has been told; told once."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a reflector goes; tests hand in their own."""

    clock: Clock = SYSTEM_CLOCK
    times: WatchTimes = field(default_factory=WatchTimes)
    backoff: Backoff = field(default_factory=Backoff)


class Reflector(Generic[T]):
    """Tells what objects exist and how they change. One `watch()` at a time; a second one begins anew."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[T],
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        pace: Pace | None = None,
    ) -> None:
        self._client = client
        self._resource = resource
        self._selection = Selection(namespace, field_selector, label_selector)
        self._pace = pace or Pace()
        self._codec = Codec(resource)
        self._known: dict[Key, str] = {}
        self._problems: dict[Key, RecordError] = {}
        self._revision = ""
        self._in_sync = False
        self._accepted: float | None = None
        self._error: KubeError | None = None

    @property
    def problems(self) -> Mapping[Key, RecordError]:
        """The malformed objects that are there now. What was told of them before they became malformed still stands."""
        return self._problems

    @property
    def error(self) -> KubeError | None:
        """Why nothing is heard from the API server at the moment; None while a watch is open."""
        return self._error

    async def watch(self) -> AsyncGenerator[Sequence[Upserted[T] | Deleted | InSync], None]:
        """Batches without end: everything that exists, InSync once, then changes.

        No version of an object is told twice in a row, whatever happened to the connection. Malformed objects are
        skipped (see `problems`). Close it with contextlib.aclosing.
        """
        self._known.clear()
        self._problems.clear()
        self._revision, self._in_sync = "", False
        while True:
            self._accepted = None
            failure: KubeError | None = None
            try:
                if not self._revision:
                    async with aclosing(self._list()) as batches:
                        async for batch in batches:
                            yield batch
                async with aclosing(self._follow()) as batches:
                    async for batch in batches:
                        yield batch
            except KubeGone as err:
                self._revision, failure = "", err
            except KubeError as err:
                failure = err
            await self._pause(failure)

    async def _list(self) -> AsyncGenerator[Sequence[Upserted[T] | Deleted | InSync], None]:
        seen: set[Key] = set()
        revision = ""
        async with aclosing(self._client.pages(self._resource, self._selection)) as pages:
            async for page in pages:
                if page.first:
                    seen.clear()
                revision = page.resource_version
                changes = self._take_page(page, seen)
                if changes:
                    yield changes
        if not revision:
            raise KubeError(
                f"list of {self._resource.plural}: the answer has no resourceVersion to watch from"
            )
        last: list[Upserted[T] | Deleted | InSync] = list(self._forget_all_but(seen))
        if not self._in_sync:
            last.append(InSync())
        self._revision, self._in_sync = revision, True
        if last:
            yield last

    def _take_page(self, page: Page[T], seen: set[Key]) -> list[Upserted[T] | Deleted | InSync]:
        seen.update(item.key for item in page.items)
        seen.update(item.identity.key for item in page.malformed)
        for malformed in page.malformed:
            self._remember(malformed)
        changes = (self._upsert(item) for item in page.items)
        return [change for change in changes if change is not None]

    def _forget_all_but(self, seen: set[Key]) -> list[Deleted]:
        for key in self._problems.keys() - seen:
            del self._problems[key]
        gone = sorted(self._known.keys() - seen)
        for key in gone:
            del self._known[key]
        return [Deleted(*key) for key in gone]

    async def _follow(self) -> AsyncGenerator[Sequence[Upserted[T] | Deleted | InSync], None]:
        """One watch, from the last version seen until it ends."""
        clock, times = self._pace.clock, self._pace.times
        # Spread, so that the watches of many nodes that began together do not all end together.
        times = dataclasses.replace(times, server=times.server * self._pace.backoff.random.uniform(1.0, 1.5))
        stream = self._client.watch(self._resource, self._selection, self._revision, times)
        async with aclosing(stream) as batches:
            async for lines in batches:
                if self._accepted is None:
                    self._accepted = clock.monotonic()
                    self._recovered()
                changes: list[Upserted[T] | Deleted | InSync] = []
                failure: KubeError | None = None
                for line in lines:
                    if line.type == "ERROR":
                        failure = self._client.in_stream_error(self._resource, line.object)
                    elif line.type == "BOOKMARK":
                        failure = self._bookmark(line)
                    elif (change := self._take(line)) is not None:
                        changes.append(change)
                    if failure is not None:
                        break
                if changes:
                    yield changes
                if failure is not None:
                    raise failure

    def _take(self, line: WatchLine) -> Upserted[T] | Deleted | None:
        who = identity(line.object)
        if who is not None and who.resource_version:
            self._revision = who.resource_version
        if line.type != "DELETED":
            decoded = self._codec.object(line.object)
            if not isinstance(decoded, Malformed):
                return self._upsert(decoded)
            self._remember(decoded)
            return None
        if who is None:
            return None
        self._problems.pop(who.key, None)
        return Deleted(*who.key) if self._known.pop(who.key, None) is not None else None

    def _bookmark(self, line: WatchLine) -> KubeGone | None:
        """Note the version. One before ours means that the server's store was restored from a backup: read anew."""
        who = identity(line.object)
        new = who.resource_version if who is not None else ""
        old = self._revision
        if new.isdecimal() and old.isdecimal() and int(new) < int(old):
            # The versions after the restored one are given out a second time: none that we know says anything.
            self._known = dict.fromkeys(self._known, "")
            return KubeGone(
                f"watch of {self._resource.plural}: version {new} after {old}: the server went back in time"
            )
        self._revision = new or old
        return None

    def _upsert(self, item: T) -> Upserted[T] | None:
        version = item.metadata.resource_version
        self._problems.pop(item.key, None)
        if version and self._known.get(item.key) == version:
            return None
        self._known[item.key] = version
        return Upserted(item)

    def _remember(self, malformed: Malformed) -> None:
        key = malformed.identity.key
        if str(self._problems.get(key)) != str(malformed.error):
            log.error("skipped a malformed object: %s", malformed.error)
        self._problems[key] = malformed.error

    async def _pause(self, failure: KubeError | None) -> None:
        """Wait before the next attempt, unless the last watch lived for a while and ended in order."""
        clock, backoff = self._pace.clock, self._pace.backoff
        if self._accepted is not None and clock.monotonic() - self._accepted >= SETTLED_SECONDS:
            backoff.reset()
            if failure is None:
                return
        wish = failure.retry_after if failure is not None else None
        delay = backoff.next() + min(wish or 0.0, OBEYED_SECONDS)
        what = self._resource.plural
        if failure is None:
            log.debug("watch of %s: closed early, again in %.2f s", what, delay)
        else:
            level = (
                logging.WARNING
                if self._error is None and not isinstance(failure, KubeGone)
                else logging.DEBUG
            )
            log.log(level, "watch of %s: trying again (next in %.2f s): %s", what, delay, failure)
            self._error = failure
        await clock.sleep(delay)

    def _recovered(self) -> None:
        if self._error is not None:
            log.info("watch of %s: in order again", self._resource.plural)
        self._error = None
