"""The manifests with an etcd of one's own: `lab up --from-manifests` makes Secret and ConfigMap, as an operator has to.

One lab of one node; the tests are its life, in order.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.labs import Lab, eventually, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(200)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SYSTEM = ("-n", "kube-system")
OBJECTS = ("secret/k8s-ovs-etcd-tls", "configmap/k8s-ovs-etcd")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("--from-manifests", str(DEPLOY / "k8s-ovs-own-etcd.yaml"), nodes=1) as lab:
        yield lab


def agent(lab: Lab) -> str:
    """What kubectl says of the agent's pod: Running and the like."""
    rows = lab.kubectl(*SYSTEM, "get", "pods", "--no-headers").splitlines()
    return next((row.split()[2] for row in rows if row.startswith("k8s-ovs-node-")), "")


def taken(lab: Lab, name: str) -> dict[str, Any]:
    """An object as one would make it again; it is deleted."""
    found: dict[str, Any] = json.loads(lab.kubectl(*SYSTEM, "get", name, "-o", "json"))
    found["metadata"] = {"name": found["metadata"]["name"], "namespace": "kube-system"}
    lab.kubectl(*SYSTEM, "delete", name)
    return found


def test_it_is_up_without_a_stateful_set_when_the_command_returns(lab: Lab) -> None:
    assert lab.kubectl(*SYSTEM, "get", "statefulsets", "-o", "name") == ""
    assert agent(lab) == "Running"
    status = lab.status()
    assert [node["ready"] for node in status["nodes"]] == [True]
    assert status["networks"]["pods"] in lab.etcdctl("get", "/k8s.ovs.com/ovs/network/config")


def test_a_pod_waits_for_secret_and_config_map_as_the_documentation_says(lab: Lab) -> None:
    secret, config_map = (taken(lab, name) for name in OBJECTS)
    lab.kubectl(*SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=agent", "--wait=false")
    eventually(lambda: agent(lab) == "Init:0/1", "the agent to wait for the Secret")
    lab.kubectl("create", "-f", "-", stdin=json.dumps(secret))
    eventually(lambda: agent(lab) == "CreateContainerConfigError", "the agent to wait for the ConfigMap")
    lab.kubectl("create", "-f", "-", stdin=json.dumps(config_map))
    eventually(lambda: agent(lab) == "Running", "the agent to run")
    eventually(lambda: lab.get("node1", "/readyz")[0] == 200, "the agent to be ready")
