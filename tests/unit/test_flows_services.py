"""Services through the pipeline: who reaches whom is what the oracle says, answers come back as they should, nothing leaks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.clusters import NAMESPACES, Cluster, Node, Pod, clusters, network_config
from fakes.services import endpoint_slice, service
from fakes.simulator import ICMP, TCP, UDP, Fabric, Packet, Switch, answer_to, from_tunnel, ip_packet
from k8s_ovs.config import Mode
from k8s_ovs.flows import fields as f
from k8s_ovs.flows.flow import Ct, Flow
from k8s_ovs.flows.group import Bucket, Group
from k8s_ovs.flows.names import Drop
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model import tenancy
from k8s_ovs.model.events import TenantSet
from k8s_ovs.model.services import EndpointSlice, Service
from k8s_ovs.model.types import GATEWAY_OFPORT, HAIRPIN_IP, Tenant, TenantChange, TenantStep, Vni

PROPERTY = settings(max_examples=40, deadline=None)
CLIENT_PORT = 40000
OUTSIDE = IPv4Address("198.51.100.7")
KINDS = {TCP: (80, 8080), UDP: (53, 5353)}
NAMES = (*NAMESPACES, "default")


def address_of(namespace: str) -> str:
    return f"10.96.0.{10 + NAMES.index(namespace)}"


def node_port_of(namespace: str) -> int:
    return 30080 + NAMES.index(namespace)


@dataclass(frozen=True)
class Target:
    """A Service and who is behind it: pods by address, hosts and the outside as they are."""

    namespace: str
    endpoints: tuple[IPv4Address, ...]

    @property
    def name(self) -> str:
        return "kubernetes" if self.namespace == "default" else "web"

    @property
    def address(self) -> IPv4Address:
        return IPv4Address(address_of(self.namespace))

    def service(self, affinity: int | None) -> Service:
        port = node_port_of(self.namespace)
        return service(self.namespace, self.name, str(self.address), node_port=port, affinity=affinity)

    @property
    def slice(self) -> EndpointSlice:
        return endpoint_slice(self.namespace, self.name, *self.endpoints)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Cluster, list[Target]]:
    """A cluster with a Service for each Namespace, whose endpoints may be anybody's pods, nodes, or the outside."""
    bare = draw(clusters())
    places = [*(pod.ip for pod in bare.pods), *(node.ip for node in bare.nodes), OUTSIDE]
    chosen = st.lists(st.sampled_from(places), unique=True, max_size=3)
    targets = [Target(name, tuple(draw(chosen))) for name in NAMES]
    affinity = draw(st.sampled_from([None, 60]))
    made = [target.service(affinity) for target in targets]
    return replace(bare, services=made, slices=[target.slice for target in targets]), targets


def party(cluster: Cluster, pod: Pod) -> tenancy.Party:
    return tenancy.pod(cluster.vni_of(pod), f"{pod.namespace}/{pod.number}")


def known(cluster: Cluster, pod: Pod) -> bool:
    return cluster.config.mode is Mode.SUBNET or cluster.vni_of(pod) is not None


def may_use(cluster: Cluster, source: tenancy.Party, target: Target) -> bool:
    """The Service itself is open to the source."""
    vni = cluster.vnis.get(target.namespace)
    behind = tenancy.service(vni, target.namespace, target.name)
    return tenancy.may_reach(source, behind, cluster.config.mode)


def may_reach_endpoint(cluster: Cluster, source: tenancy.Party, endpoint: IPv4Address) -> bool:
    """Identity survives translation: the source has to be allowed to the endpoint as well."""
    mode = cluster.config.mode
    for pod in cluster.pods:
        if pod.ip == endpoint:
            return tenancy.may_reach(source, party(cluster, pod), mode)
    return tenancy.may_reach(source, tenancy.outside(), mode)


