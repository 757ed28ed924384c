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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from k8s_ovs.lab import namespaces
from k8s_ovs.lab.probes import Protocol, Target, echo_request
from k8s_ovs.model.types import HAIRPIN_IP

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
HOSTS = ""
"""Nodes and the rest of the world: which of their addresses a pod sees is for others to judge."""
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


_LAST: dict[str, int] = {}
"""The port last used in each place, kept beyond a ledger: the next one may ask the same lab, seconds later."""


class Ledger:
    """What has been asked in this round, by the marks that it carries: numbers in datagrams, sources of connections."""

    def __init__(self) -> None:
        self._asked: dict[int, Told] = {}
        self._begun: dict[tuple[str, int], Told] = {}
        self._homes: dict[str, str] = {}
        self._pods: set[str] = set()
        self._last = _LAST
        self._number = 0

    def know(self, address: str, pod: str) -> None:
        """The address of a pod: whose connection it is that arrives from there."""
        self._homes[address] = pod
        self._pods.add(pod)

    def mark(self, told: Told) -> bytes:
        """The content of a datagram."""
        self._number += 1
        self._asked[self._number] = told
        return MARK.pack(OURS, self._number)

    def bind(self, sock: socket.socket, told: Told) -> None:
        """Give it a source port of its pod, or of all hosts, that has not been used for as long as possible.

        Conntrack may still have a connection which a change has cut off; one that has its addresses and ports would get
        another source port on its way (as with any NAT), and not be known where it arrives.
        """
        place = told.ask.place if told.ask.place in self._pods else HOSTS
        while True:
            self._last[place] = (self._last.get(place, -1) + 1) % (LAST_PORT - FIRST_PORT)
            port = FIRST_PORT + self._last[place]
            with suppress(OSError):
                sock.bind(("", port))
                self._begun[place, port] = told
                return

    def marked(self, mark: bytes) -> Told | None:
        """Whose datagram this is."""
        if len(mark) != MARK.size or not mark.startswith(OURS):
            return None
        return self._asked.get(MARK.unpack(mark)[1])

    def answered(self, mark: bytes) -> None:
        """This has come back."""
        told = self.marked(mark)
        if told is not None:
            told.answered = True

    def arrived(self, door: str, packet: bytes) -> None:
        """A request has come to a pod."""
        header = (packet[0] & 15) * 4
        if packet[9] == socket.IPPROTO_TCP:
            told = self._connection(door, packet, struct.unpack_from("!H", packet, header)[0])
        else:
            told = self.marked(packet[header + 8 : header + 8 + MARK.size])
        if told is not None:
            told.arrivals.append((door, socket.inet_ntoa(packet[12:16])))

    def _connection(self, door: str, packet: bytes, port: int) -> Told | None:
        source = socket.inet_ntoa(packet[12:16])
        who = door if source == str(HAIRPIN_IP) else self._homes.get(source, HOSTS)
        return self._begun.get((who, port))

    def forget(self) -> None:
        """The round is over."""
        self._asked.clear()
        self._begun.clear()


