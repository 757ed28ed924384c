"""Services of a lab for end-to-end tests: making them, calling them, and a stand-in for kube-proxy.

Each answer is who answered and whom that one saw; see `service_client.py`, which runs inside pods and nodes.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.labs import PYTHON, Lab, eventually

CLIENT = str(Path(__file__).with_name("service_client.py"))
IPTABLES = ("iptables", "-w", "5")


@dataclass(frozen=True)
class Heard:
    """`pod` is who answered, or "refused", "silent" or what else went wrong; `peer` whom that one saw."""

    pod: str
    peer: str
    seconds: float


@dataclass(frozen=True)
class ServiceLab:
    """Services in one Namespace of a lab."""

    lab: Lab
    namespace: str

    def apply(self, *items: dict[str, Any]) -> None:
        """Create or change objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)})
        self.lab.kubectl("apply", "-f", "-", stdin=text)

    def service(self, name: str, *ports: dict[str, Any], selector: str = "", **spec: Any) -> dict[str, Any]:
        """A Service of pods with the label app=SELECTOR; without it, of whatever endpoints are written by hand."""
        selecting = {"selector": {"app": selector}} if selector else {}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": self.namespace, "name": name},
            "spec": {"ports": list(ports) or [{"port": 80}], **selecting, **spec},
        }

    def slice(
        self, service: str, *addresses: str, number: int = 0, ports: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        """An EndpointSlice as one writes it by hand."""
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": self.namespace,
                "name": f"{service}-by-hand-{number}",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address]} for address in addresses],
            "ports": list(ports) or [{"port": 80}],
        }

    def pods(
        self, app: str, *nodes: str, ports: Sequence[dict[str, Any]] = (), prefix: str = ""
    ) -> list[str]:
        """Pods with the label app=APP, one on each of these nodes, Ready; their names as servers call themselves."""
        names = {f"{prefix or app}-{number}": node for number, node in enumerate(nodes, 1)}
        container: dict[str, Any] = {"name": "server", "image": "lab"}
        if ports:
            container["ports"] = list(ports)
        self.apply(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"namespace": self.namespace, "name": name, "labels": {"app": app}},
                    "spec": {"nodeName": node, "containers": [container]},
                }
                for name, node in names.items()
            )
        )
        wanted = [f"pod/{name}" for name in names]
        self.lab.kubectl("wait", "-n", self.namespace, "--for=condition=Ready", "--timeout=60s", *wanted)
        return [f"{self.namespace}/{name}" for name in names]

    def address(self, name: str) -> str:
        """The Service's cluster address."""
        return self._field(name, "{.spec.clusterIP}")

    def node_port(self, name: str) -> int:
        """The Service's first node port."""
        return int(self._field(name, "{.spec.ports[0].nodePort}"))

    def pod_ip(self, pod: str) -> str:
        """The address of NAMESPACE/POD."""
        return self.lab.pod_ip(*pod.split("/"))

    def _field(self, name: str, path: str) -> str:
        return self.lab.kubectl("get", "service", "-n", self.namespace, name, "-o", f"jsonpath={path}")


@contextmanager
def namespace(lab: Lab, *names: str) -> Iterator[list[ServiceLab]]:
    """Namespaces for a test, gone afterwards."""
    for name in names:
        lab.kubectl("create", "namespace", name)
    try:
        yield [ServiceLab(lab, name) for name in names]
    finally:
        lab.delete_namespaces(*names)


def call(lab: Lab, place: str, address: str, port: int, *, verb: str = "tcp") -> Heard:
    """One attempt from a place: `tcp`, `udp` or `ask`."""
    answer = _run(lab, place, verb, address, port)
    return Heard(*(answer[0] if verb == "ask" else answer))


def ask(lab: Lab, place: str, address: str, port: int, count: int = 1) -> list[Heard]:
    """Connections from a place, one after another."""
    return [Heard(*each) for each in _run(lab, place, "ask", address, port, str(count))]


def reached(lab: Lab, place: str, address: str, port: int, *servers: str, count: int = 20) -> list[Heard]:
    """Connections that are answered by these servers and nobody else, once the switches know of the change."""
    found: list[Heard] = []

    def only_these() -> bool:
        found[:] = ask(lab, place, address, port, count)
        return {each.pod for each in found} <= set(servers)

    eventually(only_these, f"{place} → {address}:{port} answered by {servers} only, not {found}", seconds=15)
    return found


def outcome(lab: Lab, place: str, address: str, port: int, wanted: str, *, verb: str = "tcp") -> Heard:
    """One attempt that ends as wanted, once the switches know of the change."""
    last: list[Heard] = []

    def as_wanted() -> bool:
        last[:] = [call(lab, place, address, port, verb=verb)]
        return last[0].pod == wanted

    eventually(as_wanted, f"{place} → {address}:{port} {verb}: {wanted}", seconds=15)
    return last[0]


@contextmanager
def running(lab: Lab, place: str, verb: str, address: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """A client that goes on until its stdin is closed; `first` line is read by `line`."""
    command = lab.inside(place, *_command(verb, address, port))
    process = subprocess.Popen(
        command, env=dict(lab.environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.communicate(timeout=20)


def line(process: subprocess.Popen[str]) -> Any:
    """The next thing that a running client says."""
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, f"the client ended with status {process.wait(5)}"
    return json.loads(text)


def end(process: subprocess.Popen[str]) -> Any:
    """Let a running client come to its end; its last word."""
    text, _ = process.communicate(timeout=20)
    return json.loads(text)


@contextmanager
def side_door(lab: Lab, node: str, port: int, target: str) -> Iterator[None]:
    """A node port of one node, as kube-proxy (a node port) and portmap (a host port) make it: DNAT, then masqueraded.

    `target` is ADDRESS:PORT. The rules stand where theirs do: in PREROUTING, OUTPUT and POSTROUTING of the table nat.
    """
    address = lab.address(node)
    chain, marked = f"DOOR-{port}", ("-m", "conntrack", "--ctstate", "DNAT")
    setup: list[tuple[str, ...]] = [("-N", chain)]
    for protocol in ("tcp", "udp"):
        match = ("-p", protocol, "-d", address, "--dport", str(port))
        setup.append(("-A", chain, *match, "-j", "DNAT", "--to-destination", target))
    jumps = [
        ("PREROUTING", "-j", chain),
        ("OUTPUT", "-j", chain),
        ("POSTROUTING", *marked, "-d", target.partition(":")[0], "-j", "MASQUERADE"),
    ]
    try:
        for rule in [*setup, *(("-I", *jump) for jump in jumps)]:
            lab.exec(node, *IPTABLES, "-t", "nat", *rule)
        yield
    finally:
        for rule in [*(("-D", *jump) for jump in jumps), ("-F", chain), ("-X", chain)]:
            lab.exec(node, *IPTABLES, "-t", "nat", *rule, check=False)


def _command(verb: str, address: str, port: int, *more: str) -> list[str]:
    return [PYTHON, "-I", "-S", CLIENT, verb, address, str(port), *more]


def _run(lab: Lab, place: str, verb: str, address: str, port: int, *more: str) -> Any:
    return json.loads(lab.exec(place, *_command(verb, address, port, *more)).stdout)