def choose(fabric: Fabric, number: int) -> None:
    """Every group takes its bucket with this number, from the first on again."""

    def bucket(group: Group, packet: Packet) -> Bucket:
        del packet
        return group.buckets[number % len(group.buckets)]

    for switch in fabric.switches.values():
        switch.choose = bucket


def place_of(cluster: Cluster, client: Node, endpoint: IPv4Address) -> tuple[IPv4Address, int, str]:
    """Where a packet to the endpoint comes out: host, port and MAC there; the outside is behind the client's host."""
    for pod in cluster.pods:
        if pod.ip == endpoint:
            return pod.node.ip, pod.port, pod.mac
    node = next((node for node in cluster.nodes if node.ip == endpoint), client)
    return node.ip, GATEWAY_OFPORT, node.gateway_mac


def connect(fabric: Fabric, cluster: Cluster, node: Node, packet: Packet, endpoint: IPv4Address) -> None:
    """The packet reaches the endpoint, twice, and each answer the client, from where the client had sent it to."""
    client = (node.ip, packet[f.IN_PORT])
    protocol = packet[f.IP_PROTO]
    for _ in range(2):
        (there,) = fabric.send(node.ip, packet)
        host, port, mac = place_of(cluster, node, endpoint)
        if packet[f.IN_PORT] == GATEWAY_OFPORT and port == GATEWAY_OFPORT:
            host, mac = node.ip, node.gateway_mac  # the host goes its own way
        assert (there.host, there.port) == (host, port)
        assert there.packet[f.IP_DST] == int(endpoint)
        assert there.packet[f.DESTINATION_PORT[protocol]] == KINDS[protocol][1]
        itself = int(endpoint) == packet[f.IP_SRC] or (client == (there.host, there.port))
        assert there.packet[f.IP_SRC] == (int(HAIRPIN_IP) if itself else packet[f.IP_SRC])
        (back,) = fabric.send(host, answer_to(there.packet, port, mac))
        assert (back.host, back.port) == client
        assert back.packet[f.IP_SRC] == packet[f.IP_DST]
        assert back.packet[f.IP_DST] == packet[f.IP_SRC]
        assert back.packet[f.SOURCE_PORT[protocol]] == packet[f.DESTINATION_PORT[protocol]]
        assert back.packet[f.DESTINATION_PORT[protocol]] == packet[f.SOURCE_PORT[protocol]]


def clients(cluster: Cluster) -> Iterator[tuple[Node, tuple[int, str, IPv4Address], tenancy.Party]]:
    """Every pod that has a tenant, and every host: its node, port, MAC and address, and who it is."""
    for pod in cluster.pods:
        if known(cluster, pod):
            yield pod.node, (pod.port, pod.mac, pod.ip), party(cluster, pod)
    for node in cluster.nodes:
        yield node, (GATEWAY_OFPORT, node.gateway_mac, node.gateway), tenancy.host(node.name)


@PROPERTY
@given(worlds(), st.sampled_from([TCP, UDP]), st.integers(0, 5))
def test_services_are_open_to_whom_the_oracle_says(
    world: tuple[Cluster, list[Target]], protocol: int, choice: int
) -> None:
    cluster, targets = world
    fabric = cluster.fabric()
    choose(fabric, choice)
    port = KINDS[protocol][0]
    for number, (node, where, who) in enumerate(clients(cluster)):
        for target in targets:
            packet = ip_packet(*where, target.address, protocol, port, CLIENT_PORT + number)
            if not may_use(cluster, who, target):
                assert fabric.send(node.ip, packet) == []
                continue
            if not target.endpoints:
                check_refused(fabric, node, packet)
                continue
            endpoint = sorted(target.endpoints)[choice % len(target.endpoints)]
            if may_reach_endpoint(cluster, who, endpoint):
                connect(fabric, cluster, node, packet, endpoint)
            else:
                assert fabric.send(node.ip, packet) == []