class Connections:
    """Connections that are being made, all closed at the end of a round."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._open: dict[int, tuple[socket.socket, Told]] = {}

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._open

    def begin(self, sock: socket.socket, told: Told) -> None:
        """Connect; `told` will say how it ends."""
        # A reset ends it on both sides at once: no port waits.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._open[sock.fileno()] = sock, told
        self._epoll.register(sock, select.EPOLLOUT)
        code = sock.connect_ex((told.ask.target.address, told.ask.target.port))
        told.refused = "" if code in (0, errno.EINPROGRESS) else errno.errorcode[code]

    def ready(self, descriptor: int) -> None:
        """It is made, or refused."""
        sock, told = self._open[descriptor]
        self._epoll.unregister(descriptor)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_TOTAL_RETRANS + 4)
        told.repeated = struct.unpack_from("=I", info, TCPI_TOTAL_RETRANS)[0]
        told.answered, told.refused = not code, errno.errorcode[code] if code else ""

    def close(self) -> None:
        """Reset them all; epoll forgets them with that."""
        for sock, _ in self._open.values():
            sock.close()
        self._open.clear()


class Sockets:
    """The sockets in every place, and the one loop that serves them."""

    def __init__(self, places: Mapping[str, Path], pods: Iterable[str]) -> None:
        self._places = dict(places)
        self._pods = frozenset(pods)
        self._stack = ExitStack()
        self._epoll = self._stack.enter_context(select.epoll())
        self._readers: dict[int, Callable[[], None]] = {}
        self._wires: dict[tuple[str, Protocol], socket.socket] = {}
        self._doors: dict[str, socket.socket] = {}
        self._ledger = Ledger()
        self._connections = Connections(self._epoll)
        self._stack.callback(self._connections.close)

    def open(self) -> None:
        """Make them all."""
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            for title, netns in self._places.items():
                self._open(title, netns)
            on_failure.pop_all()

    def close(self) -> None:
        """Nothing is left."""
        self._stack.close()

    def _open(self, title: str, netns: Path) -> None:
        def make() -> list[socket.socket]:
            made = [
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            ]
            if title in self._pods:
                made.append(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            return made

        udp, icmp, *doors = namespaces.inside(netns, make)
        for sock in (udp, icmp, *doors):
            self._stack.callback(sock.close)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._wires[title, Protocol.UDP], self._wires[title, Protocol.ICMP] = udp, icmp
        self._read(udp, lambda: self._read_echoes(udp))
        self._read(icmp, lambda: self._read_replies(icmp))
        for sock in doors:
            watch(sock)
            self._doors[title] = sock
            self._ledger.know(namespaces.inside(netns, own_address), title)
            self._read(sock, partial(self._read_door, title, sock))

    def _read(self, sock: socket.socket, reader: Callable[[], None]) -> None:
        self._readers[sock.fileno()] = reader
        self._epoll.register(sock, select.EPOLLIN)

    def send(self, told: Iterable[Told]) -> None:
        """Send each of these once."""
        connecting: dict[str, list[Told]] = {}
        for each in told:
            if each.ask.protocol is Protocol.TCP:
                connecting.setdefault(each.ask.place, []).append(each)
                continue
            mark, target = self._ledger.mark(each), (each.ask.target.address, each.ask.target.port)
            wire = self._wires[each.ask.place, each.ask.protocol]
            with suppress(OSError):  # an ICMP error about an earlier datagram: refused is not answered
                wire.sendto(*((mark, target) if each.ask.protocol is Protocol.UDP else _echo(mark, target)))
        for place, wanted in connecting.items():
            self._connect(place, wanted)

    def _connect(self, place: str, wanted: Sequence[Told]) -> None:
        def make() -> list[socket.socket]:
            return [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in wanted]

        for sock, told in zip(namespaces.inside(self._places[place], make), wanted, strict=True):
            sock.setblocking(False)
            self._ledger.bind(sock, told)
            self._connections.begin(sock, told)

    def serve(self, condition: Callable[[], bool], seconds: float) -> None:
        """Hear until the condition holds, for so long at most."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for descriptor, _ in self._epoll.poll(left):
                if descriptor in self._readers:
                    self._readers[descriptor]()
                elif descriptor in self._connections:
                    self._connections.ready(descriptor)

    def end_round(self) -> None:
        """See everything that has arrived by now; afterwards nothing is known of these probes any more."""
        for title, door in self._doors.items():
            self._read_door(title, door)
            dropped = struct.unpack("=II", door.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
            assert dropped == 0, f"{title}: {dropped} packets came too fast to be seen"
        self._connections.close()
        self._ledger.forget()

    def _read_echoes(self, sock: socket.socket) -> None:
        for data in _waiting(sock):
            self._ledger.answered(data)

    def _read_replies(self, sock: socket.socket) -> None:
        for data in _waiting(sock):
            header = (data[0] & 15) * 4
            if data[header : header + 1] == b"\0":
                self._ledger.answered(data[header + 8 :])

    def _read_door(self, title: str, sock: socket.socket) -> None:
        for data in _waiting(sock):
            self._ledger.arrived(title, data)


class MatrixProbe:
    """Probes between places of a lab. Made by `matrix_probe`."""

    def __init__(self, sockets: Sockets, pods: Iterable[str], nodes: Iterable[Target]) -> None:
        self._sockets = sockets
        self._barriers = [
            Ask(pod, node, Protocol.UDP, allowed=True) for node in tuple(nodes) for pod in tuple(pods)
        ]

    def measure(self, asks: Sequence[Ask]) -> list[Told]:
        """Probe all of it: the allowed again and again until they are answered, the forbidden until they are surely dropped."""
        told: list[Told] = []
        for some in _portions(asks):
            begun = self._begin(some)
            self._until_answered([each for each in begun if each.ask.allowed])
            told += begun
        self._barrier()
        for again in _portions([each for each in told if not each.ask.allowed]):
            self._sockets.send(again)
            self._barrier()
        self._sockets.end_round()
        return told

    def strike(self, asks: Sequence[Ask]) -> list[Told]:
        """Probe all of it once; what is not answered within PATIENCE is lost."""
        told: list[Told] = []
        for some in _portions(asks):
            begun = self._begin(some)
            self._sockets.serve(_all_answered(begun), PATIENCE)
            told += begun
        self._sockets.end_round()
        return told

    def _begin(self, asks: Sequence[Ask]) -> list[Told]:
        told = [Told(ask) for ask in asks]
        self._sockets.send(told)
        return told

    def _until_answered(self, wanted: Sequence[Told]) -> None:
        deadline = time.monotonic() + PATIENCE
        self._sockets.serve(_all_answered(wanted), RESEND)
        while time.monotonic() < deadline and (missing := [each for each in wanted if not each.answered]):
            # The kernel repeats a connection request by itself.
            repeat = [each for each in missing if each.ask.protocol is not Protocol.TCP or each.refused]
            self._sockets.send(repeat)
            self._sockets.serve(_all_answered(missing), RESEND)

    def _barrier(self) -> None:
        """Every pod asks every node for an echo; what any of them sent before is dealt with when this returns."""
        told = self._begin(self._barriers)
        self._until_answered(told)
        silent = [f"{each.ask.place} → {each.ask.target.address}" for each in told if not each.answered]
        assert not silent, f"no echo from a node within {PATIENCE} s: {silent}"


@contextmanager
def matrix_probe(
    places: Mapping[str, Path], pods: Sequence[str], nodes: Sequence[Target]
) -> Iterator[MatrixProbe]:
    """Sockets in every place of a lab. `places` maps a title to its namespace, `pods` are those whose doors are watched.

    `nodes` are the addresses and ports where nodes echo datagrams; everybody may ask them.
    """
    sockets = Sockets(places, pods)
    sockets.open()
    try:
        yield MatrixProbe(sockets, pods, nodes)
    finally:
        sockets.close()


def own_address() -> str:
    """The address that this namespace sends from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])


def watch(door: socket.socket) -> None:
    """Have a packet socket get every request that comes in by eth0."""
    code = array("B", b"".join(struct.pack("=HBBI", *step) for step in REQUESTS_ONLY))
    program = struct.pack("HL", len(REQUESTS_ONLY), code.buffer_info()[0])
    door.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    door.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    door.bind(("eth0", ETH_P_IP))


def _echo(mark: bytes, target: tuple[str, int]) -> tuple[bytes, tuple[str, int]]:
    return echo_request(1, mark), (target[0], 0)


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[begin : begin + AT_ONCE] for begin in range(0, len(items), AT_ONCE))


def _all_answered(told: Sequence[Told]) -> Callable[[], bool]:
    return lambda: all(each.answered for each in told)


def _waiting(sock: socket.socket) -> Iterator[bytes]:
    """Everything that waits in the socket's buffer."""
    while True:
        try:
            yield sock.recv(2048)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error about something sent earlier
