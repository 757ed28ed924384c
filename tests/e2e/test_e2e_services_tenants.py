"""Services between tenants, and the side door: whoever goes through a Service, a node port or a host port stays who it is."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.lab_services import ServiceLab, ask, call, namespace, outcome, reached, side_door
from fakes.labs import Lab, eventually, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

NODES = ("node1", "node2", "node3")
BOTH = ({"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"})


@pytest.fixture(scope="module")
def tenants(lab: Lab) -> Iterator[list[ServiceLab]]:
    """Two tenants with pods on every node, each with a Service that has a node port."""
    with namespace(lab, "left", "right") as made:
        for tenant in made:
            tenant.pods("web", *NODES)
            tenant.apply(tenant.service("web", *BOTH, selector="web", type="NodePort"))
        yield made


def test_the_matrix_with_services_equals_the_oracle(lab: Lab, tenants: list[ServiceLab]) -> None:
    globally = ServiceLab(lab, "kube-system")
    globally.pods("web", "node1", "node2")
    globally.apply(globally.service("web", *BOTH, selector="web"))
    try:
        check_matrix(lab, {True, False})
    finally:
        lab.kubectl("delete", "service,pod", "-n", "kube-system", "--all", "--wait=true")


def check_matrix(lab: Lab, expected: set[bool]) -> None:
    """Once the switches know of every Service, nothing differs."""
    last: list[str] = []

    def right() -> bool:
        done = lab.matrix()
        last[:] = [done.stdout]
        return done.returncode == 0

    eventually(right, "the matrix is as the oracle says", seconds=60)
    pairs: list[dict[str, Any]] = json.loads(lab.lab("matrix", "-o", "json", timeout=120).stdout)["pairs"]
    services = [pair for pair in pairs if pair["to"].startswith("service ")]
    assert {pair["observed"] for pair in services} == expected
    assert {pair["protocol"] for pair in services} == {"TCP", "UDP"}
    assert any(" on node" in pair["to"] for pair in services), "node ports too"
    assert any(pair["from"].startswith("node") for pair in services), "and hosts to cluster addresses"


def test_the_matrix_with_services_in_one_flat_network() -> None:
    with running_lab("--mode", "subnet") as flat, namespace(flat, "left", "right") as made:
        for tenant in made:
            tenant.pods("web", *NODES)
            tenant.apply(tenant.service("web", *BOTH, selector="web", type="NodePort"))
        check_matrix(flat, {True})


def test_endpoints_written_into_another_tenant_do_not_open_it(lab: Lab, tenants: list[ServiceLab]) -> None:
    left, right = tenants
    victims = [right.pod_ip(f"right/web-{number}") for number in (1, 2)]
    left.apply(left.service("trojan", *BOTH), left.slice("trojan", *victims, ports=slice_ports()))
    own = [left.pod_ip(f"left/web-{number}") for number in (1, 2)]
    left.apply(left.service("honest", *BOTH), left.slice("honest", *own, ports=slice_ports()))
    for client in ("left/web-1", "left/web-3"):
        reached(lab, client, left.address("honest"), 80, "left/web-1", "left/web-2")
        for verb in ("tcp", "udp"):
            assert call(lab, client, left.address("trojan"), 80, verb=verb).pod == "silent"
    assert sum(lab.drops(node).get("tenant-mismatch", 0) for node in ("node1", "node2")) > 0
    for client in ("right/web-1", "right/web-3"):
        assert call(lab, client, left.address("trojan"), 80).pod == "silent", "the Service is left's"
    reached(lab, "node3", left.address("trojan"), 80, "right/web-1", "right/web-2")


def slice_ports() -> list[dict[str, Any]]:
    return [{"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]


def test_a_foreign_service_is_dropped_and_counted(lab: Lab, tenants: list[ServiceLab]) -> None:
    left, right = tenants
    before = lab.drops("node1").get("service-tenant-mismatch", 0)
    assert call(lab, "left/web-1", right.address("web"), 80).pod == "silent"
    assert lab.drops("node1").get("service-tenant-mismatch", 0) > before
    reached(lab, "left/web-1", left.address("web"), 80, *(f"left/web-{number}" for number in (1, 2, 3)))


def test_every_tenant_reaches_the_api_server(lab: Lab, tenants: list[ServiceLab]) -> None:
    address = lab.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
    for client in ("left/web-2", "right/web-3"):
        outcome(lab, client, address, 443, "open")


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_the_tenants_own_node_port_works_and_the_other_ones_does_not(
    lab: Lab, tenants: list[ServiceLab], node: str
) -> None:
    """The client is on node1: its own node, and another."""
    left, right = tenants
    address = lab.address(node)
    answers = reached(
        lab, "left/web-1", address, left.node_port("web"), *(f"left/web-{n}" for n in (1, 2, 3))
    )
    assert {answer.peer for answer in answers if answer.pod != "left/web-1"} == {left.pod_ip("left/web-1")}
    assert call(lab, "left/web-1", address, right.node_port("web")).pod != "open"


@pytest.mark.parametrize("node", ["node1", "node2"])
@pytest.mark.parametrize("victim", ["right/web-1", "right/web-2", "right/web-3"])
def test_the_side_door_is_closed(lab: Lab, tenants: list[ServiceLab], node: str, victim: str) -> None:
    """A node port or host port that the host itself translates, with its own address from there on."""
    right = tenants[1]
    address, port = lab.address(node), 31000
    with side_door(lab, node, port, f"{right.pod_ip(victim)}:80"):
        assert ask(lab, "outside", address, port)[0].pod == victim, (
            "if the door is not there, nothing is shown"
        )
        for client in ("left/web-1", "left/web-3"):
            for verb in ("tcp", "udp"):
                assert call(lab, client, address, port, verb=verb).pod in ("refused", "silent")


def test_a_node_port_of_kube_proxy_beside_ours_stays_shut_to_others(
    lab: Lab, tenants: list[ServiceLab]
) -> None:
    """kube-proxy has opened the very node port that the bridge translates for pods."""
    left, right = tenants
    address, port = lab.address("node2"), right.node_port("web")
    with side_door(lab, "node2", port, f"{right.pod_ip('right/web-2')}:80"):
        assert ask(lab, "outside", address, port)[0].pod == "right/web-2"
        assert call(lab, "left/web-1", address, port).pod in ("refused", "silent")
        reached(lab, "right/web-1", address, port, *(f"right/web-{number}" for number in (1, 2, 3)))
    reached(
        lab, "left/web-1", address, left.node_port("web"), *(f"left/web-{number}" for number in (1, 2, 3))
    )
