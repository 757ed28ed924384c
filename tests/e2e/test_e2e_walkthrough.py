"""What an administrator of the 2017 k8s-ovs did, done the same way: with kubectl and etcdctl and nothing else.

Two tenants are isolated, joined and split again, a third is made global, a pod gets a bandwidth limit, and a load balancer
outside Kubernetes reaches pods of both tenants. After each step etcdctl shows the answer, and packets do what it says. The
agent runs on the load balancer's machine from the beginning, and waits there; nginx is Debian's.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from fakes import reach_client
from fakes.lab_services import ServiceLab, ask
from fakes.labs import CLI, PYTHON, Lab, eventually, running_lab
from fakes.nginx import write_conf

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

CLIENT = str(Path(reach_client.__file__))
PREFIX = "/k8s.ovs.com/ovs/network"
NODES = ("node1", "node2")
BOTH = ({"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"})
BALANCER_PORT = 8088
LIMIT = 10
"""Mbit/s."""
SECONDS = 4
RECEIVER = """
import socket, sys, time
server = socket.create_server(("", 5001))
print("ready", flush=True)
wire, _ = server.accept()
got = len(wire.recv(1 << 16))
begun = time.monotonic()
while time.monotonic() - begun < float(sys.argv[1]):
    got += len(wire.recv(1 << 16))
print(got * 8 / 1e6 / (time.monotonic() - begun))
"""
SENDER = """
import socket, sys
wire = socket.create_connection((sys.argv[1], 5001), 5)
try:
    while True:
        wire.sendall(bytes(1 << 14))
except OSError:
    pass
"""


Way = tuple[str, str]
"""A verb of `fakes.reach_client`, and an address."""


@dataclass(frozen=True)
class Administrator:
    """Somebody with kubectl and etcdctl."""

    lab: Lab

    def network(self) -> str:
        """The name of the network, as its config says."""
        config = json.loads(self.lab.etcdctl("get", "--print-value-only", f"{PREFIX}/config"))
        assert config["PluginName"] == "k8s-ovs-multitenant"
        return str(config["Name"])

    def get(self, key: str) -> dict[str, Any]:
        found = self.lab.etcdctl("get", "--print-value-only", f"{PREFIX}/{self.network()}/{key}")
        return dict(json.loads(found or "{}"))

    def put(self, key: str, record: dict[str, Any]) -> None:
        self.lab.etcdctl("put", f"{PREFIX}/{self.network()}/{key}", json.dumps(record))

    def change(self, namespace: str, action: str, other: str = "") -> int:
        """Ask for it as the seed's users do; the NetID that is there when the Action is gone again."""
        key = f"netnamespaces/{namespace}"
        net_id = self.get(key)["NetID"]
        request = {"NetName": namespace, "NetID": net_id, "Action": action, "Namespace": other}
        self.put(key, request)
        eventually(
            lambda: self.get(key)["Action"] == "", f"{action} {namespace} {other} is answered", seconds=60
        )
        answer = self.get(key)
        assert answer["NetName"] == namespace
        assert not answer.get("Namespace")
        assert not answer.get("Error")
        return int(answer["NetID"])

    def tenant(self, namespace: str) -> "Tenant":
        """A Namespace with a pod on each node and a Service for TCP and UDP."""
        self.lab.kubectl("create", "namespace", namespace)
        made = ServiceLab(self.lab, namespace)
        addresses = {name: made.pod_ip(name) for name in made.pods("web", *NODES)}
        made.apply(made.service("web", *BOTH, selector="web"))
        return Tenant(self.lab, namespace, addresses, made.address("web"))


@dataclass(frozen=True)
class Tenant:
    """A Namespace with pods and a Service: names as servers call themselves to addresses, and the cluster address."""

    lab: Lab
    namespace: str
    pods: dict[str, str]
    service: str

    @property
    def client(self) -> str:
        """The pod that tries to reach others; on the first node."""
        return next(iter(self.pods))

    def ways_to(self, target: "Tenant") -> list[Way]:
        """To the pods and the Service of another tenant, on the same node and across; or to the own ones."""
        addresses = [address for name, address in target.pods.items() if name != self.client]
        found = [(verb, address) for verb in ("ping", "tcp", "udp") for address in addresses]
        return [*found, ("tcp", target.service), ("udp", target.service)]


