"""Sends and receives the probes of one network namespace; run there by `fakes.traffic`, standard library only.

    python -I -S traffic_worker.py        first line of stdin: the plan; then one command a line; answers on stdout

Every probe carries its stream, its number and the instant it was sent. Receivers note when the kernel got it
(SO_TIMESTAMPNS, turned into CLOCK_MONOTONIC, which all namespaces share), so that a busy machine which reads late does
not make packets late. Commands: "start" (sending), "look" (at how much has arrived), "quiet" (send no more),
"reconnect ID …" (TCP streams begin anew), "report" (say all, and end). The end of stdin ends it too. It judges nothing:
that is `fakes.traffic_log`.
"""

import base64
import contextlib
import errno
import json
import os
import select
import socket
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from typing import Any

PROBE = struct.Struct("!IIqB")
"""Stream, number, CLOCK_MONOTONIC nanoseconds at sending, flags."""
ECHO, ANSWER = 1, 2
SO_TIMESTAMPNS = 35
ETH_P_IP = 0x0800
PACKET_OUTGOING = 4
SO_ATTACH_FILTER = 26
IPPROTO_TCP_ONLY = ((0x30, 0, 0, 9), (0x15, 0, 1, 6), (0x06, 0, 0, 96), (0x06, 0, 0, 0))
"""Classic BPF: load the IPv4 protocol; TCP: the first 96 octets; else nothing."""
TCPI_TOTAL_RETRANS = 100
"""Offset of tcpi_total_retrans in struct tcp_info (linux/tcp.h)."""
LISTEN_QUEUE = 128
MOST_BEHIND = 0.05
"""Seconds that a sender makes up for when the machine was busy; what is beyond was never sent, and is not lost."""


class Arrivals:
    """Numbers of probes and when the kernel got them."""

    def __init__(self) -> None:
        self.numbers = array("I")
        self.instants = array("q")

    def add(self, number: int, instant: int) -> None:
        self.numbers.append(number)
        self.instants.append(instant)

    def told(self) -> list[str]:
        return [_text(self.numbers), _text(self.instants)]


def _text(values: "array[int]") -> str:
    return base64.b64encode(values.tobytes()).decode()


