"""Who reaches whom through the pipeline, for random clusters: it has to be what the oracle says."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.clusters import Cluster, Node, Pod, clusters, network_config
from fakes.simulator import (
    ICMP,
    TCP,
    UDP,
    Fabric,
    Switch,
    answer_to,
    arp_packet,
    from_tunnel,
    ip_packet,
)
from k8s_ovs.config import Mode
from k8s_ovs.flows import fields as f
from k8s_ovs.flows.flow import Flow, Goto
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.flows.tables import SERVICE
from k8s_ovs.model import tenancy
from k8s_ovs.model.types import GATEWAY_OFPORT, VXLAN_OFPORT, Vni, mac_of
from k8s_ovs.model.view import NodeView

OUTSIDE = IPv4Address("198.51.100.7")
STRANGER = IPv4Address("203.0.113.66")
PROTOCOLS = st.sampled_from([ICMP, TCP, UDP])
PROPERTY = settings(max_examples=40, deadline=None)


def party(cluster: Cluster, pod: Pod) -> tenancy.Party:
    return tenancy.pod(cluster.vni_of(pod), f"{pod.namespace}/{pod.number}")


def pod_sends(
    fabric: Fabric, pod: Pod, destination: IPv4Address, protocol: int = TCP
) -> list[tuple[object, ...]]:
    packet = ip_packet(pod.port, pod.mac, pod.ip, destination, protocol, 53)
    return [(d.host, d.port) for d in fabric.send(pod.node.ip, packet)]


@PROPERTY
@given(clusters(), PROTOCOLS)
def test_pod_to_pod_is_what_the_oracle_says(cluster: Cluster, protocol: int) -> None:
    fabric = cluster.fabric()
    for source in cluster.pods:
        for destination in cluster.pods:
            if source == destination:
                continue
            allowed = tenancy.may_reach(
                party(cluster, source), party(cluster, destination), cluster.config.mode
            )
            packet = ip_packet(source.port, source.mac, source.ip, destination.ip, protocol)
            delivered = fabric.send(source.node.ip, packet)
            if not allowed:
                assert delivered == []
                assert fabric.drops
                continue
            assert [(d.host, d.port) for d in delivered] == [(destination.node.ip, destination.port)]
            assert delivered[0].packet[f.ETH_DST] == f.mac_value(destination.mac)
            assert delivered[0].packet[f.IP_SRC] == int(source.ip)


@PROPERTY
@given(clusters())
def test_pod_to_every_gateway_and_outside_is_what_the_oracle_says(cluster: Cluster) -> None:
    fabric, mode = cluster.fabric(), cluster.config.mode
    for pod in cluster.pods:
        for node in cluster.nodes:
            allowed = tenancy.may_reach(party(cluster, pod), tenancy.host(node.name), mode)
            packet = ip_packet(pod.port, pod.mac, pod.ip, node.gateway)
            assert fabric.reaches_gateway(pod.node.ip, packet, node.ip) == allowed
        allowed = tenancy.may_reach(party(cluster, pod), tenancy.outside(), mode)
        packet = ip_packet(pod.port, pod.mac, pod.ip, OUTSIDE)
        assert fabric.reaches_gateway(pod.node.ip, packet, pod.node.ip) == allowed


@PROPERTY
@given(clusters())
def test_a_pod_reaches_every_nodes_own_address_with_the_pods_address(cluster: Cluster) -> None:
    """Through the tunnel: the node sees a pod, not a host that has translated one."""
    fabric, mode = cluster.fabric(), cluster.config.mode
    for pod in cluster.pods:
        for node in cluster.nodes:
            allowed = tenancy.may_reach(party(cluster, pod), tenancy.host(node.name), mode)
            packet = ip_packet(pod.port, pod.mac, pod.ip, node.ip)
            assert fabric.reaches_gateway(pod.node.ip, packet, node.ip) == allowed
            for delivery in fabric.send(pod.node.ip, packet):
                assert delivery.packet[f.IP_SRC] == int(pod.ip)
                back = answer_to(delivery.packet, GATEWAY_OFPORT, node.gateway_mac)
                (answer,) = fabric.send(node.ip, back)
                assert (answer.host, answer.port) == (pod.node.ip, pod.port)


@PROPERTY
@given(clusters(), st.sampled_from(["gateway", "host", "client"]))
def test_every_host_to_every_pod_is_what_the_oracle_says(cluster: Cluster, acting_as: str) -> None:
    fabric, mode = cluster.fabric(), cluster.config.mode
    for node in cluster.nodes:
        source = {"gateway": node.gateway, "host": node.ip, "client": OUTSIDE}[acting_as]
        host = tenancy.external_host(node.name) if node.external else tenancy.host(node.name)
        for pod in cluster.pods:
            packet = ip_packet(GATEWAY_OFPORT, node.gateway_mac, source, pod.ip)
            delivered = [(d.host, d.port) for d in fabric.send(node.ip, packet)]
            allowed = tenancy.may_reach(host, party(cluster, pod), mode)
            assert delivered == ([(pod.node.ip, pod.port)] if allowed else [])


@PROPERTY
@given(clusters())
def test_a_pods_packet_that_comes_back_through_its_host_keeps_its_tenant(cluster: Cluster) -> None:
    fabric, mode = cluster.fabric(), cluster.config.mode
    for source in cluster.pods:
        for destination in cluster.pods:
            packet = ip_packet(GATEWAY_OFPORT, source.node.gateway_mac, source.ip, destination.ip)
            delivered = [(d.host, d.port) for d in fabric.send(source.node.ip, packet)]
            allowed = tenancy.may_reach(party(cluster, source), party(cluster, destination), mode)
            assert delivered == ([(destination.node.ip, destination.port)] if allowed else [])


@PROPERTY
@given(clusters(), st.data())
def test_a_pod_never_sends_as_another(cluster: Cluster, data: st.DataObject) -> None:
    if not cluster.pods:
        return
    fabric = cluster.fabric()
    pod = data.draw(st.sampled_from(list(cluster.pods)))
    addresses = [p.ip for p in cluster.pods] + [n.gateway for n in cluster.nodes] + [OUTSIDE, IPv4Address(0)]
    target = data.draw(st.sampled_from(addresses))
    source = data.draw(st.sampled_from([a for a in addresses if a != pod.ip]))
    mac = data.draw(st.sampled_from([pod.mac, mac_of(source)]))
    assert fabric.send(pod.node.ip, ip_packet(pod.port, mac, source, target)) == []
    assert fabric.drops == [(pod.node.ip, Drop.POD_SPOOFED_IP)]
    assert fabric.send(pod.node.ip, ip_packet(pod.port, mac_of(source), pod.ip, target)) == []
    assert fabric.drops == [(pod.node.ip, Drop.POD_SPOOFED_IP)]


@PROPERTY
@given(clusters(), st.data())
def test_a_pod_never_speaks_arp_for_another(cluster: Cluster, data: st.DataObject) -> None:
    if not cluster.pods:
        return
    fabric = cluster.fabric()
    pod = data.draw(st.sampled_from(list(cluster.pods)))
    other = data.draw(st.sampled_from([pod.node.gateway, IPv4Address("172.11.0.99"), OUTSIDE]))
    op = data.draw(st.sampled_from([1, 2]))
    target = pod.node.gateway + 500
    liars = [
        arp_packet(pod.port, pod.mac, other, target, op=op),
        arp_packet(pod.port, mac_of(other), other, target, op=op),
        arp_packet(pod.port, pod.mac, pod.ip, target, sha=mac_of(other), op=op),
        arp_packet(pod.port, mac_of(other), pod.ip, target, sha=pod.mac, op=op),
    ]
    for packet in liars:
        assert fabric.send(pod.node.ip, packet) == []
        assert fabric.drops == [(pod.node.ip, Drop.POD_SPOOFED_ARP)]


@PROPERTY
@given(clusters(), st.data())
def test_no_forged_tunnel_packet_is_delivered(cluster: Cluster, data: st.DataObject) -> None:
    """The outer source is a stranger, or the inner source is not that host's, or the key is not what it may be."""
    if not cluster.pods:
        return
    fabric = cluster.fabric()
    pod = data.draw(st.sampled_from(list(cluster.pods)))
    here = pod.node
    others = [node for node in cluster.nodes if node != here]
    key = data.draw(st.sampled_from([0, 1, 10, 11, 0xFFFFFF]))

    def arrives(outer: IPv4Address, inner: IPv4Address, key: int) -> Drop:
        packet = from_tunnel(ip_packet(VXLAN_OFPORT, mac_of(inner), inner, pod.ip), outer, key)
        assert fabric.send(here.ip, packet) == []
        return fabric.drops[0][1]

    for inner in (OUTSIDE, pod.ip, here.gateway, IPv4Address("172.11.60.5")):
        for outer in (STRANGER, here.ip, pod.ip):
            assert arrives(outer, inner, key) is Drop.TUNNEL_UNKNOWN_HOST
    single = cluster.config.mode is Mode.SUBNET and key != 0
    for other in others:
        foreign = [pod.ip, here.gateway, IPv4Address("172.11.60.5")]
        foreign += [node.gateway for node in others if node != other]
        for inner in foreign:
            assert arrives(other.ip, inner, key) is (
                Drop.TUNNEL_FOREIGN_KEY if single else Drop.TUNNEL_SPOOFED_SOURCE
            )
        if key != 0:
            assert arrives(other.ip, OUTSIDE, key) is Drop.TUNNEL_FOREIGN_KEY
        if single:
            assert arrives(other.ip, other.gateway + 1, key) is Drop.TUNNEL_FOREIGN_KEY


