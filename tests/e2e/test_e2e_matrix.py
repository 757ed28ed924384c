"""The whole product on real packets: what the matrix sees is what the oracle says, in both modes."""

import json

import pytest

from fakes.labs import Lab, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

NODES = ("node1", "node2", "node3")


def three_tenants() -> dict[tuple[str, str], str]:
    return {
        (namespace, f"{namespace}-{node}"): node
        for namespace in ("red", "blue", "kube-system")
        for node in NODES
    }


def test_the_matrix_equals_the_oracle_with_tenants(lab: Lab) -> None:
    lab.create_pods(three_tenants())
    try:
        result = lab.matrix()
        assert result.returncode == 0, result.stdout
        pairs = json.loads(lab.lab("matrix", "-o", "json").stdout)["pairs"]
        assert {pair["observed"] for pair in pairs} == {True, False}, "if all pass or none, it proves nothing"
        assert {pair["protocol"] for pair in pairs} == {"TCP", "UDP", "ICMP"}
        directly = [pair for pair in pairs if not pair["to"].startswith("service ")]
        assert sum(pair["from"].startswith(("red", "blue", "kube")) for pair in directly) == 9 * 12 * 3
        addresses = {node: lab.address(node) for node in NODES}
        leaving = [pair for pair in pairs if pair["to"] == "outside" and pair["protocol"] == "TCP"]
        assert len(leaving) == 12
        for pair in leaving:
            node = pair["from"].rpartition("-")[2] if "/" in pair["from"] else pair["from"]
            assert pair["sourceSeen"] == addresses[node], pair
    finally:
        lab.delete_namespaces("red", "blue")
        lab.kubectl("delete", "pod", "-n", "kube-system", "--all", "--wait=true")


def test_the_matrix_equals_the_oracle_in_one_flat_network_beside_another_lab(lab: Lab) -> None:
    with running_lab("--mode", "subnet") as flat:
        flat.create_pods(three_tenants())
        result = flat.matrix()
        assert result.returncode == 0, result.stdout
        pairs = json.loads(flat.lab("matrix", "-o", "json").stdout)["pairs"]
        assert {pair["observed"] for pair in pairs} == {True}
    assert lab.status()["phase"] == "ready"
