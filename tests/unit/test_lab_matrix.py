from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.lab_cluster import cluster
from k8s_ovs.config import Mode
from k8s_ovs.lab import forge, matrix, matrixtext, servicepoints
from k8s_ovs.lab.matrix import End, Finding, Matrix
from k8s_ovs.lab.places import PodPlace
from k8s_ovs.lab.probes import MISS, Answer, Protocol, Target, all_protocols, batches, echo_request, is_reply
from k8s_ovs.lab.servicepoints import ServicePoint
from k8s_ovs.model import services as model
from k8s_ovs.model.services import Endpoint, EndpointPort, EndpointSlice, Service, ServicePort
from k8s_ovs.model.tenancy import Kind
from k8s_ovs.model.types import Vni

VNIS = {"red": Vni(11), "blue": Vni(12), "kube-system": Vni(0)}


def place(namespace: str, name: str, node: str, address: str, *, host_network: bool = False) -> PodPlace:
    return PodPlace(namespace, name, node, address, Path(f"/netns/{name}"), host_network, (80, 8080))


PLACES = [
    place("kube-system", "g1", "node1", "10.128.0.4"),
    place("kube-system", "host", "node1", "100.64.10.11", host_network=True),
    place("red", "r2", "node2", "10.128.4.2"),
    place("red", "r1", "node1", "10.128.0.2"),
    place("blue", "b1", "node1", "10.128.0.3"),
]


def ends() -> dict[str, End]:
    return {end.title: end for end in matrix.ends_of(cluster(), PLACES, VNIS)}


def judge(source: str, destination: str, answer: Answer, mode: Mode = Mode.MULTITENANT) -> Finding:
    return matrix.judge(ends()[source], ends()[destination], Protocol.TCP, answer, mode)


def test_ends_are_pods_by_tenant_then_nodes_then_the_outside() -> None:
    assert list(ends()) == [
        "blue/b1",
        "red/r1",
        "red/r2",
        "kube-system/g1",
        "node1",
        "node2",
        "node3",
        "outside",
    ]
    assert ends()["red/r1"].party.vni == 11
    assert ends()["outside"].party.kind is Kind.OUTSIDE


def test_pairs_that_say_nothing_are_not_probed() -> None:
    named = ends()
    assert not matrix.is_probed(named["red/r1"], named["red/r1"])
    assert not matrix.is_probed(named["outside"], named["red/r1"])
    assert matrix.is_probed(named["outside"], named["node1"])
    assert matrix.is_probed(named["red/r1"], named["blue/b1"])


def test_silence_between_tenants_is_right_and_an_answer_is_not() -> None:
    assert judge("red/r1", "blue/b1", MISS).right
    leak = judge("red/r1", "blue/b1", Answer(True, "blue/b1", "10.128.0.2"))
    assert not leak.right
    assert "should NOT pass" in str(leak)


def test_within_a_tenant_silence_is_wrong() -> None:
    assert not judge("red/r1", "red/r2", MISS).right
    assert judge("red/r1", "red/r2", Answer(True, "red/r2", "10.128.0.2")).right


def test_in_subnet_mode_everybody_reaches_everybody() -> None:
    assert judge("red/r1", "blue/b1", Answer(True, "blue/b1", "10.128.0.2"), Mode.SUBNET).right


def test_an_answer_from_somebody_else_or_to_somebody_else_is_wrong() -> None:
    assert "blue/b1 answered" in str(judge("red/r1", "red/r2", Answer(True, "blue/b1", "10.128.0.2")))
    masqueraded = judge("red/r1", "red/r2", Answer(True, "red/r2", "100.64.10.11"))
    assert not masqueraded.right
    assert "not as 10.128.0.2" in masqueraded.fault


def test_outside_sees_the_nodes_address() -> None:
    assert judge("red/r2", "outside", Answer(True, "outside", "100.64.10.12")).right
    assert not judge("red/r2", "outside", Answer(True, "outside", "10.128.4.2")).right


def measured(*findings: Finding) -> Matrix:
    return Matrix(Mode.MULTITENANT, tuple(ends().values()), findings)