@PROPERTY
@given(clusters(), st.data())
def test_nothing_that_came_by_a_tunnel_leaves_by_one_or_to_the_outside(
    cluster: Cluster, data: st.DataObject
) -> None:
    if len(cluster.nodes) < 2:
        return
    fabric = cluster.fabric()
    here, sender = cluster.nodes[0], cluster.nodes[1]
    target = data.draw(
        st.sampled_from(
            [OUTSIDE, sender.gateway, IPv4Address("172.11.60.5"), *(n.ip for n in cluster.nodes[1:])]
        )
    )
    packet = from_tunnel(ip_packet(VXLAN_OFPORT, sender.gateway_mac, sender.gateway, target), sender.ip, 0)
    assert fabric.send(here.ip, packet) == []
    assert fabric.drops == [(here.ip, Drop.NO_TRANSIT)]


@PROPERTY
@given(clusters(), st.integers(0, 0xFFFFFFFF))
def test_arp_is_answered_for_the_network_and_for_nothing_else(cluster: Cluster, number: int) -> None:
    fabric = cluster.fabric()
    network = cluster.config.network
    for pod in cluster.pods:
        known = cluster.config.mode is Mode.SUBNET or cluster.vni_of(pod) is not None
        for target in (
            IPv4Address(number),
            pod.node.gateway,
            pod.ip,
            network[number % network.num_addresses],
        ):
            answers = fabric.send(pod.node.ip, arp_packet(pod.port, pod.mac, pod.ip, target))
            if not known or target not in network or target == pod.ip:
                assert answers == []
                continue
            (answer,) = answers
            assert (answer.host, answer.port) == (pod.node.ip, pod.port)
            expected = arp_packet(0, mac_of(target), target, pod.ip, op=2)
            expected |= {f.ETH_DST: f.mac_value(pod.mac), f.ARP_THA: f.mac_value(pod.mac)}
            assert answer.packet == {k: v for k, v in expected.items() if k is not f.IN_PORT}


