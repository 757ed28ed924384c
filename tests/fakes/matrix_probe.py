"""The full matrix of a lab, fast, many times over: what was asked, who answered, and at whose door it arrived.

`k8s-ovs lab matrix` needs seconds, most of them waiting for what must not come. Here nothing waits: a packet socket in
every pod sees what arrives there, and after the forbidden probes every client asks every node for an echo, on the way
that the forbidden packets took (within a switch, through the tunnel). An echo that is back says that whatever was sent
before it has been dealt with; what is not at a door by then was dropped. That is done twice, since the first packets of a
pair may wait for ARP and be overtaken.

All sockets of all namespaces belong to one thread, the caller's. Nothing is judged here: that is `fakes.matrix_truth`.
"""

import errno
import select
import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from k8s_ovs.lab import namespaces
from k8s_ovs.lab.probes import Protocol, Target, echo_request

T = TypeVar("T")

MARK = struct.Struct("!8sQ")
"""What a datagram carries: who we are, and the probe's number."""
OURS = b"matrix-1"
TCPI_TOTAL_RETRANS = 100
"""Offset of tcpi_total_retrans in struct tcp_info (linux/tcp.h)."""
SO_ATTACH_FILTER = 26
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23
ETH_P_IP = 0x0800
REQUESTS_ONLY = (
    (0xB1, 0, 0, 0),  # X = length of the IPv4 header
    (0x30, 0, 0, 9),  # A = protocol
    (0x15, 6, 0, 1),  # ICMP: to the type
    (0x15, 2, 0, 6),  # TCP: to the flags
    (0x48, 0, 0, 2),  # else UDP: the destination port
    (0x15, 5, 6, 80),
    (0x50, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 2, 3, 0x02),  # SYN without ACK
    (0x50, 0, 0, 0),
    (0x15, 0, 1, 8),  # echo request
    (0x06, 0, 0, 128),
    (0x06, 0, 0, 0),
)
"""Classic BPF: TCP connection requests, echo requests, and datagrams to the pods' servers (port 80)."""
FIRST_PORT, LAST_PORT = 32768, 60999
"""Source ports of connections: ports that no server uses."""
AT_ONCE = 128
"""Probes that are on their way at the same time: fewer than a switch port's receive buffer holds."""
RESEND = 0.3
PATIENCE = 10.0
"""Seconds that an allowed probe, and an echo of a node, may need on a machine that is busy with other things."""


@dataclass(frozen=True)
class Ask:
    """One probe: from a place, to an address, in a protocol. `allowed` says whether an answer is worth waiting for."""

    place: str
    target: Target
    protocol: Protocol
    allowed: bool


@dataclass
class Told:
    """What became of an `Ask`: answered or not; each arrival at a pod, with the source address that the pod saw.

    `refused` is the error of a connection that was refused; `repeated` says how often the kernel sent its request again.
    """

    ask: Ask
    answered: bool = False
    refused: str = ""
    repeated: int = 0
    arrivals: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Connection:
    sock: socket.socket
    told: Told