def test_the_text_marks_what_is_wrong_and_says_it_in_words() -> None:
    wrong = judge("red/r1", "blue/b1", Answer(True, "blue/b1", "10.128.0.2"))
    text = matrixtext.render(measured(wrong, judge("red/r1", "red/r2", Answer(True, "red/r2", "10.128.0.2"))))
    assert "T!" in text
    assert "red/r1 → blue/b1 TCP: should NOT pass" in text
    assert "1 NOT as expected" in text
    assert "\x1b" not in text
    assert "red/r1 (node1, VNI 11)" in text
    assert "kube-system/g1 (node1, global)" in text


def test_the_text_of_a_right_matrix_says_so() -> None:
    text = matrixtext.render(
        measured(judge("red/r1", "blue/b1", MISS)), lambda text, colour: f"<{colour}>{text}"
    )
    assert "<green>all as expected" in text
    assert "<bright_black>" in text


def test_json_carries_expectation_and_observation() -> None:
    data = measured(judge("red/r1", "blue/b1", MISS)).to_json()
    assert data["differences"] == 0
    assert data["pairs"] == [
        {
            "from": "red/r1",
            "to": "blue/b1",
            "protocol": "TCP",
            "expected": False,
            "observed": False,
            "right": True,
            "why": judge("red/r1", "blue/b1", MISS).why,
            "sourceSeen": "",
            "fault": "",
        }
    ]


def test_echo_requests_carry_a_valid_checksum_and_replies_are_known_by_the_token() -> None:
    request = echo_request(7, b"token-of-16-octs")
    assert forge.internet_checksum(request) == 0
    header = bytes([0x45]) + bytes(19)
    assert is_reply(header + b"\0" + request[1:], b"token-of-16-octs")
    assert not is_reply(header + request, b"token-of-16-octs")
    assert not is_reply(header + b"\0" + request[1:], b"another-token-16")
    assert not is_reply(b"", b"token-of-16-octs")


def test_a_hand_made_frame_is_addressed_as_pods_are() -> None:
    frame = forge.udp_frame(IPv4Address("10.128.0.2"), IPv4Address("10.128.4.2"), 9, b"x")
    assert frame[:14] == bytes.fromhex("0a580a8004020a580a8000020800")
    assert forge.internet_checksum(frame[14:34]) == 0
    assert frame[-1:] == b"x"


def test_many_probes_are_cut_into_batches_and_none_is_lost() -> None:
    targets = [Target(f"10.0.0.{number}", 80) for number in range(5)]
    wanted = {Path(f"/netns/{number}"): all_protocols(targets) for number in range(3)}
    cut = list(batches(wanted, 7))
    assert [sum(map(len, batch.values())) for batch in cut] == [7, 7, 7, 7, 7, 7, 3]
    together = [(netns, probe) for batch in cut for netns, probes in batch.items() for probe in probes]
    assert together == [(netns, probe) for netns, probes in wanted.items() for probe in probes]
    assert list(batches({}, 7)) == []


def point(namespace: str, *backends: str, name: str = "web", node_port: int = 0) -> ServicePoint:
    behind = frozenset((IPv4Address(address), 80) for address in backends)
    address = None if node_port else IPv4Address("10.96.0.7")
    return ServicePoint(namespace, name, address, node_port or 80, (Protocol.TCP, Protocol.UDP), behind)


def with_services(*points: ServicePoint) -> dict[str, End]:
    behind = [*ends().values(), *matrix.host_pods(cluster(), PLACES)]
    return ends() | {end.title: end for end in matrix.service_ends(cluster(), points, behind, VNIS)}


def through(source: str, answer: Answer, *points: ServicePoint) -> Finding:
    named = with_services(*points)
    destination = next(end for end in named.values() if end.party.kind is Kind.SERVICE)
    return matrix.judge(named[source], destination, Protocol.TCP, answer, Mode.MULTITENANT)


def test_a_service_is_its_namespaces_tenants() -> None:
    red = point("red", "10.128.0.2", "10.128.4.2")
    assert not through("blue/b1", MISS, red).expected
    assert through("node1", MISS, red).expected
    assert through("kube-system/g1", MISS, red).expected
    assert through("red/r1", Answer(True, "red/r2", "10.128.0.2"), red).right
    assert "blue/b1 answered" in through("red/r1", Answer(True, "blue/b1", "10.128.0.2"), red).fault


def test_who_reaches_itself_through_a_service_is_seen_with_the_hairpin_address() -> None:
    red = point("red", "10.128.0.2", "10.128.4.2")
    assert through("red/r1", Answer(True, "red/r1", "169.254.169.253"), red).right
    assert not through("red/r1", Answer(True, "red/r1", "10.128.0.2"), red).right


