"""Probes: whether a packet of a protocol gets there and back, who answers it, and what source address that one saw.

Used by the matrix. Every socket is made by a thread inside the source's namespace; then one event loop drives all of
them at once, so that a hundred pairs that are cut cost one timeout and not a hundred.
"""

import asyncio
import json
import os
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from k8s_ovs.lab import namespaces
from k8s_ovs.lab.forge import internet_checksum

_RESEND = 0.25
"""Seconds between repeats of a datagram, which may be lost for reasons that have nothing to do with tenants."""
_AT_ONCE = 1500
"""Probes that run side by side."""
_OTHER_FILES = 200
_ECHO_REQUEST = 8
_ECHO_REPLY = 0


class Protocol(StrEnum):
    """What a probe speaks."""

    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"


@dataclass(frozen=True, slots=True)
class Target:
    """An address to probe, with the port of a server that speaks as `podserver` does.

    `speaks` False: it is another server, and an accepted connection is all that can be asked of it.
    """

    address: str
    port: int
    speaks: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome: `reached`, and for TCP the name of the server that answered and the address that it saw."""

    reached: bool
    server: str = ""
    seen: str = ""


MISS = Answer(reached=False)

Probe = tuple[Target, Protocol]
_Step = Callable[[], Coroutine[None, None, None]]


async def probe_all(
    wanted: Mapping[Path, Sequence[Probe]], *, seconds: float
) -> dict[tuple[Path, Target, Protocol], Answer]:
    """Run the probes of every namespace side by side; each has `seconds` to be answered.

    Many are run in batches: each needs a socket, and thousands at once would measure how busy the machine is. Raises
    OSError if a namespace cannot be entered (it has gone, say).
    """
    answers: dict[tuple[Path, Target, Protocol], Answer] = {}

    async def source(netns: Path, probes: Sequence[Probe]) -> None:
        for (target, protocol), answer in (await probe_from(netns, probes, seconds=seconds)).items():
            answers[netns, target, protocol] = answer

    for batch in batches(wanted, _room()):
        async with asyncio.TaskGroup() as group:
            for netns, probes in batch.items():
                group.create_task(source(netns, probes), name=f"probe {netns.name}")
    return answers


def batches(wanted: Mapping[Path, Sequence[Probe]], size: int) -> Iterator[dict[Path, list[Probe]]]:
    """All probes in portions of at most `size`."""
    batch: dict[Path, list[Probe]] = {}
    room = size
    for netns, probes in wanted.items():
        for probe in probes:
            if room == 0:
                yield batch
                batch, room = {}, size
            batch.setdefault(netns, []).append(probe)
            room -= 1
    if batch:
        yield batch


def _room() -> int:
    """How many sockets we may have at once; asks the kernel for more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _AT_ONCE + _OTHER_FILES
    if soft < wanted and (hard == resource.RLIM_INFINITY or hard > soft):
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(_AT_ONCE, soft - _OTHER_FILES))


async def probe_from(netns: Path, probes: Sequence[Probe], *, seconds: float) -> dict[Probe, Answer]:
    """Run the probes of one namespace side by side. Raises OSError if it cannot be entered."""
    sockets = namespaces.inside(netns, lambda: [_socket(protocol) for _, protocol in probes])
    answers: dict[Probe, Answer] = {}

    async def one(probe: Probe, sock: socket.socket) -> None:
        target, protocol = probe
        answer = MISS
        try:
            async with asyncio.timeout(seconds):
                answer = await _RUNNERS[protocol](sock, target)
        except* (OSError, TimeoutError, ValueError, KeyError):
            pass  # refused, unreachable, silent, or somebody else's server
        answers[probe] = answer

    try:
        async with asyncio.TaskGroup() as group:
            for probe, sock in zip(probes, sockets, strict=True):
                group.create_task(one(probe, sock), name=f"probe {probe[1]} {probe[0].address}")
    finally:
        for sock in sockets:
            sock.close()
    return answers


def _socket(protocol: Protocol) -> socket.socket:
    if protocol is Protocol.TCP:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    elif protocol is Protocol.UDP:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setblocking(False)
    return sock


async def _tcp(sock: socket.socket, target: Target) -> Answer:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (target.address, target.port))
    if not target.speaks:
        return Answer(reached=True)
    request = f"GET /peer HTTP/1.1\r\nHost: {target.address}\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(sock, request.encode())
    data = b""
    while chunk := await loop.sock_recv(sock, 1 << 14):
        data += chunk
    body = json.loads(data.partition(b"\r\n\r\n")[2])
    return Answer(reached=True, server=body["pod"], seen=body["peer"])


async def _udp(sock: socket.socket, target: Target) -> Answer:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (target.address, target.port))
    token = os.urandom(16)

    async def ask() -> None:
        while True:
            await loop.sock_sendall(sock, token)
            await asyncio.sleep(_RESEND)

    async def hear() -> None:
        while await loop.sock_recv(sock, 64) != token:
            pass

    await _until_heard(ask, hear)
    return Answer(reached=True)


async def _icmp(sock: socket.socket, target: Target) -> Answer:
    loop = asyncio.get_running_loop()
    # A raw socket gets the replies to everybody's requests: connected, only those of this target, and of those the
    # token tells ours.
    sock.connect((target.address, 0))
    token = os.urandom(16)
    request = echo_request(struct.unpack("!H", os.urandom(2))[0], token)

    async def ask() -> None:
        while True:
            await loop.sock_sendall(sock, request)
            await asyncio.sleep(_RESEND)

    async def hear() -> None:
        while not is_reply(await loop.sock_recv(sock, 2048), token):
            pass

    await _until_heard(ask, hear)
    return Answer(reached=True)


async def _until_heard(ask: _Step, hear: _Step) -> None:
    """Ask again and again until an answer is heard."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(), name="ask")
        try:
            await hear()
        finally:
            asking.cancel()


def echo_request(identifier: int, token: bytes) -> bytes:
    """An ICMP echo request with `token` as its data (RFC 792)."""
    blank = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identifier, 1)
    checksum = internet_checksum(blank + token)
    return struct.pack("!BBHHH", _ECHO_REQUEST, 0, checksum, identifier, 1) + token


def is_reply(packet: bytes, token: bytes) -> bool:
    """Whether this IPv4 packet is an echo reply that carries `token`."""
    if not packet:
        return False
    header = (packet[0] & 0x0F) * 4
    return packet[header : header + 1] == bytes([_ECHO_REPLY]) and packet[header + 8 :] == token


def all_protocols(targets: Iterable[Target]) -> list[Probe]:
    """Every protocol to every target."""
    return [(target, protocol) for target in targets for protocol in Protocol]


_RUNNERS: dict[Protocol, Callable[[socket.socket, Target], Awaitable[Answer]]] = {
    Protocol.TCP: _tcp,
    Protocol.UDP: _udp,
    Protocol.ICMP: _icmp,
}