NODE, OTHER = Node(0), Node(1)
RED, BLUE = Pod(NODE, 0, "red"), Pod(OTHER, 0, "blue")


def two_nodes(mode: Mode = Mode.MULTITENANT) -> Fabric:
    vnis: dict[str, Vni | None] = {"red": Vni(10), "blue": Vni(11)}
    return Cluster(network_config(mode), [NODE, OTHER], vnis, [RED, BLUE]).fabric()


def test_vxlan_of_a_pod_is_dropped_wherever_it_goes() -> None:
    fabric = two_nodes()
    for target in (OTHER.ip, NODE.ip, NODE.gateway, OTHER.gateway, BLUE.ip, OUTSIDE):
        packet = ip_packet(RED.port, RED.mac, RED.ip, target, UDP, 4789)
        assert fabric.send(NODE.ip, packet) == []
        assert fabric.drops == [(NODE.ip, Drop.POD_VXLAN)]


def behind_pod_in(switch: Switch) -> Switch:
    """The same switch, entered at the service stage: where a translation would have changed the packet."""
    later = [flow for table, flows in switch.tables.items() if table >= SERVICE.number for flow in flows]
    return Switch([Flow(0, 1, (), (Goto(SERVICE.number),)), *later])


@pytest.mark.parametrize("origin", f.Origin)
@pytest.mark.parametrize(
    ("source", "target"), [(RED.ip, OTHER.ip), (BLUE.ip, NODE.gateway), (RED.ip, NODE.gateway)]
)
def test_vxlan_made_by_a_translation_does_not_reach_the_host(
    origin: f.Origin, source: IPv4Address, target: IPv4Address
) -> None:
    packet = ip_packet(RED.port, RED.mac, source, target, UDP, 4789) | {f.REG0: f.ORIGIN.place(origin)}
    fabric = two_nodes()
    fabric.switches[NODE.ip] = behind_pod_in(fabric.switches[NODE.ip])
    assert fabric.send(NODE.ip, packet) == []
    assert {drop for _, drop in fabric.drops} <= {
        *(Drop.VXLAN_TO_HOST, Drop.NO_TRANSIT, Drop.OUTSIDE_NOT_FROM_POD)
    }


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("nx_match", [False, True])
def test_vxlan_in_fragments_does_not_reach_the_host(nx_match: bool, translated: bool) -> None:
    fabric = two_nodes()
    if translated:
        fabric.switches[NODE.ip] = behind_pod_in(fabric.switches[NODE.ip])
    for switch in fabric.switches.values():
        switch.nx_match = nx_match
    for target in (NODE.ip, OTHER.ip):
        packet = ip_packet(RED.port, RED.mac, RED.ip, target, UDP, 4789) | {f.IP_FRAG: f.FIRST_FRAGMENT}
        packet |= {f.REG0: f.ORIGIN.place(f.Origin.POD)} if translated else {}
        assert fabric.send(NODE.ip, packet) == []
        ((_, drop),) = fabric.drops
        assert drop in (Drop.POD_VXLAN, Drop.VXLAN_TO_HOST, Drop.HIDDEN_PORT_TO_HOST)


