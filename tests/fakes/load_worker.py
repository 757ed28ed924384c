"""Both ends of many short connections, run inside pods with `lab exec … python3 load_worker.py VERB …`.

Standard library only. For the benchmark and the end-to-end test of how evenly Services spread connections. Each takes
commands, one JSON list a line, and answers each with one JSON value; it ends with its stdin.

    serve FIRST COUNT   listens on COUNT ports from FIRST on, TCP and UDP. ["report"]: {"PORT": {"PEER": connections}} since
                        the last report, by address of the client as this end sees it
    load                ["load", ADDRESS, PORT, PROTOCOL, SOURCES, AT ONCE]: a connection from each port number of SOURCES
                        (first and last), so many at once; an answer of one octet ends it. [milliseconds, outcomes]: of
                        each that ended in time, from its first packet to its end; how many ended how: answered, refused, …
                        ["await", ADDRESS, PORT]: a TCP connection every 5 ms until one is answered; when that was
                        (CLOCK_MONOTONIC, which all namespaces share)
"""

import contextlib
import json
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

PATIENCE = 5.0
"""Seconds until a connection counts as silent: TCP tries again after 1 and after 3."""
RESEND = 1.0
PERIOD = 0.005
BACKLOG = 1024
NO_LINGER = struct.pack("ii", 1, 0)
"""Closing resets: nothing is left in TIME_WAIT, so that port numbers can be used again (socket(7), SO_LINGER)."""


class Server:
    """Counts what arrives."""

    def __init__(self, first: int, count: int) -> None:
        self._seen: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
        self._poll = select.epoll()
        self._take: dict[int, Callable[[], None]] = {}
        for port in range(first, first + count):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                self._listen(port, kind)

    def _listen(self, port: int, kind: int) -> None:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        sock.bind(("", port))
        stream = kind == socket.SOCK_STREAM
        if stream:
            sock.listen(BACKLOG)
        take = self._accept if stream else self._receive
        self._take[sock.fileno()] = lambda: take(sock, port)
        self._poll.register(sock, select.EPOLLIN)

    def _accept(self, sock: socket.socket, port: int) -> None:
        wire, peer = sock.accept()
        with wire:
            self._seen[port].add(peer)
            wire.send(b"x")

    def _receive(self, sock: socket.socket, port: int) -> None:
        _, peer = sock.recvfrom(64)
        self._seen[port].add(peer)  # once, however often it is sent again
        sock.sendto(b"x", peer)

    def run(self) -> None:
        """Until the process ends. Readiness is asked anew for each connection, so nothing waits."""
        while True:
            for number, _ in self._poll.poll():
                try:
                    self._take[number]()
                except OSError:  # the client is gone already, or another poll took it
                    continue

    def report(self) -> dict[int, dict[str, int]]:
        """What arrived since the last report."""
        seen, self._seen = self._seen, defaultdict(set)
        return {port: Counter(address for address, _ in peers) for port, peers in sorted(seen.items())}


class Load:
    """Connections to one target, some at once."""

    def __init__(self, target: tuple[str, int], protocol: str, sources: range) -> None:
        self._target = target
        self._stream = protocol == "tcp"
        self._sources = iter(sources)
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float, float]] = {}
        self.taken: list[float] = []
        self.outcomes: Counter[str] = Counter()

    def run(self, at_once: int) -> None:
        """All of them, to their end."""
        for _ in range(at_once):
            self._begin()
        while self._open:
            for number, _ in self._poll.poll(RESEND):
                self._readable(number)
            self._patience()

    def _begin(self) -> None:
        source = next(self._sources, None)
        if source is None:
            return
        kind = socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.bind(("", source))
        begun = time.monotonic()
        sock.connect_ex(self._target)
        if not self._stream:
            sock.send(b"hello")
        self._open[sock.fileno()] = (sock, begun, begun)
        self._poll.register(sock, select.EPOLLIN)

    def _readable(self, number: int) -> None:
        sock, begun, _ = self._open[number]
        try:
            outcome = "answered" if sock.recv(8) else "closed"
        except ConnectionRefusedError:
            outcome = "refused"
        except BlockingIOError:
            return
        except OSError as err:
            outcome = type(err).__name__
        self._end(number, outcome)
        self.taken.append(1000 * (time.monotonic() - begun))

    def _patience(self) -> None:
        now = time.monotonic()
        for number, (sock, begun, sent) in list(self._open.items()):
            if now - begun > PATIENCE:
                self._end(number, "silent")
            elif not self._stream and now - sent > RESEND:
                sock.send(b"hello")
                self._open[number] = (sock, begun, now)

    def _end(self, number: int, outcome: str) -> None:
        sock, _, _ = self._open.pop(number)
        self._poll.unregister(sock)
        sock.close()
        self.outcomes[outcome] += 1
        self._begin()


def load(address: str, port: int, protocol: str, sources: list[int], at_once: int) -> list[Any]:
    """See the module."""
    work = Load((address, port), protocol, range(sources[0], sources[1] + 1))
    work.run(at_once)
    return [[round(taken, 3) for taken in work.taken], dict(work.outcomes)]


def wait_for(address: str, port: int) -> float:
    """When the first connection was answered."""
    end = time.monotonic() + 10 * PATIENCE
    with select.epoll() as poll, contextlib.ExitStack() as stack:
        tried: dict[int, socket.socket] = {}
        while time.monotonic() < end:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            sock.connect_ex((address, port))
            tried[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
            for number, _ in poll.poll(PERIOD):
                poll.unregister(number)
                with contextlib.suppress(
                    OSError
                ):  # refused: the Service is known already, its endpoint is not
                    if tried[number].recv(8):
                        return time.monotonic()
    raise TimeoutError(f"no answer from {address}:{port}")


def main(verb: str, *arguments: str) -> None:
    answers: dict[str, Callable[..., Any]] = {"load": load, "await": wait_for}
    if verb == "serve":
        server = Server(*map(int, arguments))
        threading.Thread(target=server.run, daemon=True, name="server").start()
        answers = {"report": server.report}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        word, *rest = json.loads(line)
        print(json.dumps(answers[word](*rest)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
