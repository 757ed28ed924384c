"""Whether a lab is healthy, as `k8s-ovs status` and kubectl's plugin tell it, and a pod's flows on its node."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.labs import CLI, Lab, eventually, running_lab
from k8s_ovs.flows.tables import TABLES

pytestmark = [pytest.mark.lab, pytest.mark.root]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab(nodes=2) as lab:
        lab.create_pods({("red", "web"): "node1", ("blue", "web"): "node2", ("blue", "near"): "node1"})
        yield lab


def status(lab: Lab, *options: str, place: str = "") -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of `k8s-ovs status`, on the operator's machine or on a node."""
    arguments = ("status", "-o", "json", *options)
    done = lab.exec(place, CLI, *arguments, check=False) if place else lab.cli(*arguments, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_healthy_cluster(lab: Lab) -> None:
    eventually(
        lambda: sum(node["pods"] or 0 for node in status(lab)[1]["nodes"]) == 3,
        "agents have told of their pods",
    )
    code, told = status(lab)
    assert (code, told["problems"], told["unknown"], told["healthy"]) == (0, [], [], True)
    assert told["leader"]["leads"]
    nodes = {node["name"]: node for node in told["nodes"]}
    assert nodes.keys() == {"node1", "node2"}
    for node in nodes.values():
        assert (node["agent"], node["ready"]) == ("ready", True)
        assert node["pods"] == {"node1": 2, "node2": 1}[node["name"]]
        assert node["revision"] >= told["network"]["revision"]
        assert node["subnet"]
        assert node["mtu"] > 1000
    assert told["thisNode"] is None
    printed = lab.cli("status").stdout
    assert "Healthy." in printed
    assert nodes["node1"]["subnet"] in printed


def test_kubectl_finds_the_plugin(lab: Lab, tmp_path: Path) -> None:
    plugin = tmp_path / "kubectl-ovs"
    plugin.write_text(Path(CLI).read_text())
    plugin.chmod(0o755)
    environment = {**lab.environment, "PATH": f"{tmp_path}:{lab.environment['PATH']}"}

    def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["kubectl", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    endpoints = f"K8S_OVS_ETCD_ENDPOINTS={environment.pop('K8S_OVS_ETCD_ENDPOINTS')}"
    assert json.loads(kubectl("ovs", "status", "-o", "json").stdout)["unknown"][0]["source"] == "etcd"
    lab.kubectl("create", "configmap", "k8s-ovs-etcd", "-n", "kube-system", f"--from-literal={endpoints}")
    done = kubectl("ovs", "status", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)["healthy"]) == (0, True), done.stderr
    assert "Usage: kubectl ovs status" in kubectl("ovs", "status", "--help").stdout


def test_a_pods_flows_on_its_node(lab: Lab) -> None:
    address, other = lab.pod_ip("red", "web"), lab.pod_ip("blue", "web")
    send = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{other}', 9))"

    def blocked() -> bool:
        """Whether node2 has counted it: the first packet to a host may get lost while its MAC is asked for."""
        lab.exec("red/web", sys.executable, "-c", send)
        return (
            "drop: tenant-mismatch"
            in lab.exec("node2", CLI, "flows", "--table", "tenant", "--dropped").stdout
        )

    eventually(blocked, "the switch has counted the drop")
    printed = lab.exec("node1", CLI, "flows", "--pod", "red/web", "-o", "json").stdout
    rows = json.loads(printed)
    assert (
        {"pod-in", "gateway-in", "route"}
        <= {row["table"] for row in rows}
        <= {t.name for t in TABLES.values()}
    )
    assert all(address in json.dumps(row) or "in_port=" in row["match"] for row in rows)
    assert [(row["tableNumber"], -row["priority"]) for row in rows] == sorted(
        (row["tableNumber"], -row["priority"]) for row in rows
    )
    sent = [row for row in rows if row["table"] == "pod-in" and f"nw_src={address}" in row["match"]]
    assert sent[0]["packets"] > 0
    assert "source VNI:=" in sent[0]["actions"]
    refused = lab.exec("node2", CLI, "flows", "--pod", "red/web", check=False)
    assert refused.returncode == 2
    assert "run this on the pod's node" in refused.stderr


def test_why_a_connection_is_blocked(lab: Lab) -> None:
    near = lab.exec("node1", CLI, "trace", "red/web", "blue/near:80").stdout
    assert "dropped at stage tenant (tenant-mismatch)" in near
    assert "join them (k8s-ovs tenant join)" in near
    far = lab.exec("node1", CLI, "trace", "red/web", lab.pod_ip("blue", "web"), "-o", "json").stdout
    assert f"sent through the tunnel to host {lab.address('node2')}" in json.loads(far)["verdict"]


def test_on_a_node_its_own_agent_and_switch_are_asked(lab: Lab) -> None:
    code, told = status(lab, "--only", "node", place="node2")
    assert (code, told["nodes"]) == (0, [])
    here = told["thisNode"]
    assert (here["agent"], here["switch"], here["ports"]) == ("ready", "up", 1)
    assert here["flows"] > 50
    assert lab.exec("node2", CLI, "loglevel", "debug").stdout == "127.0.0.1:9640 logs with --v=4\n"
    assert lab.exec("node2", CLI, "loglevel", "info").stdout == "127.0.0.1:9640 logs with --v=0\n"


def test_an_agent_that_stopped_is_told_with_the_next_step(lab: Lab) -> None:
    pid = lab.pid("node2/agent")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: status(lab)[0] == 1, "its report is gone")
        code, told = status(lab)
        assert (code, told["healthy"]) == (1, False)
        (problem,) = told["problems"]
        assert (problem["kind"], problem["about"]) == ("AgentSilent", "node2")
        assert "the agent of node node2" in problem["message"]
        assert "see whether it runs there" in problem["remedy"]
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: status(lab)[0] == 0, "it reports again")
