from ipaddress import IPv4Address
from pathlib import Path

from fakes.lab_cluster import cluster
from k8s_ovs.config import Mode
from k8s_ovs.lab import forge, matrix, matrixtext
from k8s_ovs.lab.matrix import End, Finding, Matrix
from k8s_ovs.lab.places import PodPlace
from k8s_ovs.lab.probes import MISS, Answer, Protocol, Target, all_protocols, batches, echo_request, is_reply
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
