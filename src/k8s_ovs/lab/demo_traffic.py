"""Traffic that the demo measures: datagrams that go on while something changes, and how much TCP gets through.

Every socket is made inside the namespace of a pod. Nothing here knows what the figures should be.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab import namespaces

_PAUSE = 0.005
_LAST_ANSWER = 2.0
"""Seconds that the last answers may take after the last datagram was sent."""
_CHUNK = bytes(1 << 16)
_BACKLOG = 8
_CONNECT_SECONDS = 5.0


@dataclass(slots=True)
class Datagrams:
    """Datagrams to an echo server: how many were sent, and which of them came back."""

    sent: int = 0
    answered: int = 0

    @property
    def lost(self) -> int:
        """How many did not come back."""
        return self.sent - self.answered


@asynccontextmanager
async def datagrams(netns: Path, address: str, port: int) -> AsyncIterator[Datagrams]:
    """Send a datagram every few milliseconds to the echo server, until the end of the block. Raises OSError.

    What it gives is final after the block: then the last answers had time to come.
    """
    sock = namespaces.inside(netns, lambda: _connected(address, port))
    counted, waiting = Datagrams(), set[bytes]()
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while True:
            token = counted.sent.to_bytes(8, "big")
            waiting.add(token)
            counted.sent += 1
            await loop.sock_sendall(sock, token)
            await asyncio.sleep(_PAUSE)

    async def hear() -> None:
        while True:
            token = await loop.sock_recv(sock, 64)
            if token in waiting:
                waiting.discard(token)
                counted.answered += 1

    sending, hearing = (asyncio.create_task(work(), name=work.__name__) for work in (send, hear))
    try:
        yield counted
        await _ended(sending)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWER):
                while waiting and not hearing.done():
                    await asyncio.sleep(_PAUSE)
    finally:
        await _ended(sending)
        await _ended(hearing)
        sock.close()


async def _ended(task: "asyncio.Task[None]") -> None:
    """Cancel the task and wait for it. An error of its socket shows as answers that are missing."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, OSError):
        await task


def _connected(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, port))
    sock.setblocking(False)
    return sock


class Stream:
    """A TCP connection that always has something to send; `rate` tells what arrives."""

    def __init__(self) -> None:
        self.received = 0

    async def rate(self, seconds: float) -> float:
        """Payload that arrives in the next `seconds`, in Mbit/s."""
        begun, before = time.monotonic(), self.received
        await asyncio.sleep(seconds)
        return (self.received - before) * 8 / (time.monotonic() - begun) / 1e6


@asynccontextmanager
async def stream(source: Path, destination: Path, address: str) -> AsyncIterator[Stream]:
    """One TCP connection from namespace `source` to `address`, which is in namespace `destination`. Raises LabError."""
    loop = asyncio.get_running_loop()
    listener = namespaces.inside(destination, _listener)
    sender = namespaces.inside(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    sender.setblocking(False)
    flowing = Stream()

    async def send() -> None:
        while True:
            await loop.sock_sendall(sender, _CHUNK)

    async def receive(sock: socket.socket) -> None:
        buffer = bytearray(1 << 18)
        while count := await loop.sock_recv_into(sock, buffer):
            flowing.received += count

    with listener, sender:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await loop.sock_connect(sender, (address, listener.getsockname()[1]))
                accepted, _ = await loop.sock_accept(listener)
        except (OSError, TimeoutError) as err:
            raise LabError(f"no TCP connection to {address} ({err or 'no answer'})") from err
        with accepted:
            accepted.setblocking(False)
            tasks = [
                asyncio.create_task(send(), name="send"),
                asyncio.create_task(receive(accepted), name="receive"),
            ]
            try:
                yield flowing
            finally:
                for task in tasks:
                    await _ended(task)


def _listener() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("0.0.0.0", 0))
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock
