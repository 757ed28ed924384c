"""The lab itself: it comes up, it holds, and whatever happens to it, nothing is left behind."""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.labs import CLI, Lab, eventually, running_lab
from k8s_ovs.lab import labfile
from k8s_ovs.lab.cluster import DEFAULT_BASE
from k8s_ovs.lab.state import LAB_FILE, STATE_FILE

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    with running_lab("--bare", nodes=2) as lab:
        yield lab


@pytest.fixture
def name() -> Iterator[str]:
    """A lab's name for a test that starts it by hand."""
    name = f"t{os.getpid() % 100000}{secrets.token_hex(2)}"
    yield name
    subprocess.run([CLI, "lab", "down", "--name", name], capture_output=True, check=True, timeout=60)
    assert remains(name) == []


def directory(name: str) -> Path:
    return DEFAULT_BASE / name


def state(name: str) -> dict[str, object]:
    data: dict[str, object] = json.loads((directory(name) / STATE_FILE).read_text())
    return data


def kill(name: str, process: str) -> int:
    """kill -9 one process of a lab; its pid."""
    processes = state(name)["processes"]
    assert isinstance(processes, dict)
    pid = int(processes[process]["id"]["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def remains(name: str) -> list[str]:
    """Everything on this machine that still belongs to a lab: files, mounts, processes."""
    found = [str(directory(name))] if directory(name).exists() else []
    mark = f"{directory(name)}/"
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if mark in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in f"{command}/" and "pytest" not in command:
                found.append(f"{entry.name} {command}")
    return found


def start(name: str, *options: str) -> subprocess.Popen[str]:
    """`lab up`, not waited for; a signal reaches only itself."""
    return subprocess.Popen(
        [CLI, "lab", "up", "--bare", "--nodes", "2", "--name", name, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - in the background it is ignored
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_status_tells_every_process_and_address(bare: Lab) -> None:
    status = bare.status()
    assert status["phase"] == "ready"
    assert [node["name"] for node in status["nodes"]] == ["node1", "node2"]
    for node in status["nodes"]:
        for process in ("vswitchd", "ovsdb"):
            assert Path(f"/proc/{node[process]['pid']}").exists()
        assert node["agent"]["pid"] is None
        assert node["bridge"]["state"] == "absent"
    for process in ("etcd", "apiserver", "supervisor"):
        assert Path(f"/proc/{status[process]['pid']}").exists()
    assert "node2" in bare.lab("status").stdout


def test_kubectl_and_etcdctl_work_with_what_env_prints(bare: Lab) -> None:
    assert "node1" in bare.kubectl("get", "nodes", "-o", "wide")
    bare.etcdctl("put", "/test/key", "value")
    assert bare.etcdctl("get", "/test/key", "--print-value-only").strip() == "value"
    assert bare.environment["K8S_OVS_LAB"] == bare.name


@pytest.mark.parametrize("code", [0, 3, 127])
def test_exec_hands_the_exit_code_on(bare: Lab, code: int) -> None:
    assert bare.lab("exec", "node1", "--", "sh", "-c", f"exit {code}", check=False).returncode == code


def test_exec_is_in_the_nodes_network_with_its_own_switch(bare: Lab) -> None:
    assert bare.status()["nodes"][1]["ip"] in bare.lab("exec", "node2", "ip", "-4", "addr").stdout
    assert "br-phy" in bare.lab("exec", "node2", "ovs-vsctl", "list-br").stdout
    assert bare.lab("exec", "control", "etcdctl", "endpoint", "health", check=False).returncode == 0


def test_exec_names_what_there_is_when_asked_for_what_there_is_not(bare: Lab) -> None:
    done = bare.lab("exec", "node9", "true", check=False)
    assert done.returncode == 1
    for place in ("node1", "node2", "control", "outside"):
        assert place in done.stderr
    assert bare.lab("exec", "node1", "no-such-program", check=False).returncode == 127


def test_nodes_and_outside_reach_each_other_over_the_wires(bare: Lab) -> None:
    fetch = "import urllib.request as u; print(u.urlopen('{}', timeout=5).read().decode())"
    nodes = {node["name"]: node["ip"] for node in bare.status()["nodes"]}
    cluster = labfile.from_json((directory(bare.name) / LAB_FILE).read_text())
    across = bare.exec("node1", "python3", "-c", fetch.format(f"http://{nodes['node2']}:10079/")).stdout
    assert across.strip() == "node2"
    out = bare.exec(
        "node2", "python3", "-c", fetch.format(f"http://{cluster.networks.outside_host.ip}/peer")
    ).stdout
    assert json.loads(out)["peer"] == nodes["node2"]


@pytest.mark.parametrize("process", ["etcd", "apiserver", "node1/ovsdb", "node1/vswitchd", "node1/podserver"])
def test_what_dies_is_started_again(bare: Lab, process: str) -> None:
    old = kill(bare.name, process)

    def restarted() -> bool:
        processes = state(bare.name)["processes"]
        assert isinstance(processes, dict)
        entry = processes[process]["id"]
        return entry is not None and entry["pid"] != old

    eventually(restarted, f"{process} to be started again")
    fetch = (
        f"import urllib.request as u; u.urlopen('http://{bare.status()['nodes'][0]['ip']}:10079', timeout=1)"
    )
    eventually(
        lambda: bare.exec("node2", "python3", "-c", fetch, check=False).returncode == 0,
        "node1 to be reached again",
    )
    eventually(lambda: "node1" in bare.kubectl("get", "nodes", check=False), "kubectl to work again")


def test_what_is_stopped_stays_so_until_it_is_started(bare: Lab) -> None:
    bare.lab("stop", "etcd", "node2/vswitchd")
    refused = bare.lab("stop", "etcd2", check=False)
    assert refused.returncode == 1
    assert "no process etcd2" in refused.stderr
    assert "node1/ovsdb" in refused.stderr
    status = bare.status()
    assert status["etcd"]["pid"] is None
    assert bare.node("node2")["vswitchd"]["pid"] is None
    assert bare.node("node2")["ovsdb"]["pid"] is not None
    bare.lab("start", "etcd", "node2/vswitchd")
    assert bare.status()["etcd"]["pid"] is not None
    assert bare.node("node2")["vswitchd"]["pid"] is not None
    assert bare.etcdctl("put", "--", "k", "v") == "OK\n"


def test_a_wire_that_is_added_leaves_the_router_its_mac_address(bare: Lab) -> None:
    """Else whatever nodes send to it is lost for seconds, until they ask again."""

    def ip(*arguments: str) -> str:
        fabric = f"--net={directory(bare.name) / 'netns' / 'fabric'}"
        return subprocess.run(
            ["nsenter", fabric, "ip", *arguments], check=True, capture_output=True, text=True
        ).stdout

    before = json.loads(ip("-j", "link", "show", "underlay"))[0]["address"]
    ip("link", "add", "low", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "low2")
    try:
        ip("link", "set", "low", "master", "underlay", "up")
        assert json.loads(ip("-j", "link", "show", "underlay"))[0]["address"] == before
    finally:
        ip("link", "delete", "low")


def test_a_second_lab_of_the_same_name_is_refused(bare: Lab) -> None:
    done = subprocess.run(
        [CLI, "lab", "up", "--name", bare.name], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "is up already" in done.stderr
    assert bare.status()["phase"] == "ready"


def test_labs_side_by_side_do_not_meet(bare: Lab) -> None:
    with running_lab("--bare", nodes=1) as other:
        assert other.environment["KUBECONFIG"] != bare.environment["KUBECONFIG"]
        assert len(other.kubectl("get", "nodes", "-o", "name").split()) == 1
        other.etcdctl("put", "/test/side", "other")
        assert bare.etcdctl("get", "/test/side") == ""
    assert remains(other.name) == []
    assert bare.status()["phase"] == "ready"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["namespaces and wires", "etcd, the Kubernetes API"])
def test_a_start_that_is_interrupted_leaves_nothing(name: str, line: str, number: signal.Signals) -> None:
    with start(name) as process:
        assert process.stdout is not None
        for told in process.stdout:
            if line in told:
                process.send_signal(number)
                break
        process.communicate(timeout=30)
        assert process.returncode not in (0, None)
    assert remains(name) == []


def test_a_start_that_was_killed_is_removed_by_down(name: str) -> None:
    with start(name) as process:
        assert process.stdout is not None
        assert "namespaces" in process.stdout.readline()
        process.kill()
    subprocess.run([CLI, "lab", "down", "--name", name], check=True, capture_output=True, timeout=60)
    assert remains(name) == []


def test_a_lab_whose_supervisor_was_killed_is_dead_and_can_be_removed_or_started_anew(name: str) -> None:
    with start(name) as process:
        assert process.wait(timeout=60) == 0
    supervisor = state(name)["supervisor"]
    assert isinstance(supervisor, dict)
    os.kill(supervisor["pid"], signal.SIGKILL)
    told = subprocess.run(
        [CLI, "lab", "status", "--name", name, "-o", "json"], capture_output=True, check=True, timeout=60
    )
    assert json.loads(told.stdout)["phase"] == "dead"
    with start(name) as process:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
    assert "left behind" in out


def test_down_may_be_repeated_and_ends_what_was_left_running_inside(name: str) -> None:
    with start(name) as process:
        assert process.wait(timeout=60) == 0
    inside = subprocess.Popen(
        [CLI, "lab", "exec", "--name", name, "node1", "--", "sh", "-c", "echo on; exec sleep 600"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert inside.stdout is not None
    assert inside.stdout.readline() == b"on\n"
    for said in ("is gone", "no lab"):
        done = subprocess.run(
            [CLI, "lab", "down", "--name", name], capture_output=True, text=True, check=True, timeout=60
        )
        assert said in done.stdout
    assert inside.wait(timeout=5) == -signal.SIGKILL
    inside.stdout.close()
    assert remains(name) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--nodes", "0"], "--nodes 1 to"),
        (["--pod-cidr", "10.0.0.0/33"], "not a valid netmask"),
        (["--pod-cidr", "10.96.0.0/12", "--service-cidr", "10.96.0.0/16"], "overlap"),
        (["--host-bits", "30"], "HostSubnetLength 30"),
        (["--cni-bin", "/does/not/exist"], "make shim"),
        (["--kube-bin", "/does/not/exist"], "kube-apiserver"),
    ],
)
def test_options_that_cannot_work_are_one_sentence_and_leave_nothing(
    name: str, options: list[str], reason: str
) -> None:
    done = subprocess.run(
        [CLI, "lab", "up", "--name", name, *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert remains(name) == []
