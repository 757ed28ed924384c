"""A node's own Open vSwitch: its database, its uplink bridge, and the node's address on it.

Called by the supervisor. The address is what a host's network service would do: whenever the switch (re)creates the
bridge's port, the address and the default route go onto it again, at once. The pods' bridge is the agent's, not ours.

The switch does not read the kernel's routes (--disable-system-route), it is told the two that it needs: a userspace switch
that does reads them all anew whenever any interface of its host comes, goes or changes, and until it has, it knows
neither the way into its tunnels nor its own tunnel address (OVS 3.1, ovs-router.c). The kernel datapath has no such gap.
"""

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from k8s_ovs.dataplane import unixctl
from k8s_ovs.errors import LabError, OpenFlowError
from k8s_ovs.lab import fabric, namespaces
from k8s_ovs.lab.cluster import UNDERLAY_BRIDGE, Cluster, Node
from k8s_ovs.lab.commands import VSWITCH_SCHEMA, ovs_environment

ADDRESS_FILE = "address"
_SO_RCVBUFFORCE = 33
_RTM_NEWLINK = 16
_RTM_NEWADDR = 20
_SIOCGIFADDR = 0x8915
_RTMGRP_LINK = 1
_RTMGRP_IPV4_IFADDR = 0x10
_ROUTES_DEADLINE = 5.0
_ROUTES_RETRY = 0.2
_IFLA_IFNAME = 3
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")


async def create_database(node: Node) -> None:
    """Make the node's directories and an empty OVSDB. Raises LabError."""
    for directory in (node.ovs_rundir, node.cni_conf_dir):
        directory.mkdir(parents=True, exist_ok=True)
    if not VSWITCH_SCHEMA.exists():
        raise LabError(f"{VSWITCH_SCHEMA} is missing", remedy="install the Debian package openvswitch-switch")
    await _tool(node, "ovsdb-tool", "create", str(node.ovs_database), str(VSWITCH_SCHEMA))


async def configure(cluster: Cluster, node: Node) -> None:
    """Write the uplink bridge into the database; the switch builds it when it starts. Raises LabError."""
    await _tool(
        node,
        "ovs-vsctl",
        "--timeout=10",
        "--retry",
        "--no-wait",
        f"--db=unix:{node.ovs_rundir / 'db.sock'}",
        *("--", "init"),
        *("--", "set", "Open_vSwitch", ".", f"external-ids:hostname={node.name}"),
        *("--", "set", "Open_vSwitch", ".", f"external-ids:system-id={cluster.name}-{node.name}"),
        *("--", "--may-exist", "add-br", UNDERLAY_BRIDGE),
        *("--", "set", "Bridge", UNDERLAY_BRIDGE, "datapath_type=netdev", "fail_mode=standalone"),
        *("--", "--may-exist", "add-port", UNDERLAY_BRIDGE, "eth0"),
    )


async def _tool(node: Node, *argv: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ovs_environment(node)},
    )
    _, err = await process.communicate()
    if process.returncode != 0:
        raise LabError(f"{node.name}: `{argv[0]}` failed ({process.returncode}): {err.decode().strip()}")


def current(node: Node) -> Node:
    """The node with the address that it has now: that of the file `address` in its directory, if somebody wrote one.

    It stands for the host's network configuration; who writes it also changes the address of the uplink bridge.
    """
    try:
        return replace(node, address=IPv4Interface((node.directory / ADDRESS_FILE).read_text().strip()))
    except (OSError, ValueError):
        return node


def uplink_batch(cluster: Cluster, node: Node) -> str:
    """`ip -batch` lines that put the node's address onto the uplink bridge."""
    return (
        f"addr replace {node.address} dev {UNDERLAY_BRIDGE}\n"
        f"link set {UNDERLAY_BRIDGE} up\n"
        f"route replace default via {cluster.networks.router.ip}\n"
    )


def tunnel_routes(cluster: Cluster, node: Node) -> list[tuple[str, ...]]:
    """Arguments of `ovs/route/add` (ovs-vswitchd(8)): what the kernel's table says after `uplink_batch`."""
    router = str(cluster.networks.router.ip)
    return [(str(node.address.network), UNDERLAY_BRIDGE), ("0.0.0.0/0", UNDERLAY_BRIDGE, router)]


