"""The Kubernetes API over HTTP: get, list, watch, create, update, patch, delete, events.

Used by the reflector, the election, the agent and the controller. It keeps no state of objects. Every failure comes out
as a KubeError (errors.py); a single object that is malformed as a RecordError. What it does by itself: it waits when
the server says 429, reads the credentials anew on 401 (once), and gives up at the deadline.
"""

import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from k8s_ovs.errors import KubeError, KubeGone
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock
from k8s_ovs.sources.kube.codec import Codec, LineSplitter, Malformed, Page, WatchLine, watch_line
from k8s_ovs.sources.kube.credentials import Credentials
from k8s_ovs.sources.kube.objects import EVENTS, Event, EventSource, ObjectMeta, ObjectReference, Resource, T
from k8s_ovs.sources.kube.status import body_of, error_from, status_from
from k8s_ovs.sources.kube.transport import CONNECT_TIMEOUT, Call, Transport

DEFAULT_TIMEOUT = 30.0
PAGE_SIZE = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a kind: a Namespace (empty: all), and selectors in the API's syntax."""

    namespace: str = ""
    field_selector: str = ""
    label_selector: str = ""

    def query(self) -> dict[str, str]:
        """As URL parameters."""
        fields = {"fieldSelector": self.field_selector, "labelSelector": self.label_selector}
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """Seconds: when the server shall end a watch, how much later we do, and how long it may say nothing at all."""

    server: float = 300.0
    grace: float = 30.0
    silence: float = 150.0


class KubeClient:
    """`async with KubeClient(credentials) as client`. `timeout` is the deadline of one call in seconds, retries included.

    `component` is what the User-Agent and the events say.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        component: str = "k8s-ovs",
        timeout: float = DEFAULT_TIMEOUT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._component = component
        self._clock = clock
        self._transport = Transport(credentials, agent=component, timeout=timeout, clock=clock)

    @property
    def origin(self) -> str:
        """Where the credentials come from, for messages."""
        return self._transport.credentials.origin

    async def __aenter__(self) -> Self:
        await self._transport.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """One object. Raises KubeNotFound if there is none."""
        call = Call("GET", resource.path(namespace=namespace, name=name))
        return _whole(Codec(resource).object(await self._transport.send(call)))

    async def list(
        self,
        resource: Resource[T],
        namespace: str = "",
        *,
        field_selector: str = "",
        label_selector: str = "",
    ) -> Sequence[T]:
        """All objects, read in pages at one version. Malformed ones are logged and left out."""
        items: list[T] = []
        async for page in self.pages(resource, Selection(namespace, field_selector, label_selector)):
            if page.first:
                items.clear()
            items += page.items
            for malformed in page.malformed:
                log.error("skipped: %s", malformed.error)
        return items

    async def pages(
        self, resource: Resource[T], selection: Selection, *, limit: int = PAGE_SIZE
    ) -> AsyncGenerator[Page[T], None]:
        """A list, page by page, all at one version.

        A continue token expires after some minutes, or when the server compacts (410): then everything is read anew
        in one piece, in a page that says `first` again.
        """
        codec = Codec(resource)
        path = resource.path(namespace=selection.namespace)
        query = selection.query()
        token = ""
        while True:
            paging = {"limit": str(limit)} if limit else {}
            call = Call("GET", path, {**query, **paging, **({"continue": token} if token else {})})
            try:
                body = await self._transport.send(call)
            except KubeGone:
                if not token:
                    raise
                token, limit = "", 0
                continue
            page = codec.page(body, what=self._transport.name(call), first=not token)
            yield page
            token = page.continue_
            if not token:
                return

    async def create(self, resource: Resource[T], obj: T) -> T:
        """Create; returns it as the server keeps it. Raises KubeConflict if it exists."""
        call = Call("POST", resource.path(namespace=obj.metadata.namespace), body=_body(resource, obj))
        return _whole(Codec(resource).object(await self._transport.send(call)))

    async def update(self, resource: Resource[T], obj: T) -> T:
        """Replace. With metadata.resource_version set, raises KubeConflict if the object has changed since.

        Fields that our types do not name are lost: only for kinds whose types are complete (Lease). Others: `patch`.
        """
        meta = obj.metadata
        call = Call("PUT", resource.path(namespace=meta.namespace, name=meta.name), body=_body(resource, obj))
        return _whole(Codec(resource).object(await self._transport.send(call)))

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        body: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str = "",
    ) -> T:
        """Apply a JSON merge patch (RFC 7386): null removes a field. `subresource` is "status", say."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        data = json.dumps(body).encode()
        call = Call("PATCH", path, body=data, content_type="application/merge-patch+json")
        return _whole(Codec(resource).object(await self._transport.send(call)))

    async def delete(self, resource: Resource[T], name: str, namespace: str = "", *, uid: str = "") -> None:
        """Delete; with `uid` only that very object. Raises KubeNotFound, or KubeConflict if the uid is another."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        path = resource.path(namespace=namespace, name=name)
        await self._transport.send(Call("DELETE", path, body=json.dumps(options).encode()))

    async def create_event(
        self, about: ObjectReference, reason: str, message: str, *, warning: bool = False
    ) -> Event:
        """Tell people something about an object (core/v1 Event). `reason` is one word in camel case."""
        namespace = about.namespace or "default"
        now = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        event = Event(
            metadata=ObjectMeta(generate_name=f"{about.name}.", namespace=namespace),
            involved_object=about,
            reason=reason,
            message=message,
            type="Warning" if warning else "Normal",
            count=1,
            first_timestamp=now,
            last_timestamp=now,
            source=EventSource(component=self._component),
            reporting_component=self._component,
        )
        return await self.create(EVENTS, event)

    async def watch(
        self,
        resource: Resource[T],
        selection: Selection,
        resource_version: str,
        times: WatchTimes = WatchTimes(),
    ) -> AsyncGenerator[Sequence[WatchLine], None]:
        """What happens after `resource_version`, in the batches that the network delivers, bookmarks included.

        An empty batch says that the server has accepted the watch. Ends when the server ends it. Raises KubeGone if
        the version is too old, KubeUnavailable when the connection breaks, or says nothing for `times.silence`. ERROR
        lines are handed on. Close it with contextlib.aclosing.
        """
        wishes = {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(times.server))),
        }
        path = resource.path(namespace=selection.namespace)
        call = Call("GET", path, {**selection.query(), **wishes})
        timeout = aiohttp.ClientTimeout(
            total=times.server + times.grace, sock_connect=CONNECT_TIMEOUT, sock_read=times.silence
        )
        what = self._transport.name(call)
        splitter = LineSplitter()
        async with self._transport.open(call, timeout) as response:
            yield ()
            chunks = aiter(response.content.iter_any())
            while True:
                with self._transport.translated(call):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                lines = [watch_line(line, what=what) for line in splitter.feed(chunk)]
                if lines:
                    yield lines

    def in_stream_error(self, resource: Resource[T], body: msgspec.Raw) -> KubeError:
        """The error that an ERROR line of a watch stands for."""
        return error_from(f"watch of {resource.plural}", status_from(body), origin=self.origin)


def _whole(decoded: T | Malformed) -> T:
    if isinstance(decoded, Malformed):
        raise decoded.error
    return decoded


def _body(resource: Resource[T], obj: T) -> bytes:
    return body_of(resource.api_version, resource.kind, obj)