class Stream:
    """What one sender has sent: the instant of each number; and for echoes, the answers."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.id: int = plan["id"]
        self.address: tuple[str, int] = (plan["address"], plan["port"])
        self.tcp: bool = plan["tcp"]
        self.flags = ECHO if plan["echo"] else 0
        self.period: int = plan["period"]
        self.due = 0
        self.sent = array("q")
        self.answers = Arrivals()
        self.connects = array("q")
        self.names: list[tuple[str, int]] = []
        self.failures: list[list[Any]] = []
        self.retransmits = 0
        self.blocked = 0
        self.socket: socket.socket | None = None
        self.connected = False
        self.rest = b""

    def told(self) -> dict[str, Any]:
        self.count_retransmits()
        return {
            "sent": _text(self.sent),
            "answers": self.answers.told(),
            "connects": list(self.connects),
            "names": self.names,
            "failures": self.failures,
            "retransmits": self.retransmits,
            "blocked": self.blocked,
        }

    def count_retransmits(self) -> None:
        if self.tcp and self.socket is not None and self.connected:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            self.retransmits += struct.unpack_from("=I", info, TCPI_TOTAL_RETRANS)[0]


class Sockets:
    """The sockets of the namespace, and who reads them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[int], None]] = {}
        self._offset = 0

    def add(
        self, descriptor: int | socket.socket, reader: Callable[[int], None], events: int = select.EPOLLIN
    ) -> None:
        if isinstance(descriptor, socket.socket):
            descriptor.setblocking(False)
            descriptor = descriptor.fileno()
        self._readers[descriptor] = reader
        self._epoll.register(descriptor, events)

    def only_read(self, sock: socket.socket) -> None:
        self._epoll.modify(sock, select.EPOLLIN)

    def drop(self, sock: socket.socket) -> None:
        self._readers.pop(sock.fileno(), None)
        with contextlib.suppress(OSError):
            self._epoll.unregister(sock)
        sock.close()

    def serve(self, seconds: float) -> None:
        """Wait until something arrives, and have it read."""
        ready = self._epoll.poll(seconds)
        self._offset = time.time_ns() - time.monotonic_ns()
        for descriptor, events in ready:
            reader = self._readers.get(descriptor)
            if reader is not None:
                reader(events)

    def instant(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """When the kernel got a packet, in nanoseconds of CLOCK_MONOTONIC."""
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("ll", data)
                return int(seconds * 1_000_000_000 + nanoseconds - self._offset)
        return time.monotonic_ns()


class Receiver:
    """What arrives here: probes, and the TCP segments of probes."""

    def __init__(self, sockets: Sockets, udp_port: int, tcp_port: int) -> None:
        self.received: dict[int, Arrivals] = {}
        self.segments: list[tuple[str, int, int, int]] = []
        self._sockets = sockets
        self._tcp_port = tcp_port
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        udp.bind(("", udp_port))
        sockets.add(udp, lambda _: read_datagrams(sockets, udp, self.note))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("", tcp_port))
        tcp.listen(LISTEN_QUEUE)
        sockets.add(tcp, lambda _: self._accept(tcp))

    def note(self, stream: int, number: int, instant: int) -> None:
        self.received.setdefault(stream, Arrivals()).add(number, instant)

    def sniff(self) -> None:
        """See every TCP segment that arrives for our port, also those that bring nothing new."""
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        code = array("B", b"".join(struct.pack("=HBBI", *step) for step in IPPROTO_TCP_ONLY))
        program = struct.pack("HL", len(IPPROTO_TCP_ONLY), code.buffer_info()[0])
        packets.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        packets.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._sockets.add(packets, lambda _: self._read_segments(packets))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        rest = b""

        def read(_: int) -> None:
            nonlocal rest
            try:
                rest, echoes = read_records(sock, rest, self.note)
                if echoes:
                    sock.send(echoes)
            except BlockingIOError:
                pass
            except OSError:
                self._sockets.drop(sock)

        self._sockets.add(sock, read)

    def _read_segments(self, packets: socket.socket) -> None:
        while True:
            try:
                data, ancillary, _, sender = packets.recvmsg(96, 64)
            except BlockingIOError:
                return
            header = (data[0] & 15) * 4
            source, target = struct.unpack_from("!HH", data, header)
            if target == self._tcp_port and sender[2] != PACKET_OUTGOING:
                address = socket.inet_ntoa(data[12:16])
                self.segments.append((address, source, data[header + 13], self._sockets.instant(ancillary)))


Note = Callable[[int, int, int], None]


def read_datagrams(sockets: Sockets, sock: socket.socket, note: Note) -> None:
    """Note all probes that wait, and answer those that ask for it; an answer is noted as such at its own end."""
    while True:
        try:
            data, ancillary, _, sender = sock.recvmsg(64, 64)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error about an earlier answer
        if len(data) != PROBE.size:
            continue
        stream, number, sent, flags = PROBE.unpack(data)
        note(stream, number, sockets.instant(ancillary))
        if flags == ECHO:
            with contextlib.suppress(OSError):
                sock.sendto(PROBE.pack(stream, number, sent, ECHO | ANSWER), sender)


def read_records(sock: socket.socket, rest: bytes, note: Note) -> tuple[bytes, bytes]:
    """Note what a connection has brought: what is left over, and the answers to send. OSError when it has ended."""
    data = sock.recv(1 << 16)
    if not data:
        raise ConnectionResetError(errno.EPIPE, "closed by the other end")
    now = time.monotonic_ns()
    data = rest + data
    whole = len(data) - len(data) % PROBE.size
    echoes = b""
    for stream, number, sent, flags in PROBE.iter_unpack(data[:whole]):
        note(stream, number, now)
        if flags == ECHO:
            echoes += PROBE.pack(stream, number, sent, ECHO | ANSWER)
    return data[whole:], echoes


