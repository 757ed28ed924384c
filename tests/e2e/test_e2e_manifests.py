"""What an operator does with the manifests: install, use, upgrade under load, remove. etcd, agents and controllers run as
they say.

One lab; the tests are its life, in order. A mistake in a manifest (a right, a volume, a capability, a probe, a variable)
ends here.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from fakes.labs import Lab, eventually, running_lab
from fakes.survival import Survivors, Toll, survivors, tolls

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(400)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NODES = ("node1", "node2")
SYSTEM = ("-n", "kube-system")
TOKEN_SECONDS = 20
"""So that every token is exchanged while the tests run."""


class Watch:
    """Looks at the nodes without end; `faults` has each moment at which one was Ready and could not serve."""

    def __init__(self, lab: Lab) -> None:
        self.faults: list[str] = []
        self.ready: set[str] = set()
        self._lab = lab
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch nodes")

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            for node in ready_nodes(self._lab):
                self.ready.add(node)
                status, said = self._lab.get(node, "/readyz")
                if status != 200:
                    self.faults.append(f"{node} is Ready, and its agent is not ({status}): {said}")


def ready_nodes(lab: Lab) -> list[str]:
    """The nodes that are Ready."""
    items = json.loads(lab.kubectl("get", "nodes", "-o", "json"))["items"]
    return [
        node["metadata"]["name"]
        for node in items
        if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
    ]


def traces(lab: Lab, node: str) -> dict[str, object]:
    """What an installation leaves on a node, or has left before."""
    links = json.loads(lab.exec(node, "ip", "-json", "link").stdout)
    rules = [line for line in lab.exec(node, "iptables-save").stdout.splitlines() if line.startswith("-A")]
    conflists = sorted(path.name for path in (lab.directory(node) / "net.d").iterdir())
    bridges = lab.exec(node, "ovs-vsctl", "list-br").stdout.split()
    names = sorted(link["ifname"] for link in links)
    return {"links": names, "rules": rules, "conflists": conflists, "bridges": bridges}


@pytest.fixture(scope="module")
def empty() -> Iterator[tuple[Lab, dict[str, dict[str, object]]]]:
    """A cluster in which nothing is installed, and what its nodes look like."""
    options = ("--bare", "--from-manifests", str(DEPLOY / "k8s-ovs.yaml"), f"--token-seconds={TOKEN_SECONDS}")
    with running_lab(*options, nodes=2) as lab:
        yield lab, {node: traces(lab, node) for node in NODES}


@pytest.fixture(scope="module")
def lab(empty: tuple[Lab, dict[str, dict[str, object]]]) -> Lab:
    """The same cluster after `kubectl apply`; the order in which things happened was right."""
    lab = empty[0]
    shown = lab.kubectl(
        "get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].message}"
    )
    assert ready_nodes(lab) == []
    assert shown.count("cni plugin not initialized") == 2
    with Watch(lab) as watch:
        # It asks for the network before there is one.
        lab.create_pods({("early", "one"): "node1", ("early", "two"): "node2"}, wait=False)
        lab.kubectl("apply", "-f", str(lab.home / "manifests.yaml"))
        rolled_out(lab, "daemonset/k8s-ovs-node")
        rolled_out(lab, "deployment/k8s-ovs-controller")
        eventually(lambda: watch.ready == set(NODES), "both nodes to be Ready", seconds=60)
        lab.kubectl("wait", "-n", "early", "--for=condition=Ready", "--timeout=30s", "pod", "--all")
    assert watch.faults == []
    return lab


def rolled_out(lab: Lab, workload: str) -> None:
    """`kubectl rollout status`, to its end."""
    lab.kubectl(*SYSTEM, "rollout", "status", workload, "--timeout=60s")


def test_what_kubectl_shows_of_it(lab: Lab) -> None:
    rows = [line.split() for line in lab.kubectl(*SYSTEM, "get", "pods", "--no-headers").splitlines()]
    names = sorted(row[0].rpartition("-")[0] for row in rows)
    assert names == ["k8s-ovs-controller"] * 2 + ["k8s-ovs-etcd"] + ["k8s-ovs-node"] * 2
    assert {tuple(row[1:4]) for row in rows} == {("1/1", "Running", "0"), ("2/2", "Running", "0")}
    assert lab.kubectl(*SYSTEM, "get", "ds", "k8s-ovs-node", "--no-headers").split()[1:6] == ["2"] * 5
    assert lab.kubectl(*SYSTEM, "get", "deploy", "--no-headers").split()[1] == "2/2"
    for node in NODES:
        assert "cannot" not in lab.log(f"{node}/agent").replace("cannot be reached", ""), "a right is missing"
    events = json.loads(lab.kubectl(*SYSTEM, "get", "events", "-o", "json"))["items"]
    said = {(event["reason"], event["message"]) for event in events}
    # Agents and controllers wait for what etcd's pod makes, and for nothing else.
    assert said <= {("FailedMount", 'MountVolume.SetUp failed: secret "k8s-ovs-etcd-tls" not found')}


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[tuple[Survivors, list[str]]]:
    """An upgrade of every agent, with traffic, and with pods that come all the time."""
    with survivors(lab) as running:
        added: list[str] = []
        running.harm("upgrade", lambda: upgrade_under_load(lab, added))
        yield running, added


@dataclass(frozen=True)
class Judged:
    """What became of the traffic: the tolls by name, and in words what was lost."""

    toll: dict[str, Toll]
    lost: list[str]


@pytest.fixture(scope="module")
def judged(running: tuple[Survivors, list[str]]) -> Judged:
    survivor, _ = running
    logs = survivor.flow.finish()
    lost = [
        f"{entry.name}: {probe.name}: {gap.count} in {gap.seconds:.3f} s after {(gap.begun - entry.begun) / 1e9:.2f} s"
        for entry in survivor.history
        for probe in survivor.watched
        for gap in logs[probe.name].gaps(entry.begun, entry.ended)
    ]
    toll = tolls(logs, survivor.watched, survivor.history)
    return Judged({each.name: each for each in toll}, lost)


def agents(lab: Lab) -> set[str]:
    """The agents' pods."""
    return {
        name for name in lab.kubectl(*SYSTEM, "get", "pods", "-o", "name").split() if "k8s-ovs-node" in name
    }