def test_endpoints_written_into_another_tenant_do_not_open_it() -> None:
    foreign = point("red", "10.128.0.3")
    assert not through("red/r1", MISS, foreign).expected
    mixed = with_services(point("red", "10.128.0.2", "10.128.0.3"))
    assert matrix.expected(mixed["red/r1"], mixed["service red/web:80"], Mode.MULTITENANT) is None
    assert matrix.expected(mixed["blue/b1"], mixed["service red/web:80"], Mode.MULTITENANT) is not None
    with pytest.raises(ValueError, match="depends on the endpoint"):
        matrix.judge(mixed["red/r1"], mixed["service red/web:80"], Protocol.TCP, MISS, Mode.MULTITENANT)


def test_the_kubernetes_service_is_open_and_answers_in_its_own_way() -> None:
    kubernetes = point("default", "100.64.10.2", name="kubernetes")
    named = with_services(kubernetes)
    assert not named["service default/kubernetes:80"].target.speaks
    assert through("red/r1", Answer(True), kubernetes).right
    assert not through("red/r1", MISS, kubernetes).right


def test_a_pod_on_the_hosts_network_stands_behind_a_service_as_its_host() -> None:
    host = point("kube-system", "100.64.10.11")
    behind = with_services(host)["service kube-system/web:80"].backends
    assert {(end.party.kind, end.server) for end in behind} == {
        (Kind.HOST, "node1"),
        (Kind.HOST, "kube-system/host"),
    }
    assert through("red/r1", Answer(True, "kube-system/host", "100.64.10.11"), host).right


def test_node_ports_are_probed_from_pods_only_and_services_are_no_sources() -> None:
    named = with_services(point("red", "10.128.0.2", node_port=30080))
    named |= with_services(point("red", "10.128.0.2"))
    on_node = named["service red/web:30080 on node2"]
    assert on_node.target == Target("100.64.10.12", 30080)
    assert matrix.is_probed(named["blue/b1"], on_node)
    assert not matrix.is_probed(named["node1"], on_node)
    assert matrix.is_probed(named["node1"], named["service red/web:80"])
    assert not matrix.is_probed(named["outside"], named["service red/web:80"])
    assert not matrix.is_probed(named["service red/web:80"], named["red/r1"])


def test_the_text_names_the_tenant_of_a_service() -> None:
    named = with_services(point("red", "10.128.0.2"), point("default", "100.64.10.2", name="kubernetes"))
    text = matrixtext.render(Matrix(Mode.MULTITENANT, tuple(named.values()), ()))
    assert "service red/web:80 (VNI 11)" in text
    assert "service default/kubernetes:80 (open to all)" in text


def test_points_are_ports_with_the_protocols_that_have_the_same_endpoints() -> None:
    service = Service(
        "red",
        "web",
        (IPv4Address("10.96.0.7"),),
        (
            ServicePort("tcp", model.Protocol.TCP, 80, 30080),
            ServicePort("udp", model.Protocol.UDP, 80, 30080),
            ServicePort("other", model.Protocol.UDP, 53),
            ServicePort("empty", model.Protocol.TCP, 99),
            ServicePort("sctp", model.Protocol.SCTP, 80),
        ),
    )
    ready, leaving = (
        Endpoint(IPv4Address("10.128.0.2")),
        Endpoint(IPv4Address("10.128.0.3"), ready=False, serving=True, terminating=True),
    )
    ports = tuple(EndpointPort(port.name, port.protocol, 8080) for port in service.ports)
    pieces = [
        EndpointSlice("red", "a", "web", ports[:2], (ready, leaving)),
        EndpointSlice("red", "b", "web", ports[2:3], (leaving,)),
        EndpointSlice("blue", "c", "web", ports, (Endpoint(IPv4Address("10.128.0.4")),)),
    ]
    headless = Service("red", "none", (), service.ports)
    found = list(servicepoints.points([service, headless], pieces))
    assert [(item.address is None, item.port, item.protocols) for item in found] == [
        (False, 80, (Protocol.TCP, Protocol.UDP)),
        (True, 30080, (Protocol.TCP, Protocol.UDP)),
        (False, 53, (Protocol.UDP,)),
    ]
    assert found[0].backends == found[1].backends == {(ready.address, 8080)}
    assert found[2].backends == {(leaving.address, 8080)}
