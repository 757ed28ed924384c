"""One node with a real switch and real packets: pods are network namespaces, the host is the switch's own.

For functional tests of the flows. Everything is removed when the block ends. `ask` and `serve` run small Python programs in
a namespace; a server answers with its name and the address of the client as it sees it. A `sink/PORT` takes UDP and is silent
until it is asked with "?" how many datagrams it got.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from fakes.clusters import Node, Pod
from fakes.private_ovs import PrivateOvs, netns_path, network_namespace, private_ovs, run
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.flows.diff import Mod
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import Event
from k8s_ovs.model.records import ViewKey
from k8s_ovs.model.types import HAIRPIN_IP
from k8s_ovs.model.view import NodeView

RULES = (
    # The kernel has no business with what pods send: the switch has it.
    "-t raw -A PREROUTING -i p+ -j DROP",
    *(
        f"-A {chain} -i tun0 -d 10.96.0.0/12 {refusal}"
        for chain in ("INPUT", "FORWARD")
        for refusal in (
            "-p tcp -j REJECT --reject-with tcp-reset",
            "-j REJECT --reject-with icmp-port-unreachable",
        )
    ),
)
"""What the agent's own rules do for Services, here without the agent."""

MANY = IPv4Network("198.18.0.0/15")
"""A network (RFC 2544) whose addresses are all the host's."""

SERVER = """
import selectors, socket, sys
name, address, *ports = sys.argv[1:]
poll = selectors.DefaultSelector()
for entry in ports:
    kind, port = entry.split("/")
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, int(port)))
    if kind == "tcp":
        made.listen(512)
    poll.register(made, selectors.EVENT_READ, kind)
print("ready", flush=True)
got = 0
while True:
    for key, _ in poll.select():
        sock, kind = key.fileobj, key.data
        if kind == "sink":
            data, peer = sock.recvfrom(65535)
            got += 1
            if data == b"?":
                sock.sendto(f"{name} {peer[0]} {got}".encode(), peer)
        elif kind == "udp":
            data, peer = sock.recvfrom(65535)
            sock.sendto(f"{name} {peer[0]} {len(data)}".encode().ljust(len(data), b"."), peer)
        elif kind == "tcp":
            made, peer = sock.accept()
            poll.register(made, selectors.EVENT_READ, ("open", peer))
        else:
            try:
                data = sock.recv(65535)
                if data:
                    sock.sendall(f"{name} {kind[1][0]}".encode())
            except OSError:
                data = b""
            if not data:
                poll.unregister(sock)
                sock.close()
"""

CLIENT = """
import socket, sys, time
kind, address, port, count, size, local = sys.argv[1:]
for _ in range(int(count)):
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(2)
    began = time.monotonic()
    try:
        if int(local):
            made.bind(("", int(local)))
        made.connect((address, int(port)))
        if kind == "sink":
            for _ in range(int(size)):
                made.send(b"x")
                time.sleep(0.01)
        made.send(b"?" if kind == "sink" else b"x" * int(size))
        print(made.recv(65535).decode().rstrip("."))
    except OSError as error:
        print(type(error).__name__, error.errno, round(time.monotonic() - began, 2))
    made.close()
"""


DIALOGUE = """
import socket, sys
made = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
made.settimeout(5)
for line in sys.stdin:
    made.sendall(b"x")
    print(made.recv(65535).decode(), flush=True)
"""


