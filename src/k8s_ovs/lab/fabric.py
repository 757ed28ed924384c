"""The wires of a lab: namespaces, veth pairs, the underlay bridge and its router, addresses.

Called by the supervisor: `build` at the start, `add` for each external host. The texts for `ip -batch` are pure.

    node1 ─ eth0 ┐                                   ┌ eth0 ─ control  (etcd, API server, controllers)
    node2 ─ eth0 ┼── bridge `underlay` in `fabric` ──┘
    node3 ─ eth0 ┘        │ routes, no NAT       external hosts are wired like nodes, when they are added
                          └ eth0 ─ outside  (the rest of the world)
"""

import asyncio
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab import namespaces
from k8s_ovs.lab.cluster import Cluster, Node

_QUIET = (("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv6.conf.default.disable_ipv6", "1"))
"""No router solicitations and no duplicate address detection on wires that carry IPv4 only."""

_ROUTER = (*_QUIET, ("net.ipv4.ip_forward", "1"), ("net.ipv4.conf.all.rp_filter", "0"))

_NODE = (
    *_QUIET,
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
)

_NODE_RULES = """\
*raw
-A PREROUTING -i eth0 -j DROP
COMMIT
"""
"""The kernel's copies of what the userspace datapath reads from eth0; the agent cares for the pods' veths. See
"Firewall Rules" in OVS's Documentation/intro/install/userspace.rst."""


ROUTER_MAC = "02:6b:38:73:00:01"
"""Without one of its own, a Linux bridge takes the lowest of its ports: a wire that is added later could change it, and
whatever nodes send to the router would be lost until they have asked for it again, seconds later."""


def fabric_batch(cluster: Cluster) -> str:
    """`ip -batch` lines for the fabric's namespace."""
    networks = cluster.networks
    lines = [
        "link set lo up",
        f"link add underlay address {ROUTER_MAC} type bridge",
        f"addr add {networks.router} dev underlay",
        "link set underlay up",
        f"link add outside type veth peer name eth0 netns {cluster.netns('outside')}",
        f"addr add {networks.outside_router} dev outside",
        "link set outside up",
    ]
    for name in ("control", *(node.name for node in cluster.nodes)):
        lines += [
            f"link add {name} type veth peer name eth0 netns {cluster.netns(name)}",
            f"link set {name} master underlay up",
        ]
    return _batch(lines)


def wire_batch(cluster: Cluster, name: str, ifname: str) -> str:
    """`ip -batch` lines, for the fabric's namespace, that wire one namespace more to the underlay."""
    return _batch(
        [
            f"link add {ifname} type veth peer name eth0 netns {cluster.netns(name)}",
            f"link set {ifname} master underlay up",
        ]
    )


def host_batch(address: str, router: str) -> str:
    """`ip -batch` lines for a namespace that is a plain host on eth0."""
    return _batch(
        [
            "link set lo up",
            f"addr add {address} dev eth0",
            "link set eth0 up",
            f"route add default via {router}",
        ]
    )


def node_batch() -> str:
    """`ip -batch` lines for a node; its address comes later, on the bridge."""
    return _batch(["link set lo up", "link set eth0 up"])


def _batch(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


async def run(netns: Path, *argv: str, text: str = "") -> str:
    """Run a command in a namespace with `text` as stdin and return its stdout. Raises LabError with its stderr."""
    process = await asyncio.create_subprocess_exec(
        "nsenter",
        f"--net={netns}",
        "--",
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(text.encode())
    if process.returncode != 0:
        raise LabError(
            f"`{' '.join(argv)}` in {netns.name} failed ({process.returncode}): {err.decode().strip()}"
        )
    return out.decode()


async def build(cluster: Cluster) -> None:
    """Make every namespace of the cluster and the wires between them. Raises LabError."""
    for name in ("fabric", "control", "outside", *(node.name for node in cluster.nodes)):
        namespaces.create(cluster.netns(name))
    fabric, control, outside = (cluster.netns(name) for name in ("fabric", "control", "outside"))
    namespaces.sysctl(fabric, _ROUTER)
    namespaces.sysctl(control, _QUIET)
    namespaces.sysctl(outside, _QUIET)
    for node in cluster.nodes:
        namespaces.sysctl(node.netns, _NODE)
    await run(fabric, "ip", "-batch", "-", text=fabric_batch(cluster))
    async with asyncio.TaskGroup() as group:
        for name, address, router in (
            ("control", cluster.networks.control, cluster.networks.router),
            ("outside", cluster.networks.outside_host, cluster.networks.outside_router),
        ):
            group.create_task(_host(cluster.netns(name), str(address), str(router.ip)), name=f"wire {name}")
        for node in cluster.nodes:
            group.create_task(_node(node), name=f"wire {node.name}")


async def add(cluster: Cluster, host: Node) -> None:
    """Make the namespace of an external host and wire it to the underlay. Raises LabError."""
    namespaces.create(host.netns)
    namespaces.sysctl(host.netns, _NODE)
    # An interface's name has 15 characters at most; a host's address says which one it is.
    ifname = f"ext{int(host.ip) & 0xFFFF:04x}"
    await run(cluster.netns("fabric"), "ip", "-batch", "-", text=wire_batch(cluster, host.name, ifname))
    await _node(host)


async def _host(netns: Path, address: str, router: str) -> None:
    await run(netns, "ip", "-batch", "-", text=host_batch(address, router))
    # Its packets end in a packet socket of a node's switch, which reads them before any hardware would fill the
    # checksum in or cut large segments.
    await run(netns, "ethtool", "-K", "eth0", "tx", "off")


async def _node(node: Node) -> None:
    await run(node.netns, "ip", "-batch", "-", text=node_batch())
    namespaces.sysctl(node.netns, (("net.ipv4.conf.eth0.arp_ignore", "8"),))
    await run(node.netns, "iptables-restore", "--noflush", text=_NODE_RULES)