@pytest.mark.parametrize("fragment", [f.FIRST_FRAGMENT, 3])
def test_other_datagrams_in_fragments_pass(fragment: int) -> None:
    packet = ip_packet(RED.port, RED.mac, RED.ip, OUTSIDE, UDP, 53) | {f.IP_FRAG: fragment}
    assert two_nodes().reaches_gateway(NODE.ip, packet, NODE.ip)


def test_a_pod_reaches_itself_through_its_own_port() -> None:
    assert pod_sends(two_nodes(), RED, RED.ip) == [(NODE.ip, RED.port)]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("10.96.0.1", Drop.NO_SERVICE),
        ("172.11.0.77", Drop.NO_SUCH_POD),
        ("172.11.3.255", Drop.NO_SUCH_POD),
        ("172.11.60.5", Drop.NO_SUCH_HOST),
        ("127.0.0.1", Drop.LOOPBACK_DESTINATION),
        ("0.0.0.0", Drop.LOOPBACK_DESTINATION),
        ("224.0.0.251", Drop.MULTICAST),
        ("255.255.255.255", Drop.BROADCAST),
    ],
)
def test_where_a_pod_cannot_go_has_a_name(target: str, reason: Drop) -> None:
    fabric = two_nodes()
    assert pod_sends(fabric, RED, IPv4Address(target)) == []
    assert fabric.drops == [(NODE.ip, reason)]


