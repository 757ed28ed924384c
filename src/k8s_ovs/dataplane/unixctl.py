"""Commands to the running ovs-vswitchd, as ovs-appctl gives them, without a process for each.

For `openflow_settle` and `openflow_conntrack`. JSON-RPC 1.0 on a unix socket, one request after the other; ovs-appctl(8),
ovs-vswitchd(8) "Runtime Management Commands". It knows no command's meaning.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import OpenFlowError

REMEDY = "check that ovs-vswitchd runs and that --ovs-rundir names its folder"
DAEMON = "ovs-vswitchd"
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon answered: `text`, or the reason why it refused."""

    text: str
    refused: bool = False


class Control:
    """A connection to a daemon's control socket; made by `connect`. One request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._requests = 0
        self._received = bytearray()

    async def send(self, command: str, *arguments: str) -> None:
        """Write a request. When this returns, it is in the daemon's hands; `answer` waits for what it says."""
        self._requests += 1
        request = {"id": self._requests, "method": command, "params": arguments}
        self._writer.write(json.dumps(request).encode())
        await self._writer.drain()

    async def answer(self) -> Answer:
        """The answer to the request that was sent last. Cancelled, it may be asked for again."""
        while True:
            chunk = await self._reader.read(_CHUNK)
            if not chunk:
                raise ConnectionResetError("connection closed")
            self._received += chunk
            # Nothing separates messages, but an answer is one object and nothing follows it before the next request.
            if self._received.endswith(b"}"):
                with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                    reply = json.loads(self._received)
                    self._received.clear()
                    return _read(reply)

    async def call(self, command: str, *arguments: str) -> Answer:
        """Send a request and wait for its answer."""
        await self.send(command, *arguments)
        return await self.answer()


@contextlib.asynccontextmanager
async def connect(rundir: Path, deadline: float, what: str) -> AsyncIterator[Control]:
    """A connection to the ovs-vswitchd whose pid file and sockets are in `rundir`; `what` says what was tried.

    Everything done with it has to end within `deadline` seconds. OpenFlowError if it does not, or the daemon goes away.
    """
    socket = control_socket(rundir)
    try:
        async with asyncio.timeout(deadline):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                yield Control(reader, writer)
            finally:
                writer.close()
    except TimeoutError:
        raise OpenFlowError(f"{what}: no answer from {socket} within {deadline:g} s", remedy=REMEDY) from None
    except OSError as error:
        raise OpenFlowError(f"{what}: {socket}: {error.strerror or error}", remedy=REMEDY) from error


def control_socket(rundir: Path) -> Path:
    """Where ovs-vswitchd listens: a name with its pid unless it was told another one (--unixctl)."""
    plain = rundir / f"{DAEMON}.ctl"
    try:
        pid = int((rundir / f"{DAEMON}.pid").read_text())
    except (OSError, ValueError):
        return plain
    usual = rundir / f"{DAEMON}.{pid}.ctl"
    return usual if usual.exists() else plain


def _read(reply: object) -> Answer:
    match reply:
        case {"error": None, "result": str(text)}:
            return Answer(text)
        case {"error": None}:
            return Answer("")
        case {"error": str(reason)}:
            return Answer(reason.strip(), refused=True)
        case _:
            raise OpenFlowError(f"{DAEMON} answered what is no answer: {reply!r}")