def check_refused(fabric: Fabric, node: Node, packet: Packet) -> None:
    """The host gets it untranslated and refuses; its refusal reaches the client."""
    (given_up,) = fabric.send(node.ip, packet)
    assert (given_up.host, given_up.port) == (node.ip, GATEWAY_OFPORT)
    assert given_up.packet[f.IP_DST] == packet[f.IP_DST]
    (refusal,) = fabric.send(node.ip, answer_to(given_up.packet, GATEWAY_OFPORT, node.gateway_mac))
    assert (refusal.host, refusal.port) == (node.ip, packet[f.IN_PORT])
    assert refusal.packet[f.IP_SRC] == packet[f.IP_DST]
    assert refusal.packet[f.IP_DST] == packet[f.IP_SRC]


@PROPERTY
@given(worlds(), st.integers(0, 5))
def test_node_ports_at_every_nodes_address_are_open_to_whom_the_oracle_says(
    world: tuple[Cluster, list[Target]], choice: int
) -> None:
    cluster, targets = world
    fabric = cluster.fabric()
    choose(fabric, choice)
    for pod in cluster.pods:
        who = party(cluster, pod)
        for target in targets:
            for asked in cluster.nodes:
                port = node_port_of(target.namespace)
                packet = ip_packet(pod.port, pod.mac, pod.ip, asked.ip, TCP, port, CLIENT_PORT)
                endpoint = (
                    sorted(target.endpoints)[choice % len(target.endpoints)] if target.endpoints else None
                )
                if not known(cluster, pod):
                    assert fabric.send(pod.node.ip, packet) == []
                elif cluster.config.mode is Mode.MULTITENANT and not exists(cluster, target):
                    assert fabric.reaches_gateway(pod.node.ip, packet, asked.ip), "nobody has this node port"
                elif not may_use(cluster, who, target):
                    assert fabric.send(pod.node.ip, packet) == []
                elif endpoint is None:
                    assert fabric.reaches_gateway(pod.node.ip, packet, asked.ip), "the node refuses it"
                elif may_reach_endpoint(cluster, who, endpoint):
                    connect(fabric, cluster, pod.node, packet, endpoint)
                else:
                    assert fabric.send(pod.node.ip, packet) == []


def exists(cluster: Cluster, target: Target) -> bool:
    return target.name == "kubernetes" or cluster.vnis.get(target.namespace) is not None


@PROPERTY
@given(worlds(), st.sampled_from([TCP, UDP, ICMP]))
def test_between_pods_nothing_passes_conntrack_that_has_nothing_to_do_with_a_service(
    world: tuple[Cluster, list[Target]], protocol: int
) -> None:
    """Direct traffic; ports that no endpoint has."""
    cluster, _ = world
    fabric = cluster.fabric()
    for source in cluster.pods:
        for destination in cluster.pods:
            packet = ip_packet(source.port, source.mac, source.ip, destination.ip, protocol, 443, 50000)
            outcome = fabric.switches[source.node.ip].run(packet)
            assert not any(isinstance(action, Ct) for flow in outcome.path for action in flow.actions)


@PROPERTY
@given(worlds(), st.sampled_from([TCP, UDP]))
def test_direct_traffic_with_endpoints_is_as_without_services(
    world: tuple[Cluster, list[Target]], protocol: int
) -> None:
    cluster, _ = world
    fabric = cluster.fabric()
    for source in cluster.pods:
        for destination in cluster.pods:
            port = KINDS[protocol][1]
            packet = ip_packet(
                source.port, source.mac, source.ip, destination.ip, protocol, port, CLIENT_PORT
            )
            allowed = tenancy.may_reach(
                party(cluster, source), party(cluster, destination), cluster.config.mode
            )
            delivered = fabric.send(source.node.ip, packet)
            assert bool(delivered) == allowed
            for there in delivered:
                assert there.packet[f.IP_SRC] == int(source.ip)
                (back,) = fabric.send(
                    destination.node.ip, answer_to(there.packet, destination.port, destination.mac)
                )
                assert back.packet[f.IP_SRC] == int(destination.ip)
                assert (back.host, back.port) == (source.node.ip, source.port)


