"""The packet sockets of another process get room for what arrives while it is busy."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s_ovs.lab import buffers

pytestmark = pytest.mark.root

SWITCH = """
import socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in sys.stdin:
    print(*(each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for each in (packets, other)), flush=True)
"""


@pytest.fixture
def switch() -> Iterator["subprocess.Popen[str]"]:
    """A process with a packet socket and another one; it says how large they are."""
    command = [sys.executable, "-I", "-S", "-c", SWITCH]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def sizes(switch: "subprocess.Popen[str]") -> list[int]:
    assert switch.stdin is not None
    assert switch.stdout is not None
    print(file=switch.stdin, flush=True)
    return [int(word) for word in switch.stdout.readline().split()]


def test_packet_sockets_are_enlarged_and_others_are_not(switch: "subprocess.Popen[str]") -> None:
    before = sizes(switch)
    known = buffers.enlarge(switch.pid, set())
    assert sizes(switch) == [2 * buffers.OCTETS, before[1]]
    assert len(known) == 2
    assert buffers.enlarge(switch.pid, known) == known


def test_what_is_known_is_left_alone(switch: "subprocess.Popen[str]") -> None:
    before = sizes(switch)
    known = {str(path.readlink()) for path in Path(f"/proc/{switch.pid}/fd").iterdir()}
    buffers.enlarge(switch.pid, known)
    assert sizes(switch) == before


def test_a_process_that_has_ended_has_none(switch: "subprocess.Popen[str]") -> None:
    switch.kill()
    switch.wait()
    assert buffers.enlarge(switch.pid, set()) == set()
