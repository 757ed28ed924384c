"""sd_notify, against a real datagram socket."""

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s_ovs.runtime.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket and what it would put into NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            name = address = str(tmp_path / "notify")
        else:
            name = "k8s-ovs-test-" + secrets.token_hex(8)
            name, address = "\0" + name, "@" + name
        sock.bind(name)
        sock.setblocking(False)
        yield sock, address


def test_states_are_lines_of_one_datagram(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    assert notifier.enabled
    assert notifier.status("waiting for\netcd")
    assert notifier.ready("serving")
    assert notifier.stopping()
    assert [sock.recv(1000) for _ in range(3)] == [
        b"STATUS=waiting for etcd",
        b"READY=1\nSTATUS=serving",
        b"STOPPING=1",
    ]


def test_the_same_status_is_sent_once(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    notifier = Notifier(address)
    assert [notifier.status(text) for text in ("a", "a", "b", "a")] == [True] * 4
    assert [sock.recv(1000) for _ in range(3)] == [b"STATUS=a", b"STATUS=b", b"STATUS=a"]
    with pytest.raises(BlockingIOError):
        sock.recv(1000)


def test_without_a_service_manager_nothing_is_sent() -> None:
    notifier = Notifier.from_environment({})
    assert not notifier.enabled
    assert not notifier.ready()


def test_a_socket_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "none")).ready()
