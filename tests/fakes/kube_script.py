"""A scripted Kubernetes API over HTTP, a strict Lease store, and clocks that tests move by hand.

For the tests of k8s_ovs.sources.kube. The server answers what the test says, request by request, and an unexpected
request fails the test that made it; the Lease store judges as the real API does (resourceVersion, existence, fields).
"""

import asyncio
import json
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from k8s_ovs.errors import KubeConflict, KubeNotFound, KubeUnavailable
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import Lease, LeaseSpec, Resource, T

EPOCH = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


class AutoClock:
    """Time passes only in `sleep`, and at once. `at(seconds, action)` runs an action when that much has passed."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.sleeps: list[float] = []
        self._plans: list[tuple[float, Callable[[], Any]]] = []

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.elapsed)

    def at(self, seconds: float, action: Callable[[], Any]) -> None:
        self._plans.append((seconds, action))

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.elapsed += seconds
        due = [plan for plan in self._plans if plan[0] <= self.elapsed]
        self._plans = [plan for plan in self._plans if plan[0] > self.elapsed]
        for _, action in due:
            result = action()
            if asyncio.iscoroutine(result):
                await result
        await asyncio.sleep(0)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        del seconds
        return asyncio.timeout(None)


class ManualClock:
    """Time passes only in `advance`. `skew` shifts this clock's calendar, as wrong clocks of other machines are shifted."""

    def __init__(self, skew: timedelta = timedelta()) -> None:
        self.elapsed = 0.0
        self.skew = skew
        self._waiting: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return EPOCH + self.skew + timedelta(seconds=self.elapsed)

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        wake: asyncio.Future[None] = loop.create_future()
        self._waiting.append((self.elapsed + seconds, lambda: wake.done() or wake.set_result(None)))
        await wake

    def timeout(self, seconds: float) -> asyncio.Timeout:
        timer = asyncio.timeout(None)

        def fire() -> None:
            with suppress(RuntimeError):  # its block has been left in time
                timer.reschedule(asyncio.get_running_loop().time())

        self._waiting.append((self.elapsed + seconds, fire))
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking each sleeper at its own moment, until all have done what they then do."""
        end = self.elapsed + seconds
        await settle()
        while due := sorted(
            (entry for entry in self._waiting if entry[0] <= end), key=lambda entry: entry[0]
        ):
            self._waiting.remove(due[0])
            self.elapsed = max(self.elapsed, due[0][0])
            due[0][1]()
            await settle()
        self.elapsed = end
        await settle()


async def settle() -> None:
    """Let every task run until it waits for something that only a clock or the test brings."""
    for _ in range(50):
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete answer; a `body` that is no bytes becomes JSON."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer: chunks as they are, then the `end`: "close" in order, "abort" the connection, or "hang"."""

    chunks: Sequence[bytes] = ()
    end: str = "close"


