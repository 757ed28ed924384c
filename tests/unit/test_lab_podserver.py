import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest

from k8s_ovs.lab.podserver import PodServers


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def port() -> AsyncIterator[int]:
    servers = PodServers()
    port = free_port()
    await servers.serve("uid", "red/web", "", [port])
    yield port
    servers.stop("uid")


async def talk(port: int, data: bytes, octets: int = 0) -> bytes:
    """Send, then read until the end of the stream, or that many octets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await (reader.readexactly(octets) if octets else reader.read())
    finally:
        writer.close()


async def test_http_answers_with_the_pods_name(port: int) -> None:
    answer = await talk(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"X-Pod: red/web" in head
    assert body == b"web"


async def test_http_1_0_closes_by_itself(port: int) -> None:
    assert (await talk(port, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nweb")


async def test_peer_tells_the_address_that_the_server_saw(port: int) -> None:
    answer = await talk(port, b"GET /peer HTTP/1.0\r\n\r\n")
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["pod"] == "red/web"
    assert told["peer"] == "127.0.0.1"


async def test_one_connection_serves_many_requests_even_in_pieces(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
    try:
        for piece in (request, request[:20], request[20:-2], request[-2:], request + request):
            writer.write(piece)
            await writer.drain()
        for _ in range(4):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Content-Length: 3" in head
            assert await reader.readexactly(3) == b"web"
    finally:
        writer.close()


async def test_head_has_no_body(port: int) -> None:
    answer = await talk(port, b"HEAD / HTTP/1.0\r\n\r\n")
    assert b"Content-Length: 3" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_anything_else_over_tcp_is_echoed(port: int) -> None:
    data = b"\x00\x01 not http " * 5000
    assert await talk(port, data, len(data)) == data


async def test_udp_is_echoed(port: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        for text in (b"one", b"", b"x" * 1400):
            await loop.sock_sendall(sock, text)
            assert await loop.sock_recv(sock, 2000) == text


async def test_stop_closes_ports_and_open_connections() -> None:
    servers = PodServers()
    port = free_port()
    await servers.serve("uid", "red/web", "", [port])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"echo")
    assert await reader.readexactly(4) == b"echo"
    servers.stop("uid")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def test_a_port_that_is_taken_is_told_and_nothing_is_half_served() -> None:
    servers = PodServers()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port, free = taken.getsockname()[1], free_port()
        request = {"op": "serve", "key": "a", "name": "red/web", "netns": "", "ports": [free, port]}
        answer = await servers.request(json.dumps(request).encode())
        assert f"port {port}" in answer["error"]
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", free)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"op": "fly"}', b'{"op": "serve"}'])
async def test_requests_that_make_no_sense_are_answered(line: bytes) -> None:
    assert (await PodServers().request(line))["error"]