def test_between_tenants_the_drop_is_at_the_destinations_host() -> None:
    fabric = two_nodes()
    assert pod_sends(fabric, RED, BLUE.ip) == []
    assert fabric.drops == [(OTHER.ip, Drop.TENANT_MISMATCH)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({f.VLAN_TCI: 0x1005}, Drop.VLAN_TAGGED),
        ({f.VLAN_TCI: 0x1000}, Drop.VLAN_TAGGED),
        ({f.ETH_TYPE: f.IPV6_TYPE}, Drop.IPV6),
        ({f.ETH_TYPE: 0x88CC}, Drop.UNKNOWN_PROTOCOL),
    ],
)
@pytest.mark.parametrize("port", [VXLAN_OFPORT, GATEWAY_OFPORT, RED.port])
def test_only_untagged_ipv4_and_arp_go_on(port: int, change: dict[f.Field, int], reason: Drop) -> None:
    packet = ip_packet(port, RED.mac, RED.ip, BLUE.ip) | change
    outcome = two_nodes().switches[NODE.ip].run(packet)
    assert (outcome.outputs, outcome.drop) == ([], reason)


def test_arp_never_crosses_a_tunnel() -> None:
    fabric = two_nodes()
    packet = from_tunnel(arp_packet(VXLAN_OFPORT, BLUE.mac, BLUE.ip, RED.ip), OTHER.ip, 0)
    assert fabric.send(NODE.ip, packet) == []
    assert fabric.drops == [(NODE.ip, Drop.TUNNEL_ARP)]


def test_duplicate_detection_and_announcements_are_not_answered() -> None:
    fabric = two_nodes()
    for sender in (IPv4Address(0), RED.ip):
        assert fabric.send(NODE.ip, arp_packet(RED.port, RED.mac, sender, RED.ip)) == []
        assert fabric.drops == [(NODE.ip, Drop.POD_OWN_ADDRESS_ARP)]
        gateway = arp_packet(GATEWAY_OFPORT, NODE.gateway_mac, sender, NODE.gateway)
        assert fabric.send(NODE.ip, gateway) == []
    assert fabric.drops == [(NODE.ip, Drop.GATEWAY_OWN_ADDRESS_ARP)]


@pytest.mark.parametrize("sender", [NODE.gateway, NODE.ip])
@pytest.mark.parametrize("target", [RED.ip, BLUE.ip, IPv4Address("10.96.0.1")])
def test_the_host_gets_answers_for_pods_and_services(sender: IPv4Address, target: IPv4Address) -> None:
    fabric = two_nodes()
    (answer,) = fabric.send(NODE.ip, arp_packet(GATEWAY_OFPORT, NODE.gateway_mac, sender, target))
    assert answer.port == GATEWAY_OFPORT
    assert answer.packet[f.ARP_SHA] == f.mac_value(mac_of(target))


@pytest.mark.parametrize("sender", [RED.ip, BLUE.ip])
def test_the_host_cannot_ask_as_a_pod(sender: IPv4Address) -> None:
    fabric = two_nodes()
    assert fabric.send(NODE.ip, arp_packet(GATEWAY_OFPORT, NODE.gateway_mac, sender, OTHER.gateway)) == []
    assert fabric.drops == [(NODE.ip, Drop.GATEWAY_SPOOFED_ARP)]


def test_the_host_cannot_send_with_another_nodes_address() -> None:
    fabric = two_nodes()
    for source in (BLUE.ip, OTHER.gateway, NODE.gateway + 40):
        assert fabric.send(NODE.ip, ip_packet(GATEWAY_OFPORT, NODE.gateway_mac, source, RED.ip)) == []
        assert fabric.drops == [(NODE.ip, Drop.GATEWAY_SPOOFED_SOURCE)]


def test_an_arp_reply_that_nobody_asked_for_goes_nowhere() -> None:
    fabric = two_nodes()
    assert fabric.send(NODE.ip, arp_packet(RED.port, RED.mac, RED.ip, NODE.gateway, op=2)) == []
    assert fabric.drops == [(NODE.ip, Drop.ARP_NOT_REQUEST)]


def test_a_node_without_a_subnet_says_so() -> None:
    desired = DesiredFlows()
    desired.update(NodeView("node1"))
    outcome = Switch(desired.all()).run(ip_packet(3, RED.mac, RED.ip, OUTSIDE))
    assert (outcome.outputs, outcome.drop) == ([], Drop.NOT_READY)