@pytest.fixture(scope="module")
def admin() -> Iterator[Administrator]:
    with running_lab(nodes=len(NODES)) as lab:
        yield Administrator(lab)


def tried(lab: Lab, place: str, *ways: Way) -> dict[Way, bool]:
    """What comes through from a place; all at the same time."""
    words = [word for way in ways for word in way]
    done = lab.exec(place, PYTHON, "-I", "-S", CLIENT, *words)
    return dict(zip(ways, json.loads(done.stdout), strict=True))


def pings(lab: Lab, place: str, *addresses: str) -> set[bool]:
    return set(tried(lab, place, *(("ping", address) for address in addresses)).values())


def apart(one: Tenant, two: Tenant) -> None:
    """Neither reaches the other."""
    for source, target in ((one, two), (two, one)):
        found = tried(source.lab, source.client, *source.ways_to(target))
        assert not any(found.values()), f"{source.namespace} → {target.namespace}: {found}"


def together(one: Tenant, two: Tenant) -> None:
    """Each reaches the other, and is seen as what it is."""
    for source, target in ((one, two), (two, one)):
        wanted = source.ways_to(target)
        found = tried(source.lab, source.client, *wanted)
        if not all(found.values()):  # a busy machine may have been slow: only what stays closed counts
            found = tried(source.lab, source.client, *wanted)
        assert all(found.values()), f"{source.namespace} → {target.namespace}: {found}"
        far, address = list(target.pods.items())[-1]
        answer = ask(source.lab, source.client, address, 80)[0]
        assert (answer.pod, answer.peer) == (far, source.pods[source.client])


def test_tenants_are_isolated_joined_split_and_made_global(admin: Administrator) -> None:
    nodes = admin.lab.kubectl("get", "node", "--no-headers").splitlines()
    assert [line.split()[1] for line in nodes] == ["Ready"] * len(NODES)
    red, blue, green = (admin.tenant(name) for name in ("red", "blue", "green"))
    ids = {name: admin.get(f"netnamespaces/{name}") for name in ("red", "blue", "green")}
    assert len({record["NetID"] for record in ids.values()} - {0}) == 3
    assert all((record["NetName"], record["Action"]) == (name, "") for name, record in ids.items())
    together(red, red)
    apart(red, blue)

    assert admin.change("red", "join", "blue") == ids["blue"]["NetID"]
    together(red, blue)
    apart(red, green)

    alone = admin.change("red", "isolate")
    assert alone not in (0, ids["blue"]["NetID"], ids["green"]["NetID"])
    apart(red, blue)
    together(red, red)

    assert admin.change("green", "global") == 0
    together(green, red)
    together(green, blue)
    apart(red, blue)
    assert admin.get("netnamespaces/blue")["NetID"] == ids["blue"]["NetID"]


