"""`k8s-ovs` without a sub-command, as the seed starts it: agent and controller in one process, from nothing to uninstall.

On a node of a lab that has a control plane, a switch and a kubelet, and nothing of k8s-ovs: what the lab otherwise does
is done by hand here.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from fakes.labs import CLI, Lab, eventually, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

NODE = "node1"
PREFIX = "/k8s.ovs.com/ovs/network"
CONFIG = (
    '{"Name":"k8ssdn", "Network":"172.11.0.0/16", "HostSubnetLength":10, '
    '"ServiceNetwork":"10.96.0.0/12", "PluginName":"k8s-ovs-multitenant"}'
)
"""As the seed's page has it."""


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    with running_lab("--bare", nodes=1) as lab:
        yield lab


@contextmanager
def both_halves(lab: Lab, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The seed's command line, on the node. `lab exec` replaces itself: the process is k8s-ovs itself."""
    endpoint = lab.exec(NODE, "printenv", "ETCDCTL_ENDPOINTS").stdout.strip()
    seeds = ["--v=5", "--alsologtostderr", "--network=k8ssdn"]
    flags = [f"--etcd-endpoints={endpoint}", f"--etcd-prefix={PREFIX}", f"--hostname={NODE}", *seeds]
    command = [CLI, "lab", "exec", "--name", lab.name, NODE, "--", CLI, *flags]
    process = subprocess.Popen(
        command, env=lab.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def speak(lab: Lab, pod: str, address: str, seconds: float = 5) -> bool:
    fetch = f"import urllib.request as u; print(u.urlopen('http://{address}', timeout={seconds}).read())"
    return lab.exec(pod, "python3", "-I", "-c", fetch, check=False).returncode == 0


def test_from_nothing_to_uninstall(bare: Lab, tmp_path: Path) -> None:
    log = tmp_path / "k8s-ovs.log"
    with log.open("wb") as out, both_halves(bare, out) as process:
        eventually(lambda: "k8s-ovs init-config" in bare.get(NODE, "/readyz")[1], "it to ask for a config")
        assert bare.get(NODE, "/readyz")[0] == 503
        assert "NotReady" in bare.kubectl("get", "nodes")

        bare.etcdctl("put", f"{PREFIX}/config", CONFIG)
        bare.kubectl("wait", "node", NODE, "--for=condition=Ready", "--timeout=30s")
        eventually(lambda: bare.get(NODE, "/readyz")[0] == 200, "both halves to be ready")
        assert bare.get(NODE, "/healthz")[0] == 200
        metrics = bare.metrics(NODE)
        assert metrics["k8s_ovs_agent_ready"] == 1
        assert metrics["k8s_ovs_controller_leader"] == 1

        bare.create_pods({("one", "a"): NODE, ("one", "b"): NODE, ("two", "c"): NODE})
        addresses = {pod: bare.pod_ip(*pod.split("/")) for pod in ("one/a", "one/b", "two/c")}
        assert all(address.startswith("172.11.") for address in addresses.values())
        assert speak(bare, "one/a", addresses["one/b"])
        assert not speak(bare, "one/a", addresses["two/c"], 1)

        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - begun < 3, "the promise is one second; the machine may be busy"
    text = log.read_text()
    assert "SIGTERM: stopping" in text
    assert "Traceback" not in text
    assert speak(bare, "one/a", addresses["one/b"]), "the switch forwards without us"
    assert not speak(bare, "one/a", addresses["two/c"], 1)

    said = bare.exec(NODE, CLI, "uninstall").stdout
    assert "removed the bridge br0" in said
    saved = bare.exec(NODE, "iptables-save").stdout
    assert "K8S-OVS" not in saved
    assert "br0" not in bare.exec(NODE, "ovs-vsctl", "list-br").stdout.split()
    assert "tun0" not in bare.exec(NODE, "ip", "-o", "link").stdout
    assert list((bare.directory(NODE) / "net.d").iterdir()) == []
    eventually(lambda: "NotReady" in bare.kubectl("get", "nodes"), "the Node to be not Ready")
    assert bare.exec(NODE, CLI, "uninstall").returncode == 0, "it may be repeated"
