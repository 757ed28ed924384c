"""Sends or receives one flow in a pod's network namespace; run there by `fakes.bandwidth`, standard library only.

    python -I -S bandwidth_worker.py receive tcp|udp PORT SECONDS
    python -I -S bandwidth_worker.py send tcp|udp ADDRESS PORT BITS_PER_SECOND

The receiver says `{}` when it listens. From the first octet on it looks at the kernel's own counters, several times a
second, for SECONDS (0: until stdin ends), and then says what it saw: a list of [CLOCK_MONOTONIC nanoseconds, octets of
frames that eth0 has received, frames, octets of TCP payload]. Instant and counters are read together, so a machine that is
busy and lets the receiver wait makes no rate wrong. A sender of UDP keeps to its rate, one of TCP sends what it can, both
until stdin ends. Nothing is judged here.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path

LOOK = 0.05
"""Seconds between two looks at the counters."""
DATAGRAM = 1400
"""Octets of payload: with its headers it fits into the MTU behind VXLAN."""
SO_TIMESTAMPNS = 35
TCPI_BYTES_RECEIVED = 128
"""Offset of tcpi_bytes_received in struct tcp_info (linux/tcp.h)."""
FIRST_WAIT = 20.0
MOST_BEHIND = 0.02
"""Seconds that a sender makes up for when the machine was busy."""

Sample = tuple[int, int, int, int]


def counters() -> tuple[int, int]:
    """Octets and frames that eth0 has received, as the kernel counts them: with the Ethernet header, without checksum."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "eth0":
            octets, frames = numbers.split()[:2]
            return int(octets), int(frames)
    raise SystemExit("this namespace has no eth0")


def receive(protocol: str, port: int, seconds: float) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        bound.settimeout(FIRST_WAIT)
        bound.bind(("", port))
        if protocol == "tcp":
            bound.listen()
        before = counters()
        print("{}", flush=True)
        if protocol == "tcp":
            flow, _ = bound.accept()
            first = sample(flow)
        else:
            flow, first = bound, (arrival(bound), *before, 0)
        with flow:
            samples = follow(flow, first, seconds)
    print(json.dumps(samples), flush=True)


def arrival(bound: socket.socket) -> int:
    """When the kernel got the first datagram, in nanoseconds of CLOCK_MONOTONIC."""
    _, ancillary, _, _ = bound.recvmsg(DATAGRAM, 64)
    offset = time.time_ns() - time.monotonic_ns()
    seconds, nanoseconds = struct.unpack("ll", ancillary[0][2])
    return int(seconds * 1_000_000_000 + nanoseconds - offset)


def sample(flow: socket.socket) -> Sample:
    payload = 0
    if flow.type == socket.SOCK_STREAM:
        told = flow.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_BYTES_RECEIVED + 8)
        payload = struct.unpack_from("=Q", told, TCPI_BYTES_RECEIVED)[0]
    return (time.monotonic_ns(), *counters(), payload)


def follow(flow: socket.socket, first: Sample, seconds: float) -> list[Sample]:
    samples = [first]
    flow.setblocking(False)
    buffer = bytearray(1 << 18)
    due = time.monotonic_ns()
    watched: list[socket.socket | int] = [flow, 0]
    while not seconds or samples[-1][0] - first[0] < seconds * 1e9:
        ready, _, _ = select.select(watched, [], [], LOOK)
        if 0 in ready and not os.read(0, 1):
            break
        if flow in ready and not flow.recv_into(buffer) and flow.type == socket.SOCK_STREAM:
            break
        if time.monotonic_ns() >= due:
            samples.append(sample(flow))
            due = samples[-1][0] + int(LOOK * 1e9)
    return samples


def send(protocol: str, address: str, port: int, rate: float) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as flow:
        flow.connect((address, port))
        flow.setblocking(False)
        piece = bytes(DATAGRAM if protocol == "udp" else 1 << 16)
        step = int(len(piece) * 8 / rate * 1e9) if protocol == "udp" else 0
        due = time.monotonic_ns()
        while True:
            due = max(due, time.monotonic_ns() - int(MOST_BEHIND * 1e9))
            wait = max(0.0, (due - time.monotonic_ns()) / 1e9)
            # A socket behind a shaper is not ready while its buffer is full.
            stop, ready, _ = select.select([0], [flow] if wait < 1e-3 else [], [], max(wait, 1e-3))
            if stop and not os.read(0, 1):
                return
            while ready and due <= time.monotonic_ns():
                try:
                    flow.send(piece)
                except BlockingIOError:
                    break
                except ConnectionError:
                    return  # the receiver has seen enough
                due += step


def main() -> None:
    role, protocol, *rest = sys.argv[1:]
    if role == "receive":
        receive(protocol, int(rest[0]), float(rest[1]))
    else:
        send(protocol, rest[0], int(rest[1]), float(rest[2]))


if __name__ == "__main__":
    main()
