"""What is wrong outside of k8s-ovs, as people and runtimes meet it: the right code, the cause and the remedy, in words.

One small lab, whose nodes have room for five pods each, with the real executable, kubectl and etcdctl. Everything that
is wrong is put right again at the end of its test, and then works without anybody's help.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.labs import METRICS_PORT, Lab, eventually, running_lab
from fakes.runtime import Runtime, address, runtime_on

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

NODE = "node1"
ROOM = 5
"""Pods in a /29: 8 addresses less network, broadcast and gateway."""
RECORDS = "/k8s.ovs.com/ovs/network/k8ssdn"
TENANT_WAIT = 1.0


@pytest.fixture(scope="module")
def small() -> Iterator[Lab]:
    """Two nodes, and no host subnet for a third."""
    options = ("--pod-cidr", "10.77.0.0/28", "--host-bits", "3")
    with running_lab(*options, nodes=2, environment={"K8S_OVS_TENANT_WAIT": str(TENANT_WAIT)}) as lab:
        yield lab


@pytest.fixture(scope="module")
def runtime(small: Lab) -> Iterator[Runtime]:
    with runtime_on(small, NODE) as runtime:
        yield runtime


def events(lab: Lab) -> str:
    """What an operator sees."""
    return lab.kubectl("get", "events", "-A")


# -- exhausted -----------------------------------------------------------------------------------------------------------


async def test_a_host_subnet_without_a_free_address(small: Lab, runtime: Runtime) -> None:
    sandboxes = [runtime.sandbox() for _ in range(ROOM)]
    for sandbox in sandboxes:
        await runtime.insist("ADD", sandbox)
    subnet = small.node(NODE)["subnet"]
    refused = await runtime.ask("ADD", runtime.sandbox())
    assert refused.code == 102
    assert "pod default/p" in refused.text
    assert f"no free address in {subnet} ({ROOM} in use)" in refused.text
    assert "delete pods on this node or enlarge HostSubnetLength" in refused.text
    assert (await runtime.ask("STATUS")).code == 0, "the node itself is well"

    small.create_pods({("default", "sixth"): NODE}, wait=False)
    try:
        eventually(lambda: "FailedCreatePodSandBox" in events(small), "kubelet's event")
        assert f"pod default/sixth: no free address in {subnet}" in events(small)
        await runtime.insist("DEL", sandboxes[0])
        small.kubectl("wait", "--for=condition=Ready", "pod/sixth", "--timeout=30s")
    finally:
        small.delete_pods("default", "sixth")
    for sandbox in sandboxes[1:]:
        await runtime.insist("DEL", sandbox)


def test_a_node_for_which_no_host_subnet_is_left(small: Lab) -> None:
    """The controller names it in event, log and metric; the others' pods come and go meanwhile."""
    addresses = [{"type": "InternalIP", "address": small.address(NODE).rpartition(".")[0] + ".99"}]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "late"}}
    small.kubectl("create", "-f", "-", stdin=json.dumps(node | {"status": {"addresses": addresses}}))
    message = "node late: gets no subnet: no free host subnet in 10.77.0.0/28 (2 of /29, all taken)"
    try:
        eventually(lambda: message in events(small), "the controller's event")
        assert "remove unused host subnets, or plan a larger Network" in events(small)
        assert any(message in small.log(f"controller{number}") for number in (1, 2))
        metric = 'k8s_ovs_controller_problems{kind="SubnetsExhausted"}'
        assert small.controller_metrics()[metric] == 1
        small.create_pods({("default", "other"): "node2"})
        small.delete_pods("default", "other")
    finally:
        small.kubectl("delete", "node", "late")
    eventually(lambda: small.controller_metrics()[metric] == 0, "the metric to say that it is solved")


NO_OBJECT = "stdin is not a JSON object"
AGENT_RUNS = "see that the k8s-ovs agent runs on this node"

