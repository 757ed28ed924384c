"""A lab for end-to-end tests, driven through the command line as a user drives it.

Names carry the test's pid and a random part, so that runs side by side do not collide.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import DEFAULT_BASE
from k8s_ovs.lab.namespaces import inside
from k8s_ovs.lab.places import Place, find
from k8s_ovs.lab.state import STATE_FILE, LabState, load_cluster

PYTHON = sys.executable
CLI = str(Path(PYTHON).with_name("k8s-ovs"))
METRICS_PORT = 9640
"""Of every agent in its node; controller1 has the next one in `control`, and so on."""


class CommandFailed(AssertionError):
    """A command of the lab ended with another status than expected."""


@dataclass(frozen=True)
class Lab:
    """A running lab."""

    name: str
    environment: Mapping[str, str]

    def cli(
        self, *arguments: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `k8s-ovs …` with the lab's environment."""
        return _run([CLI, *arguments], self.environment, check=check, timeout=timeout)

    def lab(self, command: str, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run `k8s-ovs lab COMMAND --name … …`."""
        return self.cli("lab", command, "--name", self.name, *arguments, **kwargs)

    def exec(self, place: str, *command: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in a node's or pod's network: what `lab exec` does, without the start of another Python.

        `test_lab_lifecycle.py` tests `lab exec` itself.
        """
        try:
            found = self._place(place)
        except LabError as err:
            if kwargs.get("check", True):
                raise CommandFailed(str(err)) from err
            return subprocess.CompletedProcess(command, 1, "", str(err))
        return _run(_inside(found.netns, command), {**self.environment, **found.environment}, **kwargs)

    def inside(self, place: str, *command: str) -> list[str]:
        """The command line that runs a command in the network of a place; the process is the command's own."""
        return _inside(self._place(place).netns, command)

    def _place(self, place: str) -> Place:
        return find(load_cluster(DEFAULT_BASE, self.name), place)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl against the lab's API."""
        done = _run(["kubectl", *arguments], self.environment, stdin=stdin, check=check)
        return done.stdout

    def etcdctl(self, *arguments: str) -> str:
        """Run etcdctl against the lab's etcd."""
        return _run(["etcdctl", *arguments], self.environment).stdout

    def status(self) -> dict[str, Any]:
        """`lab status -o json`."""
        status: dict[str, Any] = json.loads(self.lab("status", "-o", "json", check=False).stdout)
        return status

    def node(self, name: str) -> dict[str, Any]:
        """One node of `status`."""
        return next(node for node in self.status()["nodes"] if node["name"] == name)

    def directory(self, node: str) -> Path:
        """Where the lab keeps a node's files."""
        return self.home / "nodes" / node

    @property
    def home(self) -> Path:
        """Where the lab keeps its files. Known without `lab status`, which costs half a second."""
        return DEFAULT_BASE / self.name

    def address(self, node: str) -> str:
        """A node's or external host's own address. Costs less than `status`."""
        return str(load_cluster(DEFAULT_BASE, self.name).node(node).ip)

    def pid(self, process: str) -> int | None:
        """The process of this name (node1/agent) that runs now, or None. Costs less than `status`."""
        state = LabState.read(self.home)
        assert state is not None
        return state.pid(process)

    def pids(self) -> dict[str, int]:
        """The processes of the lab that run, by name: etcd, node1/agent, … Costs less than `status`."""
        told = json.loads((self.home / STATE_FILE).read_text())["processes"]
        return {name: entry["id"]["pid"] for name, entry in told.items() if entry["id"] is not None}

    def matrix(self) -> subprocess.CompletedProcess[str]:
        """`lab matrix`; exit status 1 if anything is not as the oracle says."""
        return self.lab("matrix", check=False, timeout=120)

    def drops(self, node: str) -> dict[str, int]:
        """The named drop counters of a node: reason to packets."""
        printed = self.exec(node, CLI, "drops", "--all", "-o", "json").stdout
        counters: dict[str, int] = {}
        for entry in json.loads(printed):
            counters[entry["reason"]] = counters.get(entry["reason"], 0) + entry["packets"]
        return counters

    def pod_ip(self, namespace: str, name: str) -> str:
        """A pod's address as the API tells it."""
        return self.kubectl("get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.podIP}")

    def create_pods(self, pods: Mapping[tuple[str, str], str], *, wait: bool = True) -> None:
        """Create pods: (namespace, name) to node ("" for any); Namespaces that are missing are created too."""
        known = self.kubectl("get", "ns", "-o", "name").split()
        for namespace in sorted(
            {namespace for namespace, _ in pods} - {name.partition("/")[2] for name in known}
        ):
            self.kubectl("create", "namespace", namespace)
        items = [_pod(namespace, name, node) for (namespace, name), node in pods.items()]
        self.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        )
        if wait:
            for namespace in sorted({namespace for namespace, _ in pods}):
                names = [f"pod/{name}" for owner, name in pods if owner == namespace]
                self.kubectl("wait", "-n", namespace, "--for=condition=Ready", "--timeout=60s", *names)

    def delete_pods(self, namespace: str, *names: str) -> None:
        """Delete pods and wait until they are gone."""
        self.kubectl("delete", "pod", "-n", namespace, *names, "--wait=true", "--timeout=60s")

    def log(self, process: str) -> str:
        """The log of a process: node1/agent, controller1, …"""
        return (self.home / "log" / f"{process.replace('/', '-')}.log").read_text()

    def get(self, place: str, path: str, port: int = METRICS_PORT) -> tuple[int, str]:
        """HTTP GET on the loopback address of a place: status and body; status 0 if nobody listens."""

        def fetch() -> tuple[int, str]:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, HTTPException) as err:
                return 0, str(err)
            finally:
                connection.close()

        return inside(self._place(place).netns, fetch)

    def metrics(self, place: str, port: int = METRICS_PORT) -> dict[str, float]:
        """The metrics of a daemon, by name with labels."""
        status, body = self.get(place, "/metrics", port)
        assert status == 200, body
        lines = (line.rpartition(" ") for line in body.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, _, value in lines}

    def controller_metrics(self) -> dict[str, float]:
        """The metrics of the controller that leads; {} while none does."""
        for index in range(1, load_cluster(DEFAULT_BASE, self.name).controllers + 1):
            metrics = self.metrics("control", METRICS_PORT + index)
            if metrics["k8s_ovs_controller_leader"]:
                return metrics
        return {}

    def delete_namespaces(self, *namespaces: str) -> None:
        """Delete Namespaces with everything in them."""
        self.kubectl("delete", "namespace", *namespaces, "--wait=true", "--timeout=60s")


