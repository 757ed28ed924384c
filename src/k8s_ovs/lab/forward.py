"""Loopback ports of the host that lead into a namespace of the lab.

Used by the supervisor for etcd and the API server: the only sockets that a lab opens outside its own namespaces. Plain
TCP; what passes is not looked at.
"""

import asyncio
import contextlib
import socket
from pathlib import Path

from k8s_ovs.lab import namespaces

_CHUNK = 1 << 16


def free_ports(count: int) -> list[int]:
    """That many different TCP ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Forwarder:
    """Accepts on 127.0.0.1:`port` and connects to `target` from inside `netns`."""

    def __init__(self, port: int, netns: Path, target: tuple[str, int]) -> None:
        self.port = port
        self._netns = netns
        self._target = target

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError if the port is taken."""
        server = await asyncio.start_server(self._serve, sock=namespaces.listener("127.0.0.1", self.port))
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            sock = namespaces.inside(self._netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self._target)
            far_reader, far_writer = await asyncio.open_connection(sock=sock)
        except OSError:
            writer.close()  # the server inside is away: the caller sees what it would see without us
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, far_writer), name="forward in")
                group.create_task(_pump(far_reader, writer), name="forward out")
        except* OSError:
            pass
        finally:
            for end in (writer, far_writer):
                with contextlib.suppress(OSError):
                    end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