@PROPERTY
@given(worlds(), st.sampled_from(NAMES))
def test_what_comes_by_a_tunnel_is_never_for_a_service(
    world: tuple[Cluster, list[Target]], name: str
) -> None:
    cluster, _ = world
    if len(cluster.nodes) < 2:
        return
    here, there = cluster.nodes[:2]
    switch = cluster.fabric().switches[here.ip]
    for address, port in ((IPv4Address(address_of(name)), 80), (there.ip, node_port_of(name))):
        packet = ip_packet(1, there.gateway_mac, there.gateway, address, TCP, port, CLIENT_PORT)
        outcome = switch.run(from_tunnel(packet, there.ip, 0))
        assert outcome.outputs == []
        assert outcome.drop in (Drop.NO_SERVICE, Drop.NO_TRANSIT)


NODE, OTHER = Node(0), Node(1)
RED, SECOND, BLUE = Pod(NODE, 0, "red"), Pod(NODE, 1, "red"), Pod(OTHER, 0, "blue")


def world_of(*made: Service, slices: tuple[EndpointSlice, ...] = ()) -> Cluster:
    vnis: dict[str, Vni | None] = {"red": Vni(10), "blue": Vni(11)}
    return Cluster(network_config(), [NODE, OTHER], vnis, [RED, SECOND, BLUE], made, slices)


@pytest.mark.parametrize("step", TenantStep)
def test_while_a_tenant_changes_its_service_is_open_to_both_until_the_last_step(step: TenantStep) -> None:
    """red leaves green's tenant for blue's."""
    green = Pod(OTHER, 1, "green")
    joined = world_of(service("red", "web", "10.96.0.10"), slices=(endpoint_slice("red", "web", RED.ip),))
    cluster = replace(joined, vnis={**joined.vnis, "green": Vni(10)}, pods=[*joined.pods, green])
    change = TenantChange("0123abcd", step, Vni(10), Vni(11))
    switches = {}
    for node in cluster.nodes:
        view, desired = cluster.view(node), DesiredFlows()
        desired.update(view)
        desired.update(view, view.apply(TenantSet(Tenant("red", Vni(10), change))))
        switches[node.ip] = Switch(desired.all())
    fabric = Fabric(switches)
    reached = []
    for pod in (SECOND, BLUE, green):
        packet = ip_packet(pod.port, pod.mac, pod.ip, IPv4Address("10.96.0.10"), TCP, 80, CLIENT_PORT)
        reached.append([(d.host, d.port) for d in fabric.send(pod.node.ip, packet)] == [(NODE.ip, RED.port)])
    assert reached == [True, True, step is not TenantStep.CLOSE]


def test_an_established_connection_dies_with_the_tenancy() -> None:
    cluster = world_of(service("red", "web", "10.96.0.10"), slices=(endpoint_slice("red", "web", SECOND.ip),))
    packet = ip_packet(RED.port, RED.mac, RED.ip, IPv4Address("10.96.0.10"), TCP, 80, CLIENT_PORT)
    fabric = cluster.fabric()
    connect(fabric, cluster, NODE, packet, SECOND.ip)
    foreign = replace(cluster, pods=[replace(RED, namespace="blue"), SECOND])
    desired = DesiredFlows()
    desired.update(foreign.view(NODE))
    fabric.switches[NODE.ip].hold(desired.all())
    assert fabric.send(NODE.ip, packet) == []
    assert fabric.drops == [(NODE.ip, Drop.SERVICE_TENANT_MISMATCH)]


def test_an_external_address_takes_nothing_from_other_tenants() -> None:
    outside = "203.0.113.80"
    cluster = world_of(
        service("red", "web", "10.96.0.10", outside), slices=(endpoint_slice("red", "web", SECOND.ip),)
    )
    fabric = cluster.fabric()
    mine = ip_packet(RED.port, RED.mac, RED.ip, IPv4Address(outside), TCP, 80, CLIENT_PORT)
    connect(fabric, cluster, NODE, mine, SECOND.ip)
    theirs = ip_packet(BLUE.port, BLUE.mac, BLUE.ip, IPv4Address(outside), TCP, 80, CLIENT_PORT)
    assert fabric.reaches_gateway(OTHER.ip, theirs, OTHER.ip)