def eventually(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


@contextmanager
def running_lab(*options: str, nodes: int = 3, environment: Mapping[str, str] | None = None) -> Iterator[Lab]:
    """A lab that is up, and gone afterwards. The daemons inherit `environment`: K8S_OVS_TENANT_WAIT and the like."""
    name = f"t{os.getpid() % 100000}{secrets.token_hex(2)}"
    try:
        command = [CLI, "lab", "up", "--name", name, "--nodes", str(nodes), *options]
        _run(command, os.environ | (environment or {}), timeout=120)
        exports = _run([CLI, "lab", "env", "--name", name], os.environ).stdout
        yield Lab(name, dict(os.environ) | _parse(exports))
    finally:
        _run([CLI, "lab", "down", "--name", name], os.environ, timeout=60)


def _inside(netns: Path, command: Sequence[str]) -> list[str]:
    return ["nsenter", f"--net={netns}", "--", *command]


def _parse(exports: str) -> dict[str, str]:
    pairs = (
        line.removeprefix("export ").split("=", 1)
        for line in exports.splitlines()
        if line.startswith("export ")
    )
    return {name: value.replace('"$PATH"', os.environ["PATH"]).strip("\"'") for name, value in pairs}


def _pod(namespace: str, name: str, node: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "server", "image": "lab"}]}
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def _run(
    command: list[str],
    environment: Mapping[str, str],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done
