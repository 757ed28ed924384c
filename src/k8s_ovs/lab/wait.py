"""Waiting for conditions with a deadline. Used all over the lab."""

import asyncio
import contextlib
import inspect
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from k8s_ovs.lab import namespaces

_STEP = 0.03


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float) -> bool:
    """Ask `condition` again and again; False if it has not become true within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_STEP)


async def http_ok(
    port: int, path: str, *, tls: bool = False, netns: Path | None = None, seconds: float = 2.0
) -> bool:
    """Whether a GET to this port of 127.0.0.1, in the namespace `netns` or here, is answered with status 200.

    `tls` looks at no certificate.
    """
    host = "127.0.0.1"
    try:
        async with asyncio.timeout(seconds):
            context = ssl._create_unverified_context() if tls else None  # noqa: S323 - asks whether it lives, no more
            if netns is None:
                reader, writer = await asyncio.open_connection(host, port, ssl=context)
            else:
                sock = namespaces.inside(netns, lambda: socket.create_connection((host, port), seconds))
                sock.setblocking(False)
                reader, writer = await asyncio.open_connection(sock=sock, ssl=context)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in line
