"""The lab's kubelet with a CNI plugin that has nothing to do with ours: it plays the runtime for any plugin."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.labs import Lab, eventually, running_lab
from k8s_ovs.lab.cluster import DEFAULT_BASE
from k8s_ovs.lab.state import STATE_FILE

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "plain",
    "plugins": [{"type": "k8s-ovs"}, {"type": "portmap", "capabilities": {"portMappings": True}}],
}


@dataclass(frozen=True)
class PlainLab:
    """A lab without agents; `plugin` is the directory of the plugin and its log of calls."""

    lab: Lab
    plugin: Path

    def calls(self, command: str, pod: str) -> list[dict[str, object]]:
        """The configurations that the plugin was called with for this pod."""
        log = self.plugin / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        found = []
        for line in lines:
            what, _, args, conf = line.split(" ", 3)
            if what == command and f"K8S_POD_NAME={pod};" in args:
                found.append(json.loads(conf))
        return found

    def write_conflist(self, node: str) -> None:
        (self.lab.directory(node) / "net.d" / "10-plain.conflist").write_text(json.dumps(CONFLIST))

    def phase(self, pod: str) -> str:
        return self.lab.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}", "--ignore-not-found")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainLab]:
    plugin = tmp_path_factory.mktemp("plugin")
    shutil.copy(Path(__file__).with_name("plain_cni.sh"), plugin / "plain")
    with running_lab("--bare", "--cni-bin", str(plugin / "plain"), nodes=2) as lab:
        one = PlainLab(lab, plugin)
        status = lab.kubectl("get", "nodes", "--no-headers")
        assert status.count("NotReady") == 2, "without a conflist no node may be Ready"
        one.write_conflist("node1")
        one.write_conflist("node2")
        eventually(lambda: "NotReady" not in lab.kubectl("get", "nodes"), "nodes Ready with a conflist")
        yield one


def test_pods_are_spread_run_and_are_removed(plain: PlainLab) -> None:
    lab = plain.lab
    names = [f"spread{number}" for number in range(4)]
    lab.create_pods({("default", name): "" for name in names})
    nodes = lab.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    assert sorted(nodes) == ["node1", "node1", "node2", "node2"]
    addresses = {name: lab.pod_ip("default", name) for name in names}
    assert len(set(addresses.values())) == 4
    assert "1/1" in lab.kubectl("get", "pod", names[0])
    fetch = (
        f"import urllib.request as u; print(u.urlopen('http://{addresses[names[2]]}:8080').read().decode())"
    )
    assert lab.exec(f"default/{names[0]}", "python3", "-c", fetch).stdout.strip() == names[2]
    lab.kubectl("delete", "pod", *names)
    for name in names:
        (added,), (deleted,) = plain.calls("ADD", name), plain.calls("DEL", name)
        assert "prevResult" not in added
        assert f'"{addresses[name]}/16"' in json.dumps(deleted["prevResult"])
    assert not list((DEFAULT_BASE / lab.name / "netns").glob("pod-*"))
    assert not list((DEFAULT_BASE / lab.name / "pods").iterdir())


def test_a_failing_add_is_told_undone_and_tried_again(plain: PlainLab) -> None:
    lab = plain.lab
    fail = plain.plugin / "FAIL"
    fail.touch()
    try:
        lab.create_pods({("default", "late"): "node1"}, wait=False)
        eventually(lambda: len(plain.calls("ADD", "late")) >= 2, "a second try")
        events = lab.kubectl("get", "events", "-o", "jsonpath={.items[*].message}")
        assert "told to fail: by the test" in events
        assert "ContainerCreating" in lab.kubectl("get", "pod", "late")
        assert len(plain.calls("DEL", "late")) >= 1
    finally:
        fail.unlink()
    lab.kubectl("wait", "--for=condition=Ready", "pod/late", "--timeout=30s")
    lab.kubectl("delete", "pod", "late")
    assert not list((DEFAULT_BASE / lab.name / "netns").glob("pod-*"))


def test_a_pod_that_never_ran_can_be_deleted(plain: PlainLab) -> None:
    fail = plain.plugin / "FAIL"
    fail.touch()
    try:
        plain.lab.create_pods({("default", "never"): "node2"}, wait=False)
        eventually(lambda: bool(plain.calls("ADD", "never")), "a try")
        plain.lab.kubectl("delete", "pod", "never", "--timeout=30s")
    finally:
        fail.unlink()
    assert plain.phase("never") == ""


def test_a_pod_of_the_hosts_network_has_the_nodes_address_and_no_cni_call(plain: PlainLab) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "host"},
        "spec": {
            "hostNetwork": True,
            "nodeName": "node2",
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 9100}]}],
        },
    }
    plain.lab.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    plain.lab.kubectl("wait", "--for=condition=Ready", "pod/host", "--timeout=30s")
    address = plain.lab.address("node2")
    assert plain.lab.pod_ip("default", "host") == address
    fetch = f"import urllib.request as u; print(u.urlopen('http://{address}:9100').read().decode())"
    assert plain.lab.exec("node1", "python3", "-c", fetch).stdout.strip() == "host"
    plain.lab.kubectl("delete", "pod", "host")
    assert plain.calls("ADD", "host") == []


def test_pods_answer_again_when_their_server_was_killed(plain: PlainLab) -> None:
    lab = plain.lab
    lab.create_pods({("default", "again"): "node1"})
    state = json.loads((DEFAULT_BASE / lab.name / STATE_FILE).read_text())
    os.kill(state["processes"]["node1/podserver"]["id"]["pid"], signal.SIGKILL)
    fetch = f"import urllib.request as u; u.urlopen('http://{lab.pod_ip('default', 'again')}', timeout=1)"
    eventually(
        lambda: lab.exec("default/again", "python3", "-c", fetch, check=False).returncode == 0,
        "the pod to answer again",
    )
    lab.kubectl("delete", "pod", "again")


def test_a_node_without_its_conflist_is_not_ready_and_gets_no_pods(plain: PlainLab) -> None:
    lab = plain.lab
    (lab.directory("node1") / "net.d" / "10-plain.conflist").unlink()
    try:
        eventually(lambda: "NotReady" in lab.kubectl("get", "node", "node1"), "node1 NotReady")
        lab.create_pods({("default", f"only{number}"): "" for number in range(2)})
        nodes = lab.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}").split()
        assert nodes == ["node2", "node2"]
    finally:
        plain.write_conflist("node1")
    lab.kubectl("delete", "pod", "--all")
    eventually(lambda: "NotReady" not in lab.kubectl("get", "nodes"), "node1 Ready again")