class MatrixProbe:
    """Sockets in every place of a lab. `places` maps a title to its namespace, `pods` are those whose doors are watched.

    `nodes` maps the name of each node to the address and port where it echoes datagrams; everybody may ask it.
    """

    def __init__(self, places: Mapping[str, Path], pods: Iterable[str], nodes: Mapping[str, Target]) -> None:
        self._places = dict(places)
        self._pods = tuple(pods)
        self._nodes = dict(nodes)
        self._stack = ExitStack()
        self._epoll = self._stack.enter_context(select.epoll())
        self._readers: dict[int, Callable[[], None]] = {}
        self._udp: dict[str, socket.socket] = {}
        self._icmp: dict[str, socket.socket] = {}
        self._doors: dict[str, socket.socket] = {}
        self._asked: dict[int, Told] = {}
        self._ports: dict[int, Told] = {}
        self._connections: dict[int, _Connection] = {}
        self._number = 0
        self._port = FIRST_PORT

    def __enter__(self) -> "MatrixProbe":
        try:
            for title, netns in self._places.items():
                self._open(title, netns)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_connections()
        self._stack.close()

    def _open(self, title: str, netns: Path) -> None:
        door = title in self._pods

        def make() -> list[socket.socket]:
            made = [
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            ]
            if door:
                made.append(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            return made

        udp, icmp, *doors = namespaces.inside(netns, make)
        for sock in (udp, icmp, *doors):
            self._stack.callback(sock.close)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._udp[title], self._icmp[title] = udp, icmp
        self._read(udp, lambda: self._read_echoes(udp))
        self._read(icmp, lambda: self._read_replies(icmp))
        for sock in doors:
            self._watch(sock)
            self._doors[title] = sock
            self._read(sock, partial(self._read_door, title, sock))

    @staticmethod
    def _watch(door: socket.socket) -> None:
        code = array("B", b"".join(struct.pack("=HBBI", *step) for step in REQUESTS_ONLY))
        program = struct.pack("HL", len(REQUESTS_ONLY), code.buffer_info()[0])
        door.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        door.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        door.bind(("eth0", ETH_P_IP))

    def _read(self, sock: socket.socket, reader: Callable[[], None]) -> None:
        self._readers[sock.fileno()] = reader
        self._epoll.register(sock, select.EPOLLIN)

    # ---- what one does with it

    def measure(self, asks: Sequence[Ask]) -> list[Told]:
        """Probe all of it: the allowed again and again until they are answered, the forbidden until they are surely dropped."""
        told: list[Told] = []
        for some in _portions(asks):
            begun = self._begin(some)
            self._until_answered([each for each in begun if each.ask.allowed])
            told += begun
        self._barrier()
        for again in _portions([each for each in told if not each.ask.allowed]):
            self._send(again)
            self._barrier()
        self._end()
        return told

    def strike(self, asks: Sequence[Ask]) -> list[Told]:
        """Probe all of it once; what is not answered within PATIENCE is lost."""
        told: list[Told] = []
        for some in _portions(asks):
            begun = self._begin(some)
            self._serve_until(_all_answered(begun), PATIENCE)
            told += begun
        self._end()
        return told

    def _begin(self, asks: Sequence[Ask]) -> list[Told]:
        told = [Told(ask) for ask in asks]
        self._send(told)
        return told

    def _until_answered(self, wanted: Sequence[Told]) -> None:
        deadline = time.monotonic() + PATIENCE
        self._serve_until(_all_answered(wanted), RESEND)
        while time.monotonic() < deadline and (missing := [each for each in wanted if not each.answered]):
            # The kernel repeats a connection request by itself.
            self._send([each for each in missing if each.ask.protocol is not Protocol.TCP or each.refused])
            self._serve_until(_all_answered(missing), RESEND)

    def _barrier(self) -> None:
        """Every pod asks every node for an echo; what any of them sent before is dealt with when this returns."""
        asks = [
            Ask(pod, target, Protocol.UDP, allowed=True)
            for pod in self._pods
            for target in self._nodes.values()
        ]
        told = self._begin(asks)
        self._until_answered(told)
        silent = [f"{each.ask.place} → {each.ask.target.address}" for each in told if not each.answered]
        assert not silent, f"no echo from a node within {PATIENCE} s: {silent}"

    def _end(self) -> None:
        """See everything that has arrived by now; afterwards nothing is known of these probes any more."""
        for title, door in self._doors.items():
            self._read_door(title, door)
            dropped = struct.unpack("=II", door.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
            assert dropped == 0, f"{title}: {dropped} packets came too fast to be seen"
        self._close_connections()
        self._asked.clear()
        self._ports.clear()

    # ---- sending

    def _send(self, told: Iterable[Told]) -> None:
        connecting: dict[str, list[Told]] = {}
        for each in told:
            if each.ask.protocol is Protocol.TCP:
                connecting.setdefault(each.ask.place, []).append(each)
                continue
            self._number += 1
            self._asked[self._number] = each
            mark = MARK.pack(OURS, self._number)
            with suppress(OSError):  # an ICMP error about an earlier datagram: refused is not answered
                if each.ask.protocol is Protocol.UDP:
                    self._udp[each.ask.place].sendto(mark, (each.ask.target.address, each.ask.target.port))
                else:
                    self._icmp[each.ask.place].sendto(echo_request(1, mark), (each.ask.target.address, 0))
        for place, wanted in connecting.items():
            self._connect(place, wanted)

    def _connect(self, place: str, wanted: Sequence[Told]) -> None:
        def make() -> list[socket.socket]:
            return [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in wanted]

        for sock, told in zip(namespaces.inside(self._places[place], make), wanted, strict=True):
            sock.setblocking(False)
            # A reset ends it on both sides at once: no port waits.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._name(sock, told)
            self._connections[sock.fileno()] = _Connection(sock, told)
            self._epoll.register(sock, select.EPOLLOUT)
            told.refused = ""
            code = sock.connect_ex((told.ask.target.address, told.ask.target.port))
            if code not in (0, errno.EINPROGRESS):
                told.refused = errno.errorcode[code]

    def _name(self, sock: socket.socket, told: Told) -> None:
        """A source port that no other probe of this round has, in whatever namespace: it is the connection's mark."""
        while True:
            self._port = FIRST_PORT + (self._port + 1 - FIRST_PORT) % (LAST_PORT - FIRST_PORT)
            with suppress(OSError):
                sock.bind(("", self._port))
                self._ports[self._port] = told
                return

    # ---- hearing

    def _serve_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for descriptor, _ in self._epoll.poll(left):
                if descriptor in self._readers:
                    self._readers[descriptor]()
                elif descriptor in self._connections:
                    self._connected(descriptor)

    def _connected(self, descriptor: int) -> None:
        connection = self._connections[descriptor]
        self._epoll.unregister(descriptor)
        code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        info = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        connection.told.repeated = struct.unpack_from("=I", info, TCPI_TOTAL_RETRANS)[0]
        if code:
            connection.told.refused = errno.errorcode[code]
        else:
            connection.told.answered = True

    def _close_connections(self) -> None:
        for connection in self._connections.values():
            connection.sock.close()  # the epoll forgets it with that
        self._connections.clear()

    def _read_echoes(self, sock: socket.socket) -> None:
        for data, _ in _all(sock):
            self._answered(data)

    def _read_replies(self, sock: socket.socket) -> None:
        for data, _ in _all(sock):
            header = (data[0] & 15) * 4
            if data[header : header + 1] == b"\0":
                self._answered(data[header + 8 :])

    def _answered(self, mark: bytes) -> None:
        told = self._marked(mark)
        if told is not None:
            told.answered = True

    def _marked(self, mark: bytes) -> Told | None:
        if len(mark) != MARK.size or not mark.startswith(OURS):
            return None
        return self._asked.get(MARK.unpack(mark)[1])

    def _read_door(self, title: str, sock: socket.socket) -> None:
        for data, _ in _all(sock):
            header = (data[0] & 15) * 4
            if data[9] == socket.IPPROTO_TCP:
                told = self._ports.get(struct.unpack_from("!H", data, header)[0])
            else:
                told = self._marked(data[header + 8 : header + 8 + MARK.size])
            if told is not None:
                told.arrivals.append((title, socket.inet_ntoa(data[12:16])))


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[begin : begin + AT_ONCE] for begin in range(0, len(items), AT_ONCE))


def _all_answered(told: Sequence[Told]) -> Callable[[], bool]:
    return lambda: all(each.answered for each in told)


def _all(sock: socket.socket) -> Iterable[tuple[bytes, object]]:
    """Everything that waits in the socket's buffer."""
    while True:
        try:
            yield sock.recvfrom(2048)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error about something sent earlier
