"""Two hosts on a bridge of the userspace datapath, and datagrams between them, each knowing when it was sent.

For tests of what the datapath does with packets after the tables have changed.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fakes.private_ovs import PrivateOvs, netns_path, network_namespace, run
from k8s_ovs.dataplane.netns import call_in

SPACING = 0.0002
"""Seconds between two datagrams."""
PORT = 9


@dataclass(frozen=True)
class Host:
    """A network namespace behind port `ofport` of the bridge; its address is 192.0.2.`ofport`."""

    netns: str
    ofport: int

    @property
    def address(self) -> str:
        return f"192.0.2.{self.ofport}"

    @property
    def mac(self) -> str:
        return f"0a:58:c0:00:02:{self.ofport:02x}"

    def udp(self, port: int = 0) -> socket.socket:
        """A UDP socket of this host; it gives up after 5 s."""
        made = call_in(netns_path(self.netns), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.settimeout(5)
        made.bind((self.address, port))
        return made


@contextmanager
def wired_bridge(ovs: PrivateOvs) -> Iterator[tuple[Host, Host]]:
    """`br0` with two hosts, which know each other's MAC and that of 198.51.100.1 (the second's); no flows."""
    ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure")
    with network_namespace("k8a") as first, network_namespace("k8b") as second:
        hosts = Host(first, 1), Host(second, 2)
        for here, there in (hosts, hosts[::-1]):
            port, inside = f"wire{here.ofport}", ("ip", "-n", here.netns)
            peer = ("peer", "name", "eth0", "netns", here.netns)
            run("ip", "-n", ovs.netns, "link", "add", port, "type", "veth", *peer)
            run("ip", "-n", ovs.netns, "link", "set", port, "up")
            run(*inside, "link", "set", "eth0", "address", here.mac, "up")
            run(*inside, "address", "add", f"{here.address}/24", "dev", "eth0")
            run(*inside, "route", "add", "default", "via", there.address)
            run(*inside, "neighbour", "add", there.address, "lladdr", there.mac, "dev", "eth0")
            run("ip", "netns", "exec", here.netns, "ethtool", "-K", "eth0", "tx", "off")
            number = f"ofport_request={here.ofport}"
            ovs.vsctl("add-port", "br0", port, "--", "set", "interface", port, number)
        yield hosts


class Stream:
    """Datagrams from one host to port 9 of the other, one every 0.2 ms, from `start` to the end of the block."""

    def __init__(self, source: Host, target: Host) -> None:
        self.received: list[float] = []
        """When those that arrived were sent, on the monotonic clock."""
        self._sender, self._receiver = source.udp(), target.udp(PORT)
        self._receiver.settimeout(0.05)
        self._address = (target.address, PORT)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._receive, self._send)]

    def __enter__(self) -> "Stream":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()

    def sent_after(self, moment: float) -> int:
        """How many of those that arrived were sent after this moment of the monotonic clock."""
        return sum(sent > moment for sent in self.received)

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._sender.sendto(repr(time.monotonic()).encode(), self._address)
            due = max(due + SPACING, time.monotonic())
            while time.monotonic() < due:
                time.sleep(SPACING / 4)

    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                self.received.append(float(self._receiver.recv(64)))
            except TimeoutError:
                continue