def upgrade(lab: Lab, value: str) -> None:
    """Change the agents' template, and wait until every node has the new one."""
    before = agents(lab)
    lab.kubectl(*SYSTEM, "set", "env", "daemonset/k8s-ovs-node", f"K8S_OVS_V={value}")
    rolled_out(lab, "daemonset/k8s-ovs-node")
    assert len(agents(lab) - before) == 2


def upgrade_under_load(lab: Lab, added: list[str]) -> None:
    """The same while pods are created one after the other on both nodes."""
    end = threading.Event()

    def add() -> None:
        while not end.wait(0.3):
            name = f"load{len(added)}"
            lab.create_pods({("red", name): NODES[len(added) % 2]}, wait=False)
            added.append(name)

    thread = threading.Thread(target=add, name="add pods")
    thread.start()
    try:
        upgrade(lab, "1")
    finally:
        end.set()
        thread.join()
    names = [f"pod/{name}" for name in added]
    lab.kubectl("wait", "-n", "red", "--for=condition=Ready", "--timeout=60s", *names)


def test_an_upgrade_while_pods_come_loses_nothing_and_no_pod_stays_without_network(
    lab: Lab, running: tuple[Survivors, list[str]], judged: Judged
) -> None:
    cost, added = judged.toll["upgrade"], running[1]
    assert cost.udp_sent > 1000
    assert cost.tried > 100
    assert len(added) > 5
    assert len({lab.pod_ip("red", name) for name in added}) == len(added)
    assert judged.lost == []
    assert (cost.udp_lost, cost.tcp_lost, cost.resets, cost.forbidden) == (0, 0, 0, 0)


def test_tenants_are_isolated_and_tokens_have_been_exchanged(lab: Lab, judged: Judged) -> None:
    assert judged.toll
    lab.kubectl("delete", "service", "-n", "red", "probe")  # what answered behind it has ended
    done = lab.matrix()
    assert done.returncode == 0, done.stdout
    for node in NODES:
        status, said = lab.get(node, "/readyz")
        assert (status, "kubernetes" in said) == (200, False), said
        assert "Unauthorized" not in lab.log(f"{node}/agent")


def test_removal_leaves_the_nodes_as_they_were(
    empty: tuple[Lab, dict[str, dict[str, object]]], lab: Lab, judged: Judged
) -> None:
    assert judged.toll
    lab.delete_namespaces("red", "blue", "early")
    lab.kubectl("delete", "-f", str(lab.home / "manifests.yaml"))
    eventually(lambda: not agents(lab), "the agents to end")
    uninstall = next(yaml.safe_load_all((DEPLOY / "uninstall.yaml").read_text()))
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(uninstall))
    rolled_out(lab, "daemonset/k8s-ovs-uninstall")
    eventually(lambda: ready_nodes(lab) == [], "the nodes to be NotReady")
    lab.kubectl("delete", "-f", str(DEPLOY / "uninstall.yaml"))
    for node, before in empty[1].items():
        assert traces(lab, node) == before
