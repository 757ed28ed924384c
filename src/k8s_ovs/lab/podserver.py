"""What answers inside the pods of one node: HTTP with the pod's name, TCP and UDP echo.

Run as a file of its own by the supervisor, `python -I -S podserver.py SOCKET NODE PORT…`, one process for a node: it needs
only the standard library, so that it starts fast, and a few hundred pods cost one process. It serves each PORT for the
node itself; the kubelet tells it over the unix socket SOCKET, one JSON object a line, what to serve in which network
namespace. A TCP connection that begins like HTTP is answered as HTTP (`GET /peer` tells the address that the server
saw), any other is echoed.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

_CLONE_NEWNET = 0x40000000
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")
_MAX_HEAD = 1 << 16
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=I4s4s")
"""struct in_pktinfo of ip(7): interface, local address, destination address."""
_DATAGRAMS_AT_ONCE = 64
_libc = ctypes.CDLL(None, use_errno=True)


class TcpServer(asyncio.Protocol):
    """One TCP connection: HTTP or echo, decided by its first octets."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._mode = ""
        self._buffer = b""
        self._skip = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Echo, or collect a request."""
        transport = self._transport
        if transport is None:
            return
        if not self._mode:
            self._mode = "http" if data.startswith(_METHODS) else "echo"
        if self._mode == "echo":
            transport.write(data)
        else:
            self._buffer += data
            self._requests(transport)

    def pause_writing(self) -> None:
        """The client does not read: stop reading from it."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def _requests(self, transport: asyncio.Transport) -> None:
        while True:
            skipped = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[skipped:], self._skip - skipped
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                if len(self._buffer) > _MAX_HEAD:
                    transport.close()
                return
            self._buffer = rest
            self._answer(transport, head.decode("latin-1").split("\r\n"))

    def _answer(self, transport: asyncio.Transport, lines: list[str]) -> None:
        method, _, target = lines[0].partition(" ")
        path, _, version = target.partition(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        with contextlib.suppress(ValueError):
            self._skip = max(0, int(headers.get("content-length", "0")))
        if path.split("?")[0] == "/peer":
            peer = transport.get_extra_info("peername") or ("", 0)
            kind, body = "application/json", json.dumps({"pod": self._name, "peer": peer[0], "port": peer[1]})
        else:
            kind, body = "text/plain", self._name.rpartition("/")[2]
        keep = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\n"
            f"X-Pod: {self._name}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        transport.write((head if method == "HEAD" else head + body).encode())
        if not keep:
            transport.close()


class UdpServer:
    """Echoes every datagram of a socket, from the very address that it was sent to.

    A host has several addresses, and a reply from another one than was asked is not a reply (ip(7), IP_PKTINFO).
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def close(self) -> None:
        """Stop."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        with contextlib.suppress(OSError):  # nothing left to read, or nobody there to hear the answer
            for _ in range(_DATAGRAMS_AT_ONCE):
                data, ancillary, _, peer = self._sock.recvmsg(1 << 16, socket.CMSG_SPACE(_PKTINFO.size))
                self._sock.sendmsg([data], [_reply_from(info) for info in ancillary], 0, peer)


def _reply_from(info: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """The ancillary data that makes a reply leave with the address that the request came to."""
    level, kind, data = info
    _, local, _ = _PKTINFO.unpack(data)
    return (level, kind, _PKTINFO.pack(0, local, b""))


@dataclass
class Served:
    """The open ends of one pod; `connections` closes with it."""

    servers: list[asyncio.Server] = field(default_factory=list)
    datagrams: list[UdpServer] = field(default_factory=list)
    connections: set[asyncio.Transport] = field(default_factory=set)

    def close(self) -> None:
        """Close every socket: an open one would keep the namespace alive."""
        for server in self.servers:
            server.close()
        for datagram in self.datagrams:
            datagram.close()
        for connection in self.connections:
            connection.abort()


class PodServers:
    """Everything that is served now, by key."""

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}

    async def request(self, line: bytes) -> dict[str, Any]:
        """Carry out one request; the answer has `error` if it failed."""
        try:
            request = json.loads(line)
            if request["op"] == "serve":
                await self.serve(request["key"], request["name"], request["netns"], request["ports"])
            elif request["op"] == "stop":
                self.stop(request["key"])
            else:
                return {"error": f"unknown op {request['op']!r}"}
        except (OSError, ValueError, KeyError, TypeError) as err:
            return {"error": str(err) or repr(err)}
        return {}

    async def serve(self, key: str, name: str, netns: str, ports: list[int]) -> None:
        """Serve `ports`, TCP and UDP, in the namespace (empty: our own). What `key` served before is closed."""
        self.stop(key)
        sockets = _sockets(netns, ports)
        loop = asyncio.get_running_loop()
        served = self._served[key] = Served()

        def connection() -> TcpServer:
            return _Tracked(name, served)

        try:
            while sockets:
                sock = sockets.pop()
                if sock.type == socket.SOCK_STREAM:
                    served.servers.append(await loop.create_server(connection, sock=sock))
                else:
                    served.datagrams.append(UdpServer(sock))
        except BaseException:
            for sock in sockets:
                sock.close()
            self.stop(key)
            raise

    def stop(self, key: str) -> None:
        """Serve nothing more for `key`; unknown keys are no error."""
        served = self._served.pop(key, None)
        if served is not None:
            served.close()


class _Tracked(TcpServer):
    """A connection that its pod's end closes."""

    def __init__(self, name: str, served: Served) -> None:
        super().__init__(name)
        self._served = served

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._transport is not None:
            self._served.connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._served.connections.discard(self._transport)
            self._transport = None


def _sockets(netns: str, ports: list[int]) -> list[socket.socket]:
    """Bound, non-blocking sockets in the namespace, made by a thread that enters it and ends. Raises OSError."""
    made: list[socket.socket] = []
    failures: list[OSError] = []

    def work() -> None:
        try:
            if netns:
                _enter(netns)
            for port in ports:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    made.append(_bound(kind, port))
        except OSError as err:
            failures.append(err)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        for sock in made:
            sock.close()
        raise failures[0]
    return made


def _enter(netns: str) -> None:
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns {netns}: {os.strerror(code)}")
    finally:
        os.close(descriptor)


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.setblocking(False)
    except OSError as err:
        sock.close()
        raise OSError(err.errno, f"port {port}: {err.strerror}") from err
    return sock


async def _main(path: Path, node: str, ports: list[int]) -> None:
    servers = PodServers()
    await servers.serve("node", node, "", ports)

    clients = set()  # the event loop itself keeps no strong reference to them

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.add(task := asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(json.dumps(await servers.request(line)).encode() + b"\n")
                await writer.drain()
        writer.close()
        clients.discard(task)

    path.unlink(missing_ok=True)
    control = await asyncio.start_unix_server(client, str(path))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with control:
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2], [int(port) for port in sys.argv[3:]]))