class Uplink:
    """Keeps the node's address on its uplink bridge, and the switch's routes with it.

    `listening` is set when the switch may start, `ready` once address and routes are there for the first time, `stirred`
    whenever an interface of the node has changed.
    """

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self.listening = asyncio.Event()
        self.ready = asyncio.Event()
        self.stirred = asyncio.Event()
        self._cluster = cluster
        self._node = node

    async def run(self) -> None:
        """Configure the bridge's port each time it appears or changes. Runs before the switch starts, until cancelled."""
        sock = namespaces.inside(self._node.netns, _link_monitor)
        self.listening.set()
        try:
            configured, told = LinkState(0, 0), True
            while True:
                try:
                    async with asyncio.timeout(None if told else _ROUTES_RETRY):
                        data = await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
                except TimeoutError:
                    data = b""
                if data:
                    self.stirred.set()
                for link in link_states(data, UNDERLAY_BRIDGE):
                    # Not only for a new port: the switch takes the port down to set its MAC address, and down means
                    # that the kernel forgets the default route.
                    if link != configured and await self._configure():
                        configured = link
                if not told or _has_message(data, _RTM_NEWADDR):
                    told = await self._tell_routes()
        finally:
            sock.close()

    async def _configure(self) -> bool:
        try:
            await fabric.run(
                self._node.netns, "ip", "-batch", "-", text=uplink_batch(self._cluster, current(self._node))
            )
        except LabError:
            return False  # the switch went away in between: it will make the port again
        namespaces.sysctl(self._node.netns, ((f"net.ipv4.conf.{UNDERLAY_BRIDGE}.arp_ignore", "0"),))
        return True

    async def _tell_routes(self) -> bool:
        """Tell the switch the way to the other nodes and to the rest, from the bridge's address as it is now."""
        routes = tunnel_routes(self._cluster, current(self._node))
        try:
            address = namespaces.inside(self._node.netns, lambda: _address_of(UNDERLAY_BRIDGE))
            async with unixctl.connect(self._node.ovs_rundir, _ROUTES_DEADLINE, "ovs/route/add") as switch:
                for route in routes:
                    await switch.call("ovs/route/add", *route)
                shown = await switch.call("ovs/route/show")
        except (OpenFlowError, OSError):
            return False  # the switch or the address went away, or the switch is busy for long
        # It takes the source from what it knows of the bridge's address, and that may be what the bridge had before.
        if shown.text.count(f"SRC {address}\n") < len(routes):
            return False
        self.ready.set()
        return True


def _address_of(ifname: str) -> IPv4Address:
    """The interface's first address (netdevice(7)). Raises OSError if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("40s", ifname.encode()))
    return IPv4Address(answer[20:24])


def _link_monitor() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    # Hundreds of pods come and go beside the one link that we look for: an overrun would lose it.
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
    sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR))
    sock.setblocking(False)
    return sock


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface as the kernel tells it: index and flags (netdevice(7))."""

    index: int
    flags: int


def link_states(data: bytes, ifname: str) -> list[LinkState]:
    """What RTM_NEWLINK messages in a netlink datagram say about `ifname`, in order (rtnetlink(7))."""
    found = []
    for kind, body in _messages(data):
        if kind == _RTM_NEWLINK and _ifname(body[_IFINFO.size :]) == ifname:
            _, _, index, flags, _ = _IFINFO.unpack_from(body)
            found.append(LinkState(index, flags))
    return found


def _has_message(data: bytes, wanted: int) -> bool:
    return any(kind == wanted for kind, _ in _messages(data))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message in a netlink datagram (netlink(7))."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _ifname(attributes: bytes) -> str:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == _IFLA_IFNAME:
            return attributes[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (max(length, 4) + 3) & ~3
    return ""


def has_conflist(directory: Path) -> bool:
    """Whether the node has a CNI configuration, as a kubelet's runtime looks for one."""
    try:
        return any(entry.suffix in {".conf", ".conflist", ".json"} for entry in directory.iterdir())
    except OSError:
        return False
