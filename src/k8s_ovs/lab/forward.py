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
        self._listener = namespaces.listener("127.0.0.1", port)
        self._netns = netns
        self._target = target

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        with self._listener:
            async with asyncio.TaskGroup() as group:
                while True:
                    client, _ = await loop.sock_accept(self._listener)
                    group.create_task(self._serve(client), name="forward")

    async def _serve(self, client: socket.socket) -> None:
        with client, namespaces.inside(self._netns, _tcp_socket) as server:
            try:
                await asyncio.get_running_loop().sock_connect(server, self._target)
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(client, server), name="forward in")
                    group.create_task(_pump(server, client), name="forward out")
            except* OSError:
                pass  # one end is away: the other sees its connection closed, as without us


def _tcp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