def test_two_services_with_one_endpoint_share_a_clients_source_port() -> None:
    cluster = world_of(
        service("red", "web", "10.96.0.10"),
        service("red", "also", "10.96.0.11"),
        slices=(endpoint_slice("red", "web", SECOND.ip), endpoint_slice("red", "also", SECOND.ip)),
    )
    fabric = cluster.fabric()
    for address in ("10.96.0.10", "10.96.0.11"):
        packet = ip_packet(RED.port, RED.mac, RED.ip, IPv4Address(address), TCP, 80, CLIENT_PORT)
        connect(fabric, cluster, NODE, packet, SECOND.ip)


def test_affinity_outlives_the_choice_of_the_group_and_ends_with_the_endpoint() -> None:
    pods = (RED.ip, SECOND.ip)
    cluster = world_of(
        service("red", "web", "10.96.0.10", affinity=60), slices=(endpoint_slice("red", "web", *pods),)
    )
    fabric, view = cluster.fabric(), cluster.view(NODE)
    switch = fabric.switches[NODE.ip]

    def endpoint(source_port: int) -> int:
        packet = ip_packet(GATEWAY_OFPORT, NODE.gateway_mac, NODE.gateway, IPv4Address("10.96.0.10"), TCP, 80)
        (there,) = fabric.send(NODE.ip, {**packet, f.TCP_SRC: source_port})
        return there.packet[f.IP_DST]

    choose(fabric, 1)
    assert endpoint(1) == int(SECOND.ip)
    choose(fabric, 0)
    assert endpoint(2) == int(SECOND.ip)
    learned = [flow for flow in switch.tables[63] if flow.priority == 200]
    assert [flow.match_text() for flow in learned] == ["tcp,nw_src=172.11.0.1,nw_dst=10.96.0.10,tp_dst=80"]
    less = replace(cluster, slices=(endpoint_slice("red", "web", RED.ip),))
    desired = DesiredFlows()
    desired.update(less.view(NODE))
    switch.hold([*desired.all(), *learned])
    assert endpoint(3) == int(RED.ip)
    desired.update(view)
    switch.hold([*desired.all(), *switch.tables[63]])
    choose(fabric, 1)
    assert endpoint(4) == int(RED.ip)


def test_a_spoofed_hairpin_address_goes_nowhere() -> None:
    cluster = world_of(service("red", "web", "10.96.0.10"), slices=(endpoint_slice("red", "web", SECOND.ip),))
    fabric = cluster.fabric()
    packet = ip_packet(RED.port, RED.mac, RED.ip, HAIRPIN_IP, TCP, 80, CLIENT_PORT)
    assert fabric.send(NODE.ip, packet) == []
    assert fabric.drops == [(NODE.ip, Drop.HAIRPIN_UNKNOWN)]
    looped = ip_packet(GATEWAY_OFPORT, NODE.gateway_mac, HAIRPIN_IP, IPv4Address("10.96.0.10"), TCP, 80, 1)
    assert fabric.send(NODE.ip, looped) == []
    assert fabric.drops == [(NODE.ip, Drop.GATEWAY_SPOOFED_SOURCE)]


def test_no_flow_of_a_service_is_made_twice_for_two_clients() -> None:
    """Nothing in the flows of a Service depends on who its clients are."""
    with_pods = world_of(service("red", "web", "10.96.0.10"))
    without = replace(with_pods, pods=[])
    flows = []
    for cluster in (with_pods, without):
        desired = DesiredFlows()
        desired.update(cluster.view(NODE))
        flows.append(
            {item for item in desired.all() if isinstance(item, Flow) and item.table in (60, 62, 64)}
        )
    assert flows[0] == flows[1]
