"""The agent's CNI server: a unix socket on which the executable asks and gets its answer.

The agent's composition root runs `CniServer.run` with the `CniHandler` that does the work (the agent's pods). The
server checks who asks, parses, keeps order and time, and answers; it knows nothing of networks.

What happens when the asking side goes away: a request that arrived whole is carried out to its end, and the answer
is dropped. Undoing it instead would gain nothing: a runtime that gave up on an ADD sends DEL for the same sandbox,
which waits here for the ADD and then removes what it made, and a repeated ADD finds the same answer. A request that
did not arrive whole is not begun: cut JSON is not JSON.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from k8s_ovs.cni.codes import Code, code_of
from k8s_ovs.cni.listen import listen_unix, peer_credentials
from k8s_ovs.cni.locks import KeyedLocks
from k8s_ovs.cni.protocol import (
    AddResult,
    Command,
    Frame,
    Request,
    parse_frame,
    parse_request,
    render_error,
    render_result,
    requested_version,
)
from k8s_ovs.errors import CniError, K8sOvsError

log = logging.getLogger(__name__)

LogContext = Callable[..., AbstractContextManager[None]]
"""Gives fields (request, sandbox, pod) to what is logged while the request is served."""

Observer = Callable[[str, float, int], None]
"""Told of each request: command ("" if it could not be read), seconds, CNI error code (0 for success)."""


class CniHandler(Protocol):
    """What a request asks for. Every method may raise any K8sOvsError; it becomes a CNI error object.

    A cancelled call has to leave nothing half done.
    """

    async def add(self, request: Request) -> AddResult:
        """Attach the sandbox; a repeated request gets the same answer."""

    async def delete(self, request: Request) -> None:
        """Detach the sandbox; what does not exist is no error."""

    async def check(self, request: Request) -> None:
        """Raise CniError if the attachment is not as `request.prev_result` says."""

    async def gc(self, request: Request) -> None:
        """Remove every attachment that is not in `request.valid_attachments`."""

    async def status(self, request: Request) -> None:
        """Return if a pod could be attached now, else raise CniError 50 or 51."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds, in octets and seconds.

    `request_octets` leaves room for the environment beside the executable's 1 MiB of stdin. `answer_seconds` is
    less than what the executable waits (110 s), so that the runtime learns the reason. `drain_seconds` is how long
    requests may go on when the server stops; what is not finished then is cancelled, and undoes itself.
    """

    request_octets: int = (1 << 20) + (1 << 18)
    receive_seconds: float = 30.0
    answer_seconds: float = 100.0
    drain_seconds: float = 0.5
    backlog: int = 512


@dataclass(frozen=True, slots=True)
class _Answer:
    text: bytes
    command: str
    code: int = 0

    @property
    def octets(self) -> bytes:
        return (b"1" if self.code else b"0") + self.text


class CniServer:
    """Serves CNI requests on the unix socket `path`; only processes of `uid` are answered.

    Requests for different sandboxes run side by side, those for one sandbox in the order of their arrival. GC and
    STATUS concern no sandbox and wait for nobody.
    """

    def __init__(
        self,
        path: Path,
        handler: CniHandler,
        *,
        limits: ServerLimits | None = None,
        observer: Observer | None = None,
        uid: int = 0,
        log_context: LogContext = lambda **fields: nullcontext(),
    ) -> None:
        self._path = path
        self._log_context = log_context
        self._handler = handler
        self._limits = limits or ServerLimits()
        self._observe = observer or (lambda _command, _seconds, _code: None)
        self._uid = uid
        self._locks: KeyedLocks[str] = KeyedLocks()
        self._stopping = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()
        self.listening = asyncio.Event()
        """Set from when the socket takes requests."""

    @property
    def busy(self) -> int:
        """How many requests are being served."""
        return len(self._requests)

    def stop(self) -> None:
        """Make `run` take no more requests, finish those that run within the bound, and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop` or cancellation; both end in the same way.

        Raises ConfigError if `path` cannot be used.
        """
        with listen_unix(self._path, self._limits.backlog) as listener:
            async with asyncio.TaskGroup() as tasks:
                accepting = tasks.create_task(self._accept(listener, tasks), name="cni-accept")
                self.listening.set()
                try:
                    await self._stopping.wait()
                finally:
                    self.listening.clear()
                    accepting.cancel()
                    await self._drain()

    async def _accept(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(listener)
            except OSError as err:  # for example EMFILE: who waits is served once others have ended
                log.error("CNI socket %s: accept failed (%s): raise the limit of open files", self._path, err)
                await asyncio.sleep(0.1)
                continue
            peer.setblocking(False)
            task = tasks.create_task(self._serve_peer(peer), name="cni-request")
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _drain(self) -> None:
        """Wait for the running requests; cancel those that outlast the bound, and wait for their undoing."""
        if not self._requests:
            return
        _, late = await asyncio.wait(set(self._requests), timeout=self._limits.drain_seconds)
        if late:
            log.warning(
                "CNI: %d requests were not finished when the agent stopped; they are undone", len(late)
            )
            for task in late:
                task.cancel()
            await asyncio.wait(late)

    async def _serve_peer(self, peer: socket.socket) -> None:
        with peer:
            loop = asyncio.get_running_loop()
            begin = loop.time()
            answer = await self._answer(peer)
            self._observe(answer.command, loop.time() - begin, answer.code)
            try:
                async with asyncio.timeout(self._limits.receive_seconds):
                    await loop.sock_sendall(peer, answer.octets)
            except (OSError, TimeoutError) as err:
                log.warning("CNI %s: the answer found no reader (%r)", answer.command or "request", err)

    async def _answer(self, peer: socket.socket) -> _Answer:
        """Read, carry out and render one request; what is logged meanwhile says which one."""
        with ExitStack() as context:
            context.enter_context(self._log_context(request=secrets.token_hex(4)))
            return await self._answered(peer, context)

    async def _answered(self, peer: socket.socket, context: ExitStack) -> _Answer:
        frame = Frame({}, b"")
        try:
            self._check_peer(peer)
            frame = parse_frame(await self._receive(peer))
            if sandbox := frame.environment.get("CNI_CONTAINERID", ""):
                context.enter_context(self._log_context(sandbox=sandbox))
            request = parse_request(frame)
            if request.pod.name:
                context.enter_context(self._log_context(pod=f"{request.pod.namespace}/{request.pod.name}"))
            log.debug("CNI %s", request.command)
            return _Answer(await self._carry_out(request), request.command)
        except CniError as err:
            error = err
        except K8sOvsError as err:
            error = CniError(code_of(err), err.message, remedy=err.remedy)
        except (
            Exception
        ) as err:  # a defect in one request must not end the node's network; it is logged whole
            log.exception("CNI request failed by a defect of the agent")
            error = CniError(
                Code.INTERNAL, f"defect in the agent: {err!r}", remedy="see the agent's log; report it"
            )
        command = frame.environment.get("CNI_COMMAND", "")
        log.warning("CNI %s %s: %s", command, frame.environment.get("CNI_CONTAINERID", ""), error)
        return _Answer(render_error(error, requested_version(frame.stdin)), command, int(error.code))

    def _check_peer(self, peer: socket.socket) -> None:
        """Refuse who may not ask, should the mode of the socket or its folder have been opened."""
        asking = peer_credentials(peer)
        if asking.uid != self._uid:
            raise CniError(
                Code.IO_FAILURE,
                f"process {asking.pid} of user {asking.uid} may not ask the agent",
                remedy=f"run the CNI executable as user {self._uid}",
            )

    async def _receive(self, peer: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        try:
            async with asyncio.timeout(self._limits.receive_seconds):
                while len(data) <= self._limits.request_octets:
                    chunk = await loop.sock_recv(peer, 65536)
                    if not chunk:
                        return bytes(data)
                    data += chunk
        except TimeoutError as err:
            seconds = f"{self._limits.receive_seconds:g} s"
            raise CniError(
                Code.IO_FAILURE,
                f"after {seconds} only {len(data)} octets of the request are here",
                remedy="ask again",
            ) from err
        except OSError as err:
            raise CniError(
                Code.IO_FAILURE, f"reading the request failed ({err})", remedy="ask again"
            ) from err
        raise CniError(
            Code.DECODE_FAILURE,
            f"the request is larger than {self._limits.request_octets} octets",
            remedy="shorten the network configuration",
        )

    async def _carry_out(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(self._limits.answer_seconds) as bound:
                if request.command in (Command.GC, Command.STATUS):
                    return await self._dispatch(request)
                async with self._locks.hold(request.sandbox):
                    return await self._dispatch(request)
        except TimeoutError as err:
            if not bound.expired():  # somebody else's: a defect, and not ours to explain
                raise
            raise CniError(
                Code.TRY_AGAIN,
                f"{request.command} was not done within {self._limits.answer_seconds:g} s and is undone",
                remedy="see the agent's log for what it waited for; the request may be repeated",
            ) from err

    async def _dispatch(self, request: Request) -> bytes:
        match request.command:
            case Command.ADD:
                return render_result(await self._handler.add(request), request.conf.cni_version)
            case Command.DEL:
                await self._handler.delete(request)
            case Command.CHECK:
                await self._handler.check(request)
            case Command.GC:
                await self._handler.gc(request)
            case Command.STATUS:
                await self._handler.status(request)
        return b""
