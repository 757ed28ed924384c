"""One connection to one member of etcd: calls with a deadline, the watch stream, and tokens.

The client opens connections and throws them away when they fail; a Connection never reconnects. The one thing
that it repeats is a call whose token had expired: etcd's simple tokens live for five minutes and die with the
server.

Every step of the conversation runs in a task of its own, which its caller awaits to the end. grpclib wakes a
call up by cancelling the task that waits for it and never calls `Task.uncancel`: in the caller's own task the
cancellation would stay counted, and the timeouts and TaskGroups around it would misbehave afterwards.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import H2Protocol

from k8s_ovs.errors import EtcdCompacted, EtcdDenied, EtcdError, EtcdUnavailable
from k8s_ovs.sources.etcd.faults import StaleToken, meaning, refusal
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.etcd.settings import Endpoint, EtcdSettings
from k8s_ovs.sources.files import signatures

REFUSAL_SECONDS = 1.0
"""How long to wait for the reason when a server has hung up on us."""

T = TypeVar("T")
Answer = TypeVar("Answer", bound=Message)


class _Protocol(H2Protocol):
    """Remembers why a connection was lost: grpclib drops it, and TLS 1.3 refuses a client after the handshake."""

    closed = False
    reason: BaseException | None = None
    transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        super().connection_made(transport)

    def abort(self) -> None:
        """Close without waiting: a hung server would not take part in closing a TLS connection."""
        if isinstance(self.transport, asyncio.WriteTransport):
            _abort(self.transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.closed, self.reason = True, exc
        super().connection_lost(exc)


class _Channel(Channel):
    """A channel that connects once: behind a second connection could be another server, with another history."""

    protocol: _Protocol | None = None

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        self.protocol = _Protocol(made.handler, made.config, made.h2_config)
        return self.protocol

    async def _create_connection(self) -> H2Protocol:
        if self.protocol is not None:
            raise ConnectionResetError("connection lost")
        return await super()._create_connection()


class Connection:
    """Calls to one endpoint; made by `open`. Methods raise the errors of the EtcdError branch."""

    def __init__(self, settings: EtcdSettings, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._settings = settings
        self.files = signatures(settings.files)
        """The state of the files with our credentials, just before they were read."""
        self._tls = settings.tls_context() if endpoint.tls else None
        self._channel = _Channel(endpoint.host, endpoint.port, ssl=self._tls)
        self._token = ""
        self._password = ""
        """With which we logged in the last time."""
        self._login = asyncio.Lock()

    @classmethod
    async def open(cls, settings: EtcdSettings, endpoint: Endpoint, probe: rpc.RangeRequest) -> "Connection":
        """Connect, log in and read `probe`: what is returned has answered, and its cluster has a quorum."""
        try:
            connection = cls(settings, endpoint)
        except EtcdDenied as err:  # a certificate file
            raise _at(endpoint, err) from err
        try:
            await connection.step("connecting", connection._channel.__connect__())
            try:
                await connection._authenticate()
                await connection.range(probe)
            except EtcdUnavailable:
                await connection._hear_refusal()
                raise
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def usable(self) -> bool:
        """Whether the connection is up, as far as anybody has noticed."""
        return self._channel.protocol is not None and not self._channel.protocol.closed

    def close(self) -> None:
        """Drop the connection; calls under way fail. May be repeated."""
        self._channel.close()
        if self._channel.protocol is not None:
            self._channel.protocol.abort()

    async def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        """Read a key or a range of keys."""
        return await self._call("reading", "KV/Range", request, rpc.RangeResponse)

    async def txn(self, request: rpc.TxnRequest) -> rpc.TxnResponse:
        """Compare, then read and write, in one transaction."""
        return await self._call("transaction", "KV/Txn", request, rpc.TxnResponse)

    async def grant_lease(self, number: int, ttl: int) -> None:
        """Make the lease `number`, which ends `ttl` seconds after it was last kept alive."""
        request = rpc.LeaseGrantRequest(ID=number, TTL=ttl)
        await self._call("granting a lease", "Lease/LeaseGrant", request, rpc.LeaseGrantResponse)

    async def keep_lease(self, number: int) -> bool:
        """Keep the lease `number` alive; False if there is none (any more)."""
        method = StreamStreamMethod(
            self._channel,
            "/etcdserverpb.Lease/LeaseKeepAlive",
            rpc.LeaseKeepAliveRequest,
            rpc.LeaseKeepAliveResponse,
        )
        request = rpc.LeaseKeepAliveRequest(ID=number)
        once = method([request], timeout=self._settings.timeout, metadata=_bearing(self._token))
        return any(answer.TTL > 0 for answer in await self.step("keeping a lease", once))

    @asynccontextmanager
    async def watch(self, request: rpc.WatchCreateRequest) -> AsyncIterator["WatchReader"]:
        """A watch that lives as long as the context; when it ends, `WatchReader.next` says so."""
        method = StreamStreamMethod(
            self._channel, "/etcdserverpb.Watch/Watch", rpc.WatchRequest, rpc.WatchResponse
        )
        reader = WatchReader(self, method.open(metadata=_bearing(self._token)))
        try:
            await self.step("watching", reader.start(request))
            yield reader
        finally:
            await reader.stop()

    async def step(self, doing: str, what: Coroutine[Any, Any, T]) -> T:
        """Do one step of the conversation within the deadline; whatever goes wrong becomes an EtcdError."""
        task = asyncio.create_task(what, name=f"etcd {self.endpoint} {doing}")
        try:
            await asyncio.wait({task}, timeout=self._settings.timeout)
        finally:
            await end(task)
        return self.outcome(doing, task)

    def outcome(self, doing: str, task: "asyncio.Task[T]") -> T:
        """The result of a step that has ended; one that was cancelled had run out of time."""
        error = TimeoutError() if task.cancelled() else task.exception()
        if error is None:
            return task.result()
        lost = self._channel.protocol.reason if self._channel.protocol is not None else None
        if lost is not None and isinstance(error, StreamTerminatedError | ConnectionResetError):
            error = lost
        # grpclib lets through whatever its HTTP/2 layer met in a dying connection, so all of it counts
        raise meaning(self._settings, self.endpoint, doing, error) from error

    async def _hear_refusal(self) -> None:
        """Raise EtcdDenied if it was TLS that ended the connection.

        With TLS 1.3 a server refuses a client after the handshake. What we had sent by then makes its kernel reset
        the connection, and the reset can overtake the reason. So connect again, send nothing, and listen.
        """
        if self._tls is not None:
            with suppress(EtcdUnavailable):
                await self.step("connecting", _listen(self.endpoint, self._tls))

    async def _authenticate(self) -> None:
        """Log in with the password in the file; with the former one if etcd does not know that one yet."""
        if not self._settings.username:
            return
        try:
            password = self._settings.password()
        except EtcdDenied as err:
            raise _at(self.endpoint, err) from err
        try:
            await self._log_in(password)
        except EtcdDenied:
            if self._password in ("", password):
                raise
            await self._log_in(self._password)

    async def _log_in(self, password: str) -> None:
        request = rpc.AuthenticateRequest(name=self._settings.username, password=password)
        try:
            answer = await self._once(
                "logging in", "Auth/Authenticate", request, rpc.AuthenticateResponse, ""
            )
        except EtcdError as err:
            if "authentication is not enabled" in err.message:
                return  # everybody may do everything then; a user does no harm
            raise
        self._token, self._password = answer.token, password

    async def _call(self, doing: str, method: str, request: Message, answer: type[Answer]) -> Answer:
        token = self._token
        try:
            return await self._once(doing, method, request, answer, token)
        except StaleToken:
            async with self._login:
                if self._token == token:  # else another call has just done it
                    await self._authenticate()
            return await self._once(doing, method, request, answer, self._token)

    async def _once(
        self, doing: str, method: str, request: Message, answer: type[Answer], token: str
    ) -> Answer:
        call = UnaryUnaryMethod(self._channel, f"/etcdserverpb.{method}", type(request), answer)
        return await self.step(doing, call(request, timeout=self._settings.timeout, metadata=_bearing(token)))


async def _listen(endpoint: Endpoint, context: ssl.SSLContext) -> None:
    """Connect and wait for what the server says by itself."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
    try:
        async with asyncio.timeout(REFUSAL_SECONDS):
            await reader.read(1)
    finally:
        _abort(writer.transport)