Answer = Reply | Stream


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the server got it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptServer:
    """Answers from queues, one per method, path and "is it a watch". An exhausted watch queue hangs: nothing happens."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.unexpected: list[str] = []
        self.port = 0
        self.watching = asyncio.Event()
        self._tls = tls
        self._queues: defaultdict[tuple[str, str, bool], deque[Answer]] = defaultdict(deque)
        self._routes: dict[str, Callable[[Seen], Reply]] = {}
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def on(self, method: str, path: str, *answers: Answer, watch: bool = False) -> None:
        """Queue answers."""
        self._queues[method, path, watch].extend(answers)

    def route(self, prefix: str, handler: Callable[[Seen], Reply]) -> None:
        """Answer everything below `prefix` by a function."""
        self._routes[prefix] = handler

    def requests(self, method: str, path: str, *, watch: bool = False) -> list[Seen]:
        """What was asked, in order."""
        return [
            seen
            for seen in self.seen
            if (seen.method, seen.path, "watch" in seen.query) == (method, path, watch)
        ]

    async def start(self) -> None:
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop; hanging streams are aborted, as when a server dies. `start` takes the same port again."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(
            request.method, request.path, dict(request.query), dict(request.headers), await request.read()
        )
        self.seen.append(seen)
        for prefix, handler in self._routes.items():
            if seen.path.startswith(prefix):
                return _response(handler(seen))
        watch = "watch" in seen.query
        queue = self._queues[seen.method, seen.path, watch]
        if queue:
            answer = queue.popleft()
        elif watch:
            answer = Stream(end="hang")
        else:
            self.unexpected.append(f"{seen.method} {request.path_qs}")
            return web.Response(status=500, text="not in the script")
        return await self._stream(request, answer) if isinstance(answer, Stream) else _response(answer)

    async def _stream(self, request: web.Request, answer: Stream) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        for chunk in answer.chunks:
            await response.write(chunk)
        if answer.end == "hang":
            self.watching.set()
            await self._stopping.wait()
        if answer.end != "close" and request.transport is not None:
            request.transport.abort()
        return response


def _response(reply: Reply) -> web.Response:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    return web.Response(
        status=reply.status, body=body, headers=reply.headers, content_type="application/json"
    )


@asynccontextmanager
async def scripted(clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[tuple[ScriptServer, KubeClient]]:
    """A server and a client for it. Fails at the end if a request was not in the script."""
    server = ScriptServer()
    await server.start()
    try:
        settings = KubeSettings(environ={"KUBERNETES_MASTER": f"127.0.0.1:{server.port}"})
        async with KubeClient(load_credentials(settings, clock=clock), clock=clock) as client:
            yield server, client
    finally:
        await server.stop()
    assert not server.unexpected


def status(code: int, reason: str, message: str = "", **details: Any) -> dict[str, Any]:
    """A Status object of meta/v1."""
    fields = {"status": "Failure", "code": code, "reason": reason, "message": message, "details": details}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **fields}


def obj(name: str, version: int, namespace: str = "", **fields: Any) -> dict[str, Any]:
    """An API object with the least of metadata."""
    meta = {"name": name, "resourceVersion": str(version), "uid": f"uid-{namespace}-{name}"}
    return {"metadata": {**meta, **({"namespace": namespace} if namespace else {})}, **fields}


def listing(version: int, *items: Any, token: str = "") -> Reply:
    """A list answer."""
    meta = {"resourceVersion": str(version), **({"continue": token} if token else {})}
    return Reply({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": list(items)})


def line(kind: str, body: Any) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    """A BOOKMARK line."""
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


class LeaseStore:
    """Leases in memory, as strict as the API server. `down`: no answer; `hang`: answers never come."""

    def __init__(self) -> None:
        self.leases: dict[tuple[str, str], Lease] = {}
        self.version = 100
        self.down = False
        self.hang = False
        self.writes: list[Lease] = []
        self.before_write: Callable[[], None] | None = None

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        await self._reach()
        found: Any = self.read(namespace, name)
        assert isinstance(found, resource.type)
        return found

    async def create(self, resource: Resource[T], obj: T) -> T:
        await self._reach()
        made: Any = self.add(_lease(obj))
        assert isinstance(made, resource.type)
        return made

    async def update(self, resource: Resource[T], obj: T) -> T:
        await self._reach()
        made: Any = self.replace(_lease(obj))
        assert isinstance(made, resource.type)
        return made

    def read(self, namespace: str, name: str) -> Lease:
        try:
            return self.leases[namespace, name]
        except KeyError:
            raise KubeNotFound(f"lease {namespace}/{name}", status=404, reason="NotFound") from None

    def add(self, lease: Lease) -> Lease:
        self._about_to_write()
        if lease.key in self.leases:
            raise KubeConflict(f"lease {lease.key} exists", status=409, reason="AlreadyExists")
        if lease.metadata.resource_version:
            raise ValueError("resourceVersion should not be set on objects to be created")
        return self._keep(lease)

    def replace(self, lease: Lease) -> Lease:
        self._about_to_write()
        current = self.read(*lease.key)
        if lease.metadata.resource_version != current.metadata.resource_version:
            raise KubeConflict(f"lease {lease.key} has changed", status=409, reason="Conflict")
        return self._keep(lease)

    def _keep(self, lease: Lease) -> Lease:
        _check(lease.spec)
        self.version += 1
        meta = msgspec.structs.replace(lease.metadata, resource_version=str(self.version))
        kept = msgspec.structs.replace(lease, metadata=meta)
        self.leases[lease.key] = kept
        self.writes.append(kept)
        return kept

    def _about_to_write(self) -> None:
        action, self.before_write = self.before_write, None
        if action is not None:
            action()

    async def _reach(self) -> None:
        if self.hang:
            await asyncio.get_running_loop().create_future()
        if self.down:
            raise KubeUnavailable("the fake is down", reason="Network")
        await asyncio.sleep(0)


def _lease(obj: object) -> Lease:
    assert isinstance(obj, Lease)
    return obj


def _check(spec: LeaseSpec) -> None:
    """What the API server validates (coordination/validation)."""
    if spec.lease_duration_seconds is not None and spec.lease_duration_seconds <= 0:
        raise ValueError("leaseDurationSeconds must be greater than 0")
    if spec.lease_transitions is not None and spec.lease_transitions < 0:
        raise ValueError("leaseTransitions must be greater than or equal to 0")
    for moment in (spec.acquire_time, spec.renew_time):
        if moment is not None:
            parsed = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S.%f%z")
            assert parsed.utcoffset() == timedelta(0)