# -- malformed calls of the executable -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdin", "code", "words"),
    [
        pytest.param(b"", 6, NO_OBJECT, id="nothing"),
        pytest.param(b"{", 6, NO_OBJECT, id="cut"),
        pytest.param(b"[]", 6, NO_OBJECT, id="a list"),
        pytest.param(b"\xff\xfe\x00", 6, NO_OBJECT, id="octets"),
        pytest.param(b'{"a":' * 100_000, 6, NO_OBJECT, id="deep"),
        pytest.param(
            b'{"a":"' + b"x" * (1 << 20) + b'"}', 6, "stdin is larger than 1048576 octets", id="large"
        ),
        pytest.param({"name": ""}, 7, "name is ''", id="no name"),
        pytest.param({"name": 7}, 7, "$.name", id="name of the wrong type"),
        pytest.param({"cniVersion": "9.9.9"}, 1, "use 0.3.1, 0.4.0, 1.0.0, 1.1.0", id="future version"),
        pytest.param({"cniVersion": ""}, 1, "cniVersion is missing", id="no version"),
        pytest.param({"ipam": {"type": "host-local"}}, 2, "remove it", id="ipam"),
        pytest.param({"socket": "relative"}, 7, "absolute path", id="socket"),
        pytest.param({"socket": "/nobody/listens/here"}, 11, AGENT_RUNS, id="no agent there"),
    ],
)
async def test_malformed_stdin(
    runtime: Runtime, stdin: bytes | dict[str, object], code: int, words: str
) -> None:
    text = stdin if isinstance(stdin, bytes) else json.dumps(runtime.conf | stdin).encode()
    answer = await runtime.execute(runtime.environment("ADD", runtime.sandbox()), text)
    assert (answer.status, answer.code) == (1, code)
    assert words in answer.text


@pytest.mark.parametrize(
    ("variable", "value", "code", "words"),
    [
        ("CNI_COMMAND", None, 4, "CNI_COMMAND is not set"),
        ("CNI_COMMAND", "FROBNICATE", 4, "CNI_COMMAND is 'FROBNICATE'"),
        ("CNI_CONTAINERID", None, 4, "CNI_CONTAINERID is not set"),
        ("CNI_CONTAINERID", "../../etc", 4, "CNI_CONTAINERID is '../../etc'"),
        ("CNI_NETNS", None, 4, "CNI_NETNS is not set"),
        ("CNI_NETNS", "/run/netns/has-gone", 3, "network namespace /run/netns/has-gone"),
        ("CNI_NETNS", "/etc/passwd", 100, "/etc/passwd"),
        ("CNI_IFNAME", None, 4, "CNI_IFNAME is not set"),
        ("CNI_IFNAME", "name-of-many-letters", 4, "1 to 15 characters"),
        ("CNI_ARGS", None, 4, "K8S_POD_NAMESPACE is missing"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE", 4, "is no KEY=VALUE"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=default", 4, "K8S_POD_NAME is missing"),
    ],
)
async def test_missing_and_wrong_variables(
    runtime: Runtime, variable: str, value: str | None, code: int, words: str
) -> None:
    environment = runtime.environment("ADD", runtime.sandbox())
    environment.pop(variable)
    if value is not None:
        environment[variable] = value
    answer = await runtime.execute(environment, json.dumps(runtime.conf).encode())
    assert (answer.status, answer.code) == (1, code)
    assert words in answer.text


async def test_nothing_of_all_that_is_left_and_the_node_is_well(small: Lab, runtime: Runtime) -> None:
    assert (await runtime.ask("STATUS")).code == 0
    links = small.exec(NODE, "ip", "-o", "link", "show", "type", "veth").stdout
    assert "k8s-ovs:" not in links
    sandbox = runtime.sandbox()
    assert address(await runtime.insist("ADD", sandbox)).endswith("/29")
    await runtime.insist("DEL", sandbox)


# -- Namespaces without a record ---------------------------------------------------------------------------------------------