def _abort(transport: asyncio.WriteTransport) -> None:
    # Of a lost TLS connection, CPython 3.11.2 has forgotten the protocol, and stumbles over that (3.11.7 does not).
    with suppress(AttributeError):
        transport.abort()


class WatchReader:
    """The answers of one watch, in order."""

    def __init__(self, connection: Connection, stream: Stream[rpc.WatchRequest, rpc.WatchResponse]) -> None:
        self._connection = connection
        self._stream = stream
        self._entered = False
        self._reading: asyncio.Task[rpc.WatchResponse | None] | None = None

    async def start(self, request: rpc.WatchCreateRequest) -> None:
        """Ask for the watch and see it created."""
        await self._stream.__aenter__()
        self._entered = True
        await self._stream.send_message(rpc.WatchRequest(create_request=request))
        self._checked(await self._stream.recv_message())

    async def next(self, patience: float) -> rpc.WatchResponse | None:
        """The next answer, or None if there is none for `patience` seconds.

        Raises EtcdCompacted if the watch has fallen behind, EtcdDenied or EtcdUnavailable if it ended
        otherwise.
        """
        # a reading is never broken off for impatience: half a message would be lost, and the rest misread
        if self._reading is None:
            name = f"etcd {self._connection.endpoint} watching"
            self._reading = asyncio.create_task(self._stream.recv_message(), name=name)
        await asyncio.wait({self._reading}, timeout=patience)
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return self._checked(self._connection.outcome("watching", reading))

    async def stop(self) -> None:
        """End the watch, at the server too. May be called at any point."""
        if self._reading is not None:
            await end(self._reading)
        if self._entered:
            # with an error, grpclib resets the stream; without one it would wait for the server to end it
            await self._stream.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)

    def _checked(self, answer: rpc.WatchResponse | None) -> rpc.WatchResponse:
        where = f"etcd {self._connection.endpoint}: watching"
        if answer is None:
            raise EtcdUnavailable(f"{where}: the server has ended the watch")
        if answer.compact_revision:
            revision = answer.compact_revision
            raise EtcdCompacted(f"{where}: compacted up to revision {revision}", compact_revision=revision)
        if answer.canceled:
            raise refusal(where, answer.cancel_reason)
        return answer


def _bearing(token: str) -> dict[str, str | bytes]:
    """The metadata of a call made with `token`."""
    return {"token": token} if token else {}


def _at(endpoint: Endpoint, error: EtcdDenied) -> EtcdDenied:
    """`error`, which came from a file, with the endpoint that the file is for."""
    return EtcdDenied(f"etcd {endpoint}: {error.message}", remedy=error.remedy)


async def end(task: "asyncio.Task[Any]") -> None:
    """See `task` to its end, cancelled if it still runs. Its outcome, if it has one, counts as noticed."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