def throughput(lab: Lab, source: str, target: str, address: str) -> float:
    """Mbit/s of payload that one TCP connection gets through."""
    begin = [CLI, "lab", "exec", "--name", lab.name]
    receive = [*begin, target, "--", PYTHON, "-I", "-S", "-c", RECEIVER, str(SECONDS)]
    send = [*begin, source, "--", PYTHON, "-I", "-S", "-c", SENDER, address]
    with subprocess.Popen(receive, env=lab.environment, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n"
            with subprocess.Popen(send, env=lab.environment) as sender:
                try:
                    return float(receiver.communicate(timeout=60)[0])
                finally:
                    sender.kill()
        finally:
            receiver.kill()


def annotate(lab: Lab, pod: str, *annotations: str) -> None:
    namespace, _, name = pod.partition("/")
    lab.kubectl("annotate", "pod", "-n", namespace, name, "--overwrite", *annotations)


def test_a_pods_bandwidth_is_what_its_annotations_say(admin: Administrator) -> None:
    """Two limits from its birth on; then one of them goes, while the pod runs."""
    lab = admin.lab
    lab.kubectl("create", "namespace", "slow")
    items = [
        pod("free", "node1", {}),
        pod("limited", "node2", {f"{way}gress": f"{LIMIT}M" for way in ("in", "e")}),
    ]
    lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    lab.kubectl("wait", "-n", "slow", "--for=condition=Ready", "--timeout=60s", "pod/free", "pod/limited")
    free, limited = lab.pod_ip("slow", "free"), lab.pod_ip("slow", "limited")
    eventually(lambda: pings(lab, "slow/limited", free) == {True}, "the two reach each other")

    sent = throughput(lab, "slow/limited", "slow/free", free)
    received = throughput(lab, "slow/free", "slow/limited", limited)
    print(f"limit {LIMIT} Mbit/s: {sent:.2f} sent, {received:.2f} received")
    for rate in (sent, received):
        assert 0.6 * LIMIT < rate < 1.1 * LIMIT

    annotate(lab, "slow/limited", "kubernetes.io/egress-bandwidth-")
    eventually(
        lambda: throughput(lab, "slow/limited", "slow/free", free) > 1.5 * LIMIT, "it may send what it can"
    )
    assert throughput(lab, "slow/free", "slow/limited", limited) < 1.1 * LIMIT, "the other limit stays"


def pod(name: str, node: str, limits: dict[str, str]) -> dict[str, Any]:
    """A pod whose bandwidth is limited: "ingress" and "egress" to quantities."""
    annotations = {f"kubernetes.io/{way}-bandwidth": text for way, text in limits.items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "slow", "name": name, "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "server", "image": "lab"}]},
    }


@contextmanager
def nginx(lab: Lab, host: str, folder: Path, *tenants: Tenant) -> Iterator[None]:
    """nginx on a host, balancing over the pods of each tenant, until the end of the block."""
    pods = {tenant.namespace: [f"{ip}:80" for ip in tenant.pods.values()] for tenant in tenants}
    conf = write_conf(folder, BALANCER_PORT, pods)
    command = [
        CLI,
        "lab",
        "exec",
        "--name",
        lab.name,
        host,
        "--",
        "nginx",
        "-p",
        str(folder),
        "-c",
        str(conf),
    ]
    with subprocess.Popen(command, env=lab.environment) as server:
        try:
            eventually((folder / "nginx.pid").exists, "nginx runs")
            yield
        finally:
            server.terminate()


def test_a_load_balancer_outside_reaches_pods_of_all_tenants(admin: Administrator, tmp_path: Path) -> None:
    lab = admin.lab
    cyan, pink = admin.tenant("cyan"), admin.tenant("pink")
    every = [*cyan.pods.values(), *pink.pods.values()]
    apart(cyan, pink)

    lab.lab("add-host", "lb", "--unregistered")
    address = next(host["ip"] for host in lab.status()["hosts"] if host["name"] == "lb")
    assert pings(lab, "lb", *every) == {False}, "nobody has let it in"
    admin.put(f"subnets/{address}", {"Host": "lb", "HostIP": address, "Subnet": "", "Assign": True})
    eventually(lambda: bool(admin.get(f"subnets/{address}")["Subnet"]), "a subnet is assigned")
    record = admin.get(f"subnets/{address}")
    assert (record["Host"], record["HostIP"], record["Assign"]) == ("lb", address, True)
    gateway = str(IPv4Network(record["Subnet"])[1])
    eventually(lambda: pings(lab, "lb", *every) == {True}, "lb reaches every pod")

    with nginx(lab, "lb", tmp_path, cyan, pink):
        for tenant in (cyan, pink):
            balanced(tenant, address, gateway)
    apart(cyan, pink)

    lab.etcdctl("del", f"{PREFIX}/{admin.network()}/subnets/{address}")
    eventually(lambda: pings(lab, "lb", *every) == {False}, "nobody lets it in any more")


FETCH = """
import sys, urllib.request
for _ in range(20):
    with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
        print(answer.read().decode())
"""


def balanced(tenant: Tenant, address: str, gateway: str) -> None:
    """A client outside gets answers of both pods in turn; they see the load balancer's gateway as their client."""
    url = f"http://{address}:{BALANCER_PORT}/{tenant.namespace}/peer"

    def fetch() -> list[dict[str, Any]]:
        done = tenant.lab.exec("outside", PYTHON, "-I", "-S", "-c", FETCH, url, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    eventually(lambda: len(fetch()) == 20, f"{url} answers")
    answers = fetch()
    assert Counter(answer["pod"] for answer in answers) == dict.fromkeys(tenant.pods, 10)
    assert {answer["peer"] for answer in answers} == {gateway}
