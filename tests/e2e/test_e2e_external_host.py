"""A load balancer outside Kubernetes: it reaches every pod of every tenant, and nobody does who is not registered.

The lab's external host is registered with `k8s-ovs subnet assign`, as an administrator does it; its agent has etcd and nothing
else. What balances there is Debian's nginx. A second one has Kubernetes credentials too, and so reaches ClusterIPs.
"""

import json
import select
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from fakes.lab_services import ServiceLab, ask, call, end, line, outcome, reached, running
from fakes.labs import CLI, PYTHON, Lab, eventually, running_lab
from fakes.nginx import write_conf

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

ATTACKS = str(Path(__file__).with_name("attacks.py"))
FETCH = """
import sys, urllib.request
for _ in range(int(sys.argv[1])):
    with urllib.request.urlopen(sys.argv[2], timeout=5) as answer:
        print(answer.read().decode().strip())
"""
PODS = {
    ("red", "one"): "node1",
    ("red", "two"): "node2",
    ("blue", "one"): "node1",
    ("blue", "two"): "node2",
}
BALANCER_PORT = 8088


@dataclass(frozen=True)
class Town:
    """A lab with pods of two tenants and a load balancer."""

    lab: Lab
    pods: dict[str, str]

    def host(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(host for host in self.lab.status()["hosts"] if host["name"] == name)
        return found

    def fetch(self, place: str, url: str, times: int = 1, *, check: bool = True) -> list[str]:
        """The bodies of so many answers; fewer if one of them did not come and `check` is False."""
        done = self.lab.exec(place, PYTHON, "-I", "-S", "-c", FETCH, str(times), url, check=check)
        return done.stdout.splitlines()

    def gateway(self, name: str) -> str:
        """The address that the external host has in the pod network."""
        subnet: str = self.subnets()[name]["subnet"]
        return str(IPv4Network(subnet).network_address + 1)

    def subnets(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(self.lab.cli("subnet", "list", "-o", "json").stdout)
        return {row["host"]: row for row in rows}


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with running_lab(nodes=2) as lab:
        lab.create_pods(PODS)
        lab.lab("add-host", "lb")
        yield Town(lab, {f"{ns}/{name}": lab.pod_ip(ns, name) for ns, name in PODS})


@contextmanager
def nginx(town: Town, folder: Path) -> Iterator[None]:
    """nginx on the external host, until the end of the block."""
    tenants = {
        tenant: [f"{ip}:80" for pod, ip in town.pods.items() if pod.startswith(f"{tenant}/")]
        for tenant in ("red", "blue")
    }
    conf = write_conf(folder, BALANCER_PORT, tenants)
    command = [
        CLI,
        "lab",
        "exec",
        "--name",
        town.lab.name,
        "lb",
        "--",
        "nginx",
        "-p",
        str(folder),
        "-c",
        str(conf),
    ]
    with subprocess.Popen(command, env=town.lab.environment) as server:
        try:
            eventually((folder / "nginx.pid").exists, "nginx runs")
            yield
        finally:
            server.terminate()


def test_it_is_a_host_like_others_that_kubernetes_does_not_know(town: Town) -> None:
    row = town.host("lb")
    assert row["ready"] is True
    assert row["subnet"]
    assert town.lab.kubectl("get", "nodes", "-o", "name").split() == ["node/node1", "node/node2"]
    record = town.subnets()["lb"]
    assert (record["hostIP"], record["subnet"], record["external"]) == (row["ip"], row["subnet"], True)
    command = Path(f"/proc/{town.host('lb')['agent']['pid']}/cmdline").read_bytes()
    assert b"--external" in command
    assert b"kubeconfig" not in command
    assert town.lab.get("lb", "/readyz")[0] == 200
    assert "lb (external)" in town.lab.lab("status").stdout


def test_nginx_balances_over_pods_of_two_tenants(town: Town, tmp_path: Path) -> None:
    address = town.host("lb")["ip"]
    with nginx(town, tmp_path):
        for tenant in ("red", "blue"):
            url = f"http://{address}:{BALANCER_PORT}/{tenant}/"
            # The userspace datapath drops the first packet to a host whose MAC it does not know yet.
            eventually(lambda url=url: bool(town.fetch("outside", url, check=False)), f"{url} answers")
            answers = Counter(town.fetch("outside", url, 20))
            assert answers == {"one": 10, "two": 10}
            peer = json.loads(town.fetch("outside", url + "peer")[0])
            assert peer["pod"].startswith(f"{tenant}/")
            assert peer["peer"] == town.gateway("lb")


@pytest.fixture(scope="module")
def services(town: Town) -> dict[str, ServiceLab]:
    """Each tenant has a Service "web" over both nodes, TCP and UDP; beside "lb" there is "lbk", which knows Kubernetes."""
    ports = [{"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]
    made = {tenant: ServiceLab(town.lab, tenant) for tenant in ("red", "blue")}
    for tenant, place in made.items():
        town.lab.kubectl("label", "pod", "-n", tenant, "one", "two", "app=web")
        place.apply(place.service("web", *ports, selector="web"))
    town.lab.lab("add-host", "lbk", "--with-kubernetes")
    return made


@pytest.mark.parametrize("tenant", ["red", "blue"])
def test_with_kubernetes_it_reaches_cluster_addresses(
    town: Town, services: dict[str, ServiceLab], tenant: str
) -> None:
    address = services[tenant].address("web")
    outcome(town.lab, "lbk", address, 80, "open")
    heard = reached(town.lab, "lbk", address, 80, f"{tenant}/one", f"{tenant}/two", count=40)
    assert {each.pod for each in heard} == {f"{tenant}/one", f"{tenant}/two"}, "on either node"
    assert {each.peer for each in heard} == {town.gateway("lbk")}
    for _ in range(6):
        assert call(town.lab, "lbk", address, 80, verb="udp").pod == "open"
    assert call(town.lab, "lbk", address, 81).pod == "silent", "no Service has that port"


@pytest.mark.parametrize("tenant", ["red", "blue"])
def test_without_kubernetes_it_reaches_pods_and_no_cluster_addresses(
    town: Town, services: dict[str, ServiceLab], tenant: str
) -> None:
    address = services[tenant].address("web")
    outcome(town.lab, "lbk", address, 80, "open")
    for verb in ("tcp", "udp"):
        assert call(town.lab, "lb", address, 80, verb=verb).pod == "silent"
        for place in ("lb", "lbk"):
            for pod, pod_ip in town.pods.items():
                assert call(town.lab, place, pod_ip, 80, verb=verb).pod == "open", (place, pod)


def test_with_kubernetes_it_follows_the_endpoints(town: Town, services: dict[str, ServiceLab]) -> None:
    red = services["red"]
    address = red.address("web")
    red.pods("web", "node2", prefix="more")
    try:
        eventually(
            lambda: "red/more-1" in {each.pod for each in ask(town.lab, "lbk", address, 80, 20)},
            "the new endpoint has connections",
        )
    finally:
        town.lab.delete_pods("red", "more-1")
    reached(town.lab, "lbk", address, 80, "red/one", "red/two")


def test_with_kubernetes_its_agent_may_be_killed_while_it_uses_a_service(
    town: Town, services: dict[str, ServiceLab]
) -> None:
    before, address = town.host("lbk")["agent"], services["blue"].address("web")
    with running(town.lab, "lbk", "hold", address, 80) as client:
        pod = line(client)[0]
        town.lab.exec("lbk", "kill", "-9", str(before["pid"]))
        assert {each.pod for each in ask(town.lab, "lbk", address, 80, 20)} <= {"blue/one", "blue/two"}
        eventually(lambda: town.host("lbk")["agent"]["restarts"] == before["restarts"] + 1, "it runs again")
        eventually(lambda: bool(town.host("lbk")["ready"]), "it is ready again")
        assert end(client).keys() == {pod}, "the connection has not moved"
    reached(town.lab, "lbk", address, 80, "blue/one", "blue/two")


def test_its_agent_may_be_killed_and_the_balancer_goes_on(town: Town) -> None:
    before = town.host("lb")["agent"]
    town.lab.exec("lb", "kill", "-9", str(before["pid"]))
    assert town.fetch("lb", f"http://{town.pods['red/two']}/", 20) == ["two"] * 20
    eventually(lambda: town.host("lb")["agent"]["restarts"] == before["restarts"] + 1, "it is started again")
    eventually(lambda: bool(town.host("lb")["ready"]), "it is ready again")


def test_a_stranger_that_sends_vxlan_is_dropped_and_counted(town: Town) -> None:
    town.lab.lab("add-host", "stranger", "--unregistered")
    assert town.host("stranger")["ready"] is False
    wanted = "k8s-ovs subnet assign stranger"
    eventually(lambda: wanted in town.lab.get("stranger", "/readyz")[1], "its agent to say what it waits for")
    assert town.lab.get("stranger", "/readyz")[0] == 503
    assert "stranger" not in town.subnets()
    claimed = town.gateway("lb")
    for target, node in (("red/one", "node1"), ("blue/two", "node2")):
        before = town.lab.drops(node)["tunnel-unknown-host"]
        address = town.lab.address(node)
        vxlan = ("vxlan", address, "0", claimed, town.pods[target], "9999", "forged")
        assert not _hears(town, target, "stranger", vxlan)
        eventually(lambda n=node, b=before: town.lab.drops(n)["tunnel-unknown-host"] > b, f"{node} counts it")
        assert _hears(town, target, "lb", ("udp", claimed, town.pods[target], "9999", "honest"))


def _hears(town: Town, pod: str, place: str, attack: tuple[str, ...]) -> bool:
    """Whether something arrives at the pod's UDP port 9999 when `place` does this."""
    command = town.lab.inside(pod, PYTHON, ATTACKS, "listen", "9999")
    with subprocess.Popen(command, env=town.lab.environment, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            return _sent_and_heard(town, place, attack, listener)
        finally:
            listener.kill()


def _sent_and_heard(town: Town, place: str, attack: tuple[str, ...], listener: subprocess.Popen[str]) -> bool:
    for _ in range(5):
        town.lab.exec(place, PYTHON, ATTACKS, *attack)
        if select.select([listener.stdout], [], [], 0.5)[0]:
            return True
    return False


def test_released_it_is_a_stranger_and_may_come_back(town: Town) -> None:
    url = f"http://{town.pods['red/one']}/"
    before, claimed = town.subnets()["lb"], town.gateway("lb")
    assert town.fetch("lb", url, 3) == ["one"] * 3
    said = town.lab.cli("subnet", "release", "lb").stdout
    assert before["subnet"] in said
    eventually(lambda: not town.fetch("lb", url, check=False), "the way is closed")
    eventually(lambda: town.host("lb")["bridge"]["flows"] == 0, "its flows are removed")
    eventually(lambda: town.host("lb")["ready"] is False, "it says that it waits")
    drops = town.lab.drops("node1")["tunnel-unknown-host"]
    vxlan = ("vxlan", town.lab.address("node1"), "0", claimed, town.pods["red/one"], "9999", "forged")
    assert not _hears(town, "red/one", "lb", vxlan)
    eventually(lambda: town.lab.drops("node1")["tunnel-unknown-host"] > drops, "node1 counts it")

    again = json.loads(
        town.lab.cli("subnet", "assign", "lb", before["hostIP"], "--wait", "-o", "json").stdout
    )
    assert again["subnet"]
    eventually(lambda: bool(town.host("lb")["ready"]), "it serves again")
    eventually(lambda: town.fetch("lb", url, check=False) == ["one"], "the way is open again")