class Sender:
    """What is sent from here."""

    def __init__(self, sockets: Sockets, plans: list[dict[str, Any]]) -> None:
        self.streams = {plan["id"]: Stream(plan) for plan in plans}
        self._sockets = sockets
        now = time.monotonic_ns()
        for place, stream in enumerate(self.streams.values()):
            stream.due = now + place * stream.period // len(self.streams)
            self._open(stream)

    def send_due(self, now: int) -> int:
        """Send what is due; the instant when the next is."""
        soonest = now + 1_000_000_000
        for stream in self.streams.values():
            if now - stream.due > MOST_BEHIND * 1e9:
                stream.due = now
            while stream.due <= now:
                self._send(stream)
                stream.due += stream.period
            soonest = min(soonest, stream.due)
        return soonest

    def reconnect(self, ids: Iterable[int]) -> None:
        """End these TCP streams, and begin them anew."""
        for stream in (self.streams[each] for each in ids):
            self._close(stream)
            self._open(stream)

    def _open(self, stream: Stream) -> None:
        stream.connected, stream.rest = not stream.tcp, b""
        if not stream.tcp:
            stream.socket = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._sockets.add(sock, lambda _: read_datagrams(self._sockets, sock, self._note_answer))
            return
        stream.socket = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ready = select.EPOLLIN | select.EPOLLOUT
        self._sockets.add(sock, lambda events: self._ready(stream, sock, events), ready)
        code = sock.connect_ex(stream.address)
        if code not in (0, errno.EINPROGRESS):
            self._failed(stream, OSError(code, "connect"))

    def _close(self, stream: Stream) -> None:
        if stream.socket is not None:
            with contextlib.suppress(OSError):
                stream.count_retransmits()
            self._sockets.drop(stream.socket)
        stream.socket, stream.connected = None, False

    def _failed(self, stream: Stream, error: OSError) -> None:
        """Note it; a connection that ended is not begun anew unless a command says so."""
        name = errno.errorcode.get(error.errno or 0, str(error))
        stream.failures.append([name, time.monotonic_ns()])
        if stream.tcp:
            self._close(stream)

    def _note_answer(self, stream: int, number: int, instant: int) -> None:
        self.streams[stream].answers.add(number, instant)

    def _ready(self, stream: Stream, sock: socket.socket, events: int) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(stream, OSError(code, "connection"))
            return
        try:
            if not stream.connected:
                stream.connected = True
                stream.connects.append(time.monotonic_ns())
                stream.names.append(sock.getsockname())
                self._sockets.only_read(sock)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                stream.rest, _ = read_records(sock, stream.rest, self._note_answer)
        except BlockingIOError:
            pass
        except OSError as err:
            self._failed(stream, err)

    def _send(self, stream: Stream) -> None:
        if stream.socket is None or not stream.connected:
            return
        instant = time.monotonic_ns()
        probe = PROBE.pack(stream.id, len(stream.sent), instant, stream.flags)
        try:
            if stream.tcp:
                stream.socket.sendall(probe)
            else:
                stream.socket.sendto(probe, stream.address)
            stream.sent.append(instant)
        except BlockingIOError:
            stream.blocked += 1
        except OSError as err:
            self._failed(stream, err)


class Worker:
    """The loop, and the commands on stdin."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._sockets = Sockets()
        self._receiver = Receiver(self._sockets, plan["udp_port"], plan["tcp_port"])
        if plan["sniff"]:
            self._receiver.sniff()
        self._plans = plan["streams"]
        self._sender = Sender(self._sockets, [])
        self._quiet = self._done = False
        self._typed = b""

    def run(self) -> None:
        self._sockets.add(0, lambda _: self._read_commands())
        say({"up": True})
        while not self._done:
            now = time.monotonic_ns()
            soonest = now + 1_000_000_000 if self._quiet else self._sender.send_due(now)
            self._sockets.serve(max(0.0, (soonest - time.monotonic_ns()) / 1e9))

    def _read_commands(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self._done = True
            return
        *lines, self._typed = (self._typed + data).split(b"\n")
        for line in lines:
            word, *rest = line.decode().split()
            self._obey(word, [int(text) for text in rest])

    def _obey(self, word: str, ids: list[int]) -> None:
        if word == "start":
            self._sender = Sender(self._sockets, self._plans)
        elif word == "quiet":
            self._quiet = True
        elif word == "reconnect":
            self._sender.reconnect(ids)
        if word == "report":
            say(self._report())
            self._done = True
        else:
            say({"received": {key: len(value.numbers) for key, value in self._receiver.received.items()}})

    def _report(self) -> dict[str, Any]:
        return {
            "streams": {stream.id: stream.told() for stream in self._sender.streams.values()},
            "received": {key: value.told() for key, value in self._receiver.received.items()},
            "segments": self._receiver.segments,
        }


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    plan = b""
    while not plan.endswith(b"\n"):
        piece = os.read(0, 1)  # a buffer would swallow the commands that follow
        if not piece:
            return
        plan += piece
    Worker(json.loads(plan)).run()


if __name__ == "__main__":
    main()