@dataclass
class Dialogue:
    """A TCP connection that stays open."""

    process: "subprocess.Popen[str]"

    def say(self) -> str:
        """Send something; the answer, empty if the connection is broken."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@dataclass
class PodNode:
    """A node: `ovs` with its bridge, `view` and `desired` flows, and the namespaces of its pods by their number."""

    node: Node
    ovs: PrivateOvs
    stack: ExitStack
    pods: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.view = NodeView(self.node.name)
        self.desired = DesiredFlows()
        self.table = OfctlFlowTable(self.ovs.mgmt())

    def tell(self, *events: Event) -> list[Mod]:
        """Take in events and commit what follows from them, as the agent does; the modifications."""
        dirty: set[ViewKey] = set()
        for event in events:
            dirty |= self.view.apply(event)
        mods = self.desired.update(self.view, dirty)
        asyncio.run(self._commit(mods))
        return mods

    async def _commit(self, mods: list[Mod]) -> None:
        await self.table.commit(mods)
        await self.table.settle()

    def serve(self, where: str, name: str, *ports: str, address: str = "0.0.0.0") -> None:
        """Serve `tcp/PORT` and `udp/PORT` in the namespace `where` until the node goes."""
        server = subprocess.Popen(
            _inside(where, SERVER, name, address, *ports), stdout=subprocess.PIPE, text=True
        )
        self.stack.callback(_end, server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", f"the server {name} did not start"

    def ask(
        self,
        where: str,
        kind: str,
        address: object,
        port: int,
        count: int = 1,
        *,
        size: int = 1,
        local: int = 0,
    ) -> list[str]:
        """Connect `count` times, one after the other, from the namespace `where`; the answers, or the errors."""
        arguments = (kind, str(address), str(port), str(count), str(size), str(local))
        return run(*_inside(where, CLIENT, *arguments)).splitlines()

    def dial(self, where: str, address: object, port: int) -> Dialogue:
        """Open a TCP connection from the namespace `where`; closed at the latest when the node goes."""
        made = subprocess.Popen(
            _inside(where, DIALOGUE, str(address), str(port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(_end, made)
        return Dialogue(made)

    @property
    def host(self) -> str:
        """The namespace of the host."""
        return self.ovs.netns

    def add_pod(self, pod: Pod) -> str:
        """A namespace with the pod's address, joined to the bridge; its name."""
        netns = self.stack.enter_context(network_namespace("k8p"))
        port = f"p{pod.port}"
        run(
            "ip", "-n", self.host, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", netns
        )
        run("ip", "-n", self.host, "link", "set", port, "arp", "off", "up")
        inside = ("ip", "-n", netns)
        run(*inside, "link", "set", "eth0", "address", pod.mac, "up")
        run("ip", "netns", "exec", netns, "ethtool", "-K", "eth0", "tx", "off")
        run(*inside, "address", "add", f"{pod.ip}/32", "dev", "eth0")
        run(*inside, "route", "add", str(pod.node.gateway), "dev", "eth0")
        run(*inside, "route", "add", "default", "via", str(pod.node.gateway))
        self.ovs.vsctl("add-port", "br0", port, "--", "set", "interface", port, f"ofport_request={pod.port}")
        assert self.ovs.vsctl("get", "interface", port, "ofport") == str(pod.port)
        self.pods[pod.number] = netns
        return netns


def _inside(netns: str, program: str, *arguments: str) -> list[str]:
    return ["nsenter", f"--net={netns_path(netns)}", sys.executable, "-c", program, *arguments]


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@contextmanager
def pod_node(node: Node) -> Iterator[PodNode]:
    """A node whose bridge has a tunnel port and the gateway, the latter with its address and routes; no pods yet."""
    with private_ovs() as ovs, ExitStack() as stack:
        ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure")
        vxlan = ("type=vxlan", "ofport_request=1", "options:remote_ip=flow", "options:key=flow")
        ovs.vsctl("add-port", "br0", "vxlan0", "--", "set", "interface", "vxlan0", *vxlan)
        mac = f'mac="{node.gateway_mac}"'
        gateway = ("type=internal", "ofport_request=2", mac)
        ovs.vsctl("add-port", "br0", "tun0", "--", "set", "interface", "tun0", *gateway)
        host = ("ip", "-n", ovs.netns)
        run(*host, "address", "add", f"{node.ip}/32", "dev", "lo")
        run(*host, "address", "add", f"{node.gateway}/22", "dev", "tun0")
        run(*host, "link", "set", "tun0", "up")
        for network in ("172.11.0.0/16", "10.96.0.0/12", f"{HAIRPIN_IP}/32"):
            run(*host, "route", "add", network, "dev", "tun0")
        # The kernel's redirects would use up the rate that it allows for the ICMP errors of a refusal.
        quiet = [f"net.ipv4.conf.{name}.send_redirects=0" for name in ("all", "tun0")]
        run("ip", "netns", "exec", ovs.netns, "sysctl", "-qw", "net.ipv4.ip_forward=1", *quiet)
        # Every address of this network is the host's: endpoints in any number.
        run(*host, "route", "add", "local", str(MANY), "dev", "lo")
        run("ip", "netns", "exec", ovs.netns, "ethtool", "-K", "tun0", "tx", "off")
        for rule in RULES:
            run("ip", "netns", "exec", ovs.netns, "iptables", "-w", *rule.split())
        ovs.ofctl("set-frags", ovs.mgmt(), "nx-match")
        yield PodNode(node, ovs, stack)