async def test_a_pod_whose_namespace_does_not_exist(small: Lab, runtime: Runtime) -> None:
    sandbox = runtime.sandbox()
    answer = await runtime.ask("ADD", sandbox, namespace="nowhere")
    assert answer.code == 11
    assert "pod nowhere/p" in answer.text
    assert "Namespace nowhere has no NetID yet" in answer.text
    assert "see that the Namespace exists and that the k8s-ovs controller runs" in answer.text
    seconds = small.metrics(NODE)['k8s_ovs_cni_request_seconds_sum{code="11",command="ADD"}']
    assert seconds >= TENANT_WAIT, "it waits for a while: Namespaces and pods are often made together"
    assert (await runtime.ask("DEL", sandbox, namespace="nowhere")).code == 0


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """The processes do nothing for a while; the lab's supervisor does not notice."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_namespace_made_while_no_controller_works(small: Lab) -> None:
    with stopped([controller["pid"] for controller in small.status()["controllers"]]):
        small.create_pods({("orphan", "waits"): NODE}, wait=False)
        words = (
            "Namespace orphan has no NetID yet: see that the Namespace exists and that the k8s-ovs controller"
        )
        eventually(lambda: words in events(small), "the event at the pod")
        assert "ContainerCreating" in small.kubectl("get", "pod", "-n", "orphan", "waits")
    small.kubectl("wait", "-n", "orphan", "--for=condition=Ready", "pod/waits", "--timeout=60s")
    small.delete_namespaces("orphan")


# -- malformed records --------------------------------------------------------------------------------------------------------

MALFORMED = {
    f"{RECORDS}/netnamespaces/not-json": "{x",
    f"{RECORDS}/netnamespaces/a-list": "[]",
    f"{RECORDS}/netnamespaces/empty": "",
    f"{RECORDS}/netnamespaces/huge-id": '{"NetName":"huge-id","NetID":16777216,"Action":"","Namespace":""}',
    f"{RECORDS}/netnamespaces/text-id": '{"NetName":"text-id","NetID":"ten","Action":"","Namespace":""}',
    f"{RECORDS}/netnamespaces/other": '{"NetName":"another","NetID":77,"Action":"","Namespace":""}',
    f"{RECORDS}/netnamespaces/No_Name": '{"NetName":"No_Name","NetID":78,"Action":"","Namespace":""}',
    f"{RECORDS}/netnamespaces/deep": '{"NetName":' * 2000,
    f"{RECORDS}/subnets/not-an-address": '{"Host":"x","HostIP":"not-an-address","Subnet":"10.77.0.0/29"}',
    f"{RECORDS}/subnets/192.0.2.7": '{"Host":"x","HostIP":"192.0.2.8","Subnet":"10.77.0.0/29","Assign":false}',
    f"{RECORDS}/subnets/192.0.2.8": '{"Host":"x","HostIP":"192.0.2.8","Subnet":"10.77.0.0/99","Assign":false}',
    f"{RECORDS}/subnets/192.0.2.9": "null",
}


@contextmanager
def malformed(lab: Lab, records: dict[str, str]) -> Iterator[None]:
    """The records are in etcd, until they are deleted, or written back as they were."""
    before = {key: lab.etcdctl("get", "--print-value-only", key).rstrip("\n") for key in records}
    try:
        for key, value in records.items():
            lab.etcdctl("put", "--", key, value)
        yield
    finally:
        for key, value in before.items():
            lab.etcdctl(*(("put", "--", key, value) if value else ("del", key)))


def problems(lab: Lab) -> tuple[float, float]:
    """What agent and controller count as malformed."""
    controller = lab.controller_metrics()['k8s_ovs_controller_problems{kind="RecordMalformed"}']
    return lab.metrics(NODE)["k8s_ovs_store_problems"], controller


def test_malformed_records_are_reported_and_stop_nothing(small: Lab) -> None:
    with malformed(small, MALFORMED):
        both = (float(len(MALFORMED)),) * 2
        eventually(lambda: problems(small) == both, "agent and controller to count them")
        log = small.log(f"{NODE}-agent")
        for key in MALFORMED:
            assert f"malformed record skipped: {key}: " in log
        eventually(lambda: events(small).count("RecordMalformed") == len(MALFORMED), "an event for each")
        told = events(small)
        for key in MALFORMED:
            line = next(line for line in told.splitlines() if f" {key}: " in line)
            assert any(f": {remedy} " in line for remedy in ("write", "delete", "give", "use")), line
        shown = json.loads(small.lab("status", "-o", "json").stdout)["problems"]
        assert [line.partition(": ")[0] for line in shown] == sorted(MALFORMED)

        small.create_pods({("fresh", "a"): "node1", ("fresh", "b"): "node2"})
        assert '"NetID":' in small.etcdctl("get", "--print-value-only", f"{RECORDS}/netnamespaces/fresh")
        assert speak(small, "fresh/a", small.pod_ip("fresh", "b"))
        small.delete_namespaces("fresh")
    eventually(lambda: problems(small) == (0.0, 0.0), "nothing to be malformed any more")


def test_a_record_that_becomes_malformed_keeps_what_it_said(small: Lab) -> None:
    small.create_pods({("spoilt", "a"): "node1", ("spoilt", "b"): "node2"})
    node2 = small.address("node2")
    with malformed(small, {f"{RECORDS}/netnamespaces/spoilt": "{", f"{RECORDS}/subnets/{node2}": "{"}):
        eventually(lambda: problems(small) == (2.0, 2.0), "agent and controller to count them")
        assert speak(small, "spoilt/a", small.pod_ip("spoilt", "b"))
        small.create_pods({("spoilt", "c"): "node2"})
        assert speak(small, "spoilt/c", small.pod_ip("spoilt", "a"))
    eventually(lambda: problems(small) == (0.0, 0.0), "nothing to be malformed any more")
    small.delete_namespaces("spoilt")


def speak(lab: Lab, pod: str, to: str) -> bool:
    """Whether a pod gets a TCP echo from `to`, within a few tries: the first packet may wait for an underlay MAC."""
    say = f"import socket; s = socket.create_connection(('{to}', 8080), 5); s.sendall(b'hi'); assert s.recv(2) == b'hi'"
    return lab.exec(pod, "python3", "-I", "-S", "-c", say, check=False).returncode == 0


def test_a_network_config_that_somebody_spoils(small: Lab) -> None:
    """What runs goes on; what starts, or has to plan, says why it cannot; all is well when it is mended."""
    key = "/k8s.ovs.com/ovs/network/config"
    cause = f"etcd key {key}: not JSON"
    small.create_pods({("config", "a"): "node2"})
    with malformed(small, {key: "{"}):
        small.create_pods({("config", "b"): "node2"})
        os.kill(small.pid(f"{NODE}/agent"), signal.SIGKILL)
        eventually(lambda: cause in small.get(NODE, "/readyz")[1], "the new agent to say why it waits")
        small.create_pods({("later", "c"): NODE}, wait=False)
        eventually(lambda: cause in events(small), "the pod's event")
        controllers = range(METRICS_PORT + 1, METRICS_PORT + 3)
        eventually(
            lambda: any(cause in small.get("control", "/readyz", port)[1] for port in controllers),
            "the controller to say it too",
        )
    small.kubectl("wait", "-n", "later", "--for=condition=Ready", "pod/c", "--timeout=60s")
    small.delete_namespaces("config", "later")


# -- etcd that cannot be reached ------------------------------------------------------------------------------------------


@contextmanager
def no_way_to_etcd(lab: Lab, node: str) -> Iterator[None]:
    """The node has no route to etcd, and its agent is started anew. It stays up all the time."""
    control = lab.exec("control", "hostname", "-I").stdout.split()[0]
    lab.exec(node, "ip", "route", "add", "unreachable", control)
    try:
        os.kill(lab.pid(f"{node}/agent"), signal.SIGKILL)
        yield
    finally:
        lab.exec(node, "ip", "route", "del", "unreachable", control)


async def test_an_agent_that_cannot_reach_etcd(small: Lab, runtime: Runtime) -> None:
    attached = runtime.sandbox()
    await runtime.insist("ADD", attached)
    with no_way_to_etcd(small, NODE):
        cause = ":2379: connecting: No route to host: check that etcd runs there"
        eventually(lambda: cause in small.get(NODE, "/readyz")[1], "/readyz to tell the cause")
        agent = small.node(NODE)["agent"]
        assert small.get(NODE, "/readyz")[0] == 503
        assert small.get(NODE, "/healthz")[0] == 200, "a restart would not help"

        refused = await runtime.ask("ADD", runtime.sandbox())
        assert refused.code == 11
        assert f"node {NODE} cannot attach pods yet" in refused.text
        assert cause in refused.text
        status = await runtime.ask("STATUS")
        assert status.code == 50
        assert cause in status.text
        assert (await runtime.ask("DEL", attached)).code == 0
        assert small.node(NODE)["agent"] == agent, "it stays up"
    eventually(lambda: small.get(NODE, "/readyz")[0] == 200, "the node to be ready again, by itself")
    await runtime.insist("ADD", runtime.sandbox())


# -- the agent itself ------------------------------------------------------------------------------------------------------


async def test_an_agent_that_is_not_there(small: Lab, runtime: Runtime) -> None:
    """A socket file that nobody serves: the executable answers for itself."""
    conf = {"socket": str(small.directory(NODE) / "nobody.sock")}
    for command, code in (("ADD", 11), ("DEL", 11), ("CHECK", 11), ("STATUS", 50)):
        answer = await runtime.ask(command, "a", **conf)
        assert answer.code == code
        assert conf["socket"] in answer.text
        assert AGENT_RUNS in answer.text


def test_the_executable_run_by_hand_says_what_it_is(runtime: Runtime) -> None:
    done = subprocess.run([Path(runtime.shim)], input=b"", capture_output=True, env={}, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 4
    assert "the container runtime executes it" in json.loads(done.stdout)["details"]
