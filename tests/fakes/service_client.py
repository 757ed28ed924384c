"""A client of Services, run inside a pod's or node's network with `lab exec … python3 service_client.py VERB …`.

Standard library only. Prints one JSON value.

    ask ADDRESS PORT COUNT      COUNT connections, one after another; each GET /peer. A list of [pod, peer, seconds] for
                                those that were answered and [failure, "", seconds] for the others
    tcp ADDRESS PORT            whether one connection is accepted: [outcome, "", seconds]
    udp ADDRESS PORT            one datagram, sent again and again until it comes back: [outcome, "", seconds]
    hold ADDRESS PORT           one connection, spoken over every 20 ms until stdin ends. Prints [pod, peer, seconds] at the
                                beginning, and at the end how many requests were answered, by whom, and what ended it
    keep-asking ADDRESS PORT    datagrams every 20 ms from one socket, whatever comes back: "silent" as soon as one was sent,
                                "heard" with the first answer
"""

import contextlib
import json
import select
import socket
import sys
import time
from typing import Any

PATIENCE = 2.0
"""Seconds until a connection counts as silent."""
RESEND = 0.2
PERIOD = 0.02
REQUEST = b"GET /peer HTTP/1.1\r\nHost: x\r\n\r\n"


def attempt(act: Any) -> list[Any]:
    """What came of it, and after how many seconds."""
    begun = time.monotonic()
    try:
        pod, peer = act()
    except TimeoutError:
        pod, peer = "silent", ""
    except ConnectionRefusedError:
        pod, peer = "refused", ""
    except OSError as err:
        pod, peer = type(err).__name__, ""
    return [pod, peer, time.monotonic() - begun]


def request(wire: socket.socket) -> tuple[str, str]:
    """One request over a connection that stays open."""
    wire.sendall(REQUEST)
    data = b""
    while b"}" not in data:
        chunk = wire.recv(4096)
        if not chunk:
            raise ConnectionResetError("closed")
        data += chunk
    body = json.loads(data.partition(b"\r\n\r\n")[2])
    return body["pod"], body["peer"]


def ask_once(target: tuple[str, int]) -> tuple[str, str]:
    with socket.create_connection(target, PATIENCE) as wire:
        return request(wire)


def connect(target: tuple[str, int]) -> tuple[str, str]:
    socket.create_connection(target, PATIENCE).close()
    return "open", ""


def echo(target: tuple[str, int]) -> tuple[str, str]:
    end = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.connect(target)
        wire.settimeout(RESEND)
        while True:
            wire.send(b"hello")
            try:
                wire.recv(64)
            except TimeoutError:
                if time.monotonic() > end:
                    raise
            else:
                return "open", ""


def hold(target: tuple[str, int]) -> dict[str, Any]:
    answered: dict[str, int] = {}
    with socket.create_connection(target, PATIENCE) as wire:
        print(json.dumps(attempt(lambda: request(wire))), flush=True)
        while not select.select([sys.stdin], [], [], PERIOD)[0]:
            pod, _, _ = attempt(lambda: request(wire))
            answered[pod] = answered.get(pod, 0) + 1
            if pod in ("silent", "refused") or "Error" in pod:
                break
    return answered


def keep_asking(target: tuple[str, int]) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.connect(target)
        wire.setblocking(False)
        told = False
        while not select.select([sys.stdin], [], [], 0)[0]:
            with contextlib.suppress(OSError):  # what an ICMP error said of an earlier datagram
                wire.send(b"hello")
            if not told:
                print(json.dumps("silent"), flush=True)
                told = True
            if select.select([wire, sys.stdin], [], [], PERIOD)[0] and heard(wire):
                return "heard"
    return "nothing"


def heard(wire: socket.socket) -> bool:
    try:
        return bool(wire.recv(64))
    except OSError:
        return False


def main(verb: str, address: str, port: str, count: str = "1") -> None:
    target = (address, int(port))
    answers: dict[str, Any] = {
        "ask": lambda: [attempt(lambda: ask_once(target)) for _ in range(int(count))],
        "tcp": lambda: attempt(lambda: connect(target)),
        "udp": lambda: attempt(lambda: echo(target)),
        "hold": lambda: hold(target),
        "keep-asking": lambda: keep_asking(target),
    }
    print(json.dumps(answers[verb]()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
