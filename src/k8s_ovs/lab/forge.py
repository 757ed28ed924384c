"""What a hostile pod would send, for the demo and the end-to-end tests: forged sources and hand-made VXLAN.

Everything happens inside the namespaces of a lab. A forged packet is sent next to an honest one, so that "nothing
arrived" says something.
"""

import asyncio
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.agent.dropcounts import read_drops
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.lab import namespaces
from k8s_ovs.lab.cluster import Node
from k8s_ovs.model.types import mac_of

_IP_TRANSPARENT = 19
_VXLAN_PORT = 4789
_VXLAN_VALID_VNI = 0x08
_ETHERTYPE_IPV4 = 0x0800
_UDP = 17


async def arrives(
    source: Path, claimed: IPv4Address, destination: Path, address: IPv4Address, *, seconds: float = 1.0
) -> bool:
    """Whether a UDP packet from namespace `source`, with the source address `claimed`, gets to `address`.

    `destination` is the namespace of `address`. `claimed` may be any address (ip(7), IP_TRANSPARENT).
    """
    receiver = namespaces.inside(destination, _receiver)
    sender = namespaces.inside(source, lambda: _sender(claimed))
    try:
        port = receiver.getsockname()[1]
        for _ in range(3):
            sender.sendto(b"k8s-ovs", (str(address), port))
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_recv(receiver, 64)
    except TimeoutError:
        return False
    finally:
        receiver.close()
        sender.close()
    return True


async def vxlan_arrives(
    source: Path,
    node: IPv4Address,
    vni: int,
    destination: Path,
    address: IPv4Address,
    *,
    seconds: float = 1.0,
) -> bool:
    """Whether VXLAN that a pod makes by hand and sends to a node gets its inner packet to the pod at `address`."""
    receiver = namespaces.inside(destination, _receiver)
    sender = namespaces.inside(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    try:
        inner = udp_frame(address + 1, address, receiver.getsockname()[1], b"k8s-ovs")
        for _ in range(3):
            sender.sendto(struct.pack("!B3xI", _VXLAN_VALID_VNI, vni << 8) + inner, (str(node), _VXLAN_PORT))
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_recv(receiver, 64)
    except TimeoutError:
        return False
    finally:
        receiver.close()
        sender.close()
    return True


def udp_frame(source: IPv4Address, destination: IPv4Address, port: int, data: bytes) -> bytes:
    """An Ethernet frame with a UDP packet in it, addressed as pods are (UDP checksum 0: none, RFC 768)."""
    ethernet = _mac(destination) + _mac(source) + struct.pack("!H", _ETHERTYPE_IPV4)
    udp = struct.pack("!HHHH", port, port, 8 + len(data), 0) + data
    blank = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, _UDP, 0)
    addresses = source.packed + destination.packed
    checksum = internet_checksum(blank + addresses)
    return ethernet + blank[:10] + struct.pack("!H", checksum) + addresses + udp


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


async def drops(node: Node) -> dict[str, int]:
    """Packets that the node's bridge has dropped so far, by the name of the reason. Raises OpenFlowError."""
    counters = await read_drops(OfctlFlowTable(f"unix:{node.ovs_rundir / 'br0.mgmt'}"))
    return {counter.reason.label: packets for counter, packets in counters.items()}


def _mac(address: IPv4Address) -> bytes:
    return bytes.fromhex(mac_of(address).replace(":", ""))


def _receiver() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 0))
    sock.setblocking(False)
    return sock


def _sender(claimed: IPv4Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    sock.bind((str(claimed), 0))
    return sock
