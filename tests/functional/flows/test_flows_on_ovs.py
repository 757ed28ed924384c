"""The pipeline on a real Open vSwitch: every flow is taken as we spell it, and packets go where the simulator says."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

import pytest

from fakes.clusters import Cluster, Node, Pod, network_config
from fakes.private_ovs import PrivateOvs
from fakes.services import endpoint_slice, service
from fakes.simulator import ICMP, TCP, UDP, Outcome, Packet, Switch, arp_packet, from_tunnel, ip_packet
from k8s_ovs.config import Mode
from k8s_ovs.dataplane.bridge import SyncResult
from k8s_ovs.dataplane.openflow import OfctlFlowTable
from k8s_ovs.flows import fields as f
from k8s_ovs.flows.diff import Item, Mod
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.flows.tables import TABLES
from k8s_ovs.model.events import (
    AttachmentGone,
    AttachmentSet,
    Event,
    HostSubnetGone,
    HostSubnetSet,
    TenantSet,
)
from k8s_ovs.model.types import HostSubnet, Tenant, Vni, mac_of

pytestmark = [pytest.mark.root, pytest.mark.ovs]

HERE, THERE = Node(0), Node(1)
RED, BLUE, GLOBAL = (Pod(HERE, number, name) for number, name in enumerate(("red", "blue", "kube-system")))
FAR = Pod(THERE, 0, "red")
VNIS: dict[str, Vni | None] = {"red": Vni(10), "blue": Vni(0xFFFFFF), "kube-system": Vni(0)}
OUTSIDE, STRANGER = IPv4Address("198.51.100.7"), IPv4Address("203.0.113.66")
LATER_FRAGMENT = 3
ZERO = IPv4Address("0.0.0.0")


class Trace(Protocol):
    path: list[tuple[int, int, int]]
    outputs: list[str]
    text: str


class Bridge(Protocol):
    """What conftest.py offers."""

    ovs: PrivateOvs
    send: Callable[[list[Mod]], None]
    replace: Callable[[list[Item]], None]
    lines: Callable[[], set[str]]
    trace: Callable[[str], Trace]
    set_fragments: Callable[[str], None]


def cluster(mode: Mode) -> Cluster:
    services = [
        service("red", "web", "10.96.7.1", "203.0.113.80", node_port=30080),
        service("blue", "sticky", "10.96.7.2", node_port=30081, affinity=60),
        service("kube-system", "nobody", "10.96.7.3"),
    ]
    slices = [
        endpoint_slice("red", "web", RED.ip, FAR.ip),
        endpoint_slice("blue", "sticky", BLUE.ip, OUTSIDE),
    ]
    return Cluster(network_config(mode), [HERE, THERE], VNIS, [RED, BLUE, GLOBAL, FAR], services, slices)


def flows_of(cluster: Cluster) -> list[Item]:
    desired = DesiredFlows()
    desired.update(cluster.view(HERE))
    return list(desired.all())


@pytest.mark.parametrize("mode", Mode)
def test_the_switch_takes_every_flow_and_shows_it_as_we_spell_it(bridge: Bridge, mode: Mode) -> None:
    flows = flows_of(cluster(mode))
    bridge.replace(flows)
    assert bridge.lines() == {flow.to_ofctl() for flow in flows}


async def test_a_second_synchronisation_finds_nothing_to_do(bridge: Bridge) -> None:
    """A flow that the switch spells in another way would be sent again, and counted as a repair, every time."""
    flows = flows_of(cluster(Mode.MULTITENANT))
    table = OfctlFlowTable(bridge.ovs.mgmt())
    await table.replace([])
    assert await table.replace(flows) == SyncResult(added=len(flows), deleted=0)
    assert await table.replace(flows) == SyncResult(added=0, deleted=0)


def test_modifications_keep_the_switch_equal_to_what_is_desired(bridge: Bridge) -> None:
    view, desired = cluster(Mode.MULTITENANT).view(HERE), DesiredFlows()
    desired.update(view)
    bridge.replace(list(desired.all()))
    steps: list[Event] = [
        AttachmentGone(BLUE.attachment.key),
        TenantSet(Tenant("red", Vni(77))),
        HostSubnetSet(HostSubnet("node3", IPv4Address("192.0.2.3"), IPv4Network("172.11.8.0/23"))),
        HostSubnetGone(THERE.ip),
        AttachmentSet(BLUE.attachment),
        HostSubnetSet(HostSubnet(HERE.name, HERE.ip, IPv4Network("172.11.0.0/24"))),
        HostSubnetGone(HERE.ip),
    ]
    for step in steps:
        mods = desired.update(view, view.apply(step))
        assert mods
        bridge.send(mods)
        assert bridge.lines() == {flow.to_ofctl() for flow in desired.all()}


def pod_packets() -> list[Packet]:
    here = (RED.port, RED.mac, RED.ip)
    targets = [BLUE.ip, GLOBAL.ip, FAR.ip, RED.ip, HERE.gateway, THERE.gateway, OUTSIDE, THERE.ip]
    targets += map(
        IPv4Address, ["172.11.0.99", "172.11.60.5", "10.96.0.1", "127.0.0.1", "224.0.0.5", "255.255.255.255"]
    )
    packets = [ip_packet(*here, target, protocol) for target in targets for protocol in (TCP, UDP, ICMP)]
    packets += [ip_packet(*here, target, UDP, 4789) for target in (FAR.ip, OUTSIDE)]
    packets += [
        ip_packet(BLUE.port, BLUE.mac, BLUE.ip, FAR.ip),
        ip_packet(GLOBAL.port, GLOBAL.mac, GLOBAL.ip, RED.ip),
    ]
    packets += [
        ip_packet(RED.port, RED.mac, BLUE.ip, GLOBAL.ip),
        ip_packet(RED.port, BLUE.mac, RED.ip, GLOBAL.ip),
    ]
    packets += [ip_packet(6, RED.mac, RED.ip, GLOBAL.ip), {**ip_packet(*here, OUTSIDE), f.ETH_TYPE: 0x88CC}]
    return packets


def arp_packets() -> list[Packet]:
    asked = [HERE.gateway, FAR.ip, RED.ip, OUTSIDE, IPv4Address("10.96.0.1")]
    packets = [arp_packet(RED.port, RED.mac, RED.ip, target) for target in asked]
    packets += [
        arp_packet(2, HERE.gateway_mac, sender, target)
        for sender in (HERE.gateway, HERE.ip)
        for target in asked
    ]
    packets += [
        arp_packet(RED.port, RED.mac, ZERO, RED.ip),
        arp_packet(RED.port, RED.mac, HERE.gateway, FAR.ip),
        arp_packet(RED.port, RED.mac, RED.ip, FAR.ip, sha=BLUE.mac),
        arp_packet(RED.port, RED.mac, RED.ip, FAR.ip, op=2),
        arp_packet(2, HERE.gateway_mac, RED.ip, FAR.ip),
        from_tunnel(arp_packet(1, FAR.mac, FAR.ip, RED.ip), THERE.ip, 0),
    ]
    return packets


def host_packets() -> list[Packet]:
    packets = []
    for source in (HERE.gateway, HERE.ip, OUTSIDE, RED.ip, FAR.ip, IPv4Address("172.11.0.99")):
        for target in (RED.ip, BLUE.ip, FAR.ip, HERE.gateway, OUTSIDE):
            packets.append(ip_packet(2, HERE.gateway_mac, source, target))
    for outer in (THERE.ip, STRANGER):
        for inner in (FAR.ip, THERE.gateway, OUTSIDE, RED.ip, IPv4Address("172.11.60.5")):
            for key in (0, 10, 0xFFFFFF):
                for target in (RED.ip, BLUE.ip, HERE.gateway, THERE.gateway, OUTSIDE):
                    packets.append(from_tunnel(ip_packet(1, mac_of(inner), inner, target), outer, key))
    return packets


def as_text(packet: Packet) -> str:
    """The packet as ofproto/trace reads it."""
    names = {f.UDP_DST: "udp_dst", f.UDP_SRC: "udp_src"}  # ofproto/trace takes tp_dst for TCP's
    return ",".join(
        f"{names.get(field, field.name)}={field.show(value)}" for field, value in _ordered(packet)
    )


def _ordered(packet: Packet) -> list[tuple[f.Field, int]]:
    """Protocols first: ofproto/trace wants to know them before their fields."""
    later = packet.get(f.IP_FRAG) == LATER_FRAGMENT
    shown = {field: value for field, value in packet.items() if not (later and field.protocol)}
    if packet[f.ETH_TYPE] not in (f.IP_TYPE, f.ARP_TYPE):
        shown = {field: value for field, value in shown.items() if not field.ethertype}
    first = (f.ETH_TYPE, f.IP_PROTO)
    return sorted(shown.items(), key=lambda item: (item[0] not in first, item[0].order))


def agree(packet: Packet, outcome: Outcome, trace: Trace) -> None:
    assert trace.path == [(flow.table, flow.priority, flow.cookie) for flow in outcome.path], trace.text
    answered = packet[f.ETH_TYPE] == f.ARP_TYPE
    assert trace.outputs == ["IN_PORT" if answered else str(port) for port, _ in outcome.outputs], trace.text
    for _, sent in outcome.outputs:
        final = trace.text[trace.text.index("Final flow:") :]
        kept = [f.ETH_SRC, f.ETH_DST, *([f.ARP_SPA, f.ARP_TPA, f.ARP_SHA, f.ARP_THA] if answered else [])]
        for field in kept:
            assert f"{field.name}={field.show(sent[field])}" in final, trace.text


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("packets", [pod_packets, arp_packets, host_packets])
def test_the_switch_and_the_simulator_agree(
    bridge: Bridge, mode: Mode, packets: Callable[[], list[Packet]]
) -> None:
    flows = flows_of(cluster(mode))
    bridge.replace(flows)
    simulator = Switch(flows)
    met: set[int] = set()
    for packet in packets():
        outcome = simulator.run(packet)
        agree(packet, outcome, bridge.trace(as_text(packet)))
        met |= {flow.table for flow in outcome.path}
    assert met <= set(TABLES)
    assert len(met) > 3


def test_a_tagged_frame_is_dropped_though_the_switch_sees_the_ip_behind_the_tag(bridge: Bridge) -> None:
    flows = flows_of(cluster(Mode.MULTITENANT))
    bridge.replace(flows)
    packet = ip_packet(RED.port, RED.mac, RED.ip, GLOBAL.ip) | {f.VLAN_TCI: 0x1005}
    agree(packet, Switch(flows).run(packet), bridge.trace(as_text(packet)))


@pytest.mark.parametrize("nx_match", [True, False])
def test_no_fragment_with_the_vxlan_port_goes_to_the_host(bridge: Bridge, nx_match: bool) -> None:
    """The mode that the dataplane sets, and the switch's default, in which no fragment shows its port."""
    flows = flows_of(cluster(Mode.MULTITENANT))
    bridge.replace(flows)
    bridge.set_fragments("nx-match" if nx_match else "normal")
    simulator = Switch(flows, nx_match=nx_match)
    for port in (4789, 53):
        for fragment in (f.FIRST_FRAGMENT, LATER_FRAGMENT):
            packet = ip_packet(RED.port, RED.mac, RED.ip, OUTSIDE, UDP, port)
            packet |= {f.IP_FRAG: fragment}
            outcome = simulator.run(packet)
            agree(packet, outcome, bridge.trace(as_text(packet)))
            assert bool(outcome.outputs) == (fragment == LATER_FRAGMENT or (nx_match and port == 53))
