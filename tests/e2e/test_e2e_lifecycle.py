"""The agent goes and comes back, nodes and Namespaces come and go: nothing that worked stops working.

A lab of two nodes whose agents look after the kernel's rules once a second.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes.labs import PYTHON, Lab, eventually, running_lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

STREAM = str(Path(__file__).with_name("echo_stream.py"))
RECORDS = "/k8s.ovs.com/ovs/network/k8ssdn"
PODS = {("life", "near"): "node1", ("life", "far"): "node2"}


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    with running_lab(nodes=2, environment={"K8S_OVS_RESYNC_PERIOD": "1"}) as lab:
        lab.create_pods(PODS)
        yield lab


@dataclass
class Stream:
    """Packets between two pods; `result` is there after the block."""

    result: dict[str, Any]


@contextmanager
def streaming(lab: Lab, source: str, target: str) -> Iterator[Stream]:
    """UDP echo goes from pod to pod all the time inside; no packet may be lost."""
    inside = [PYTHON, "-I", "-S", STREAM, target, "8080"]
    command = lab.inside(source, *inside)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=lab.environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "flowing\n"
            stream = Stream({})
            yield stream
            out, _ = process.communicate(timeout=30)
            stream.result = json.loads(out)
        finally:
            process.kill()
    assert stream.result["sent"] > 0
    assert stream.result["lost"] == 0, stream.result


def end(pid: int, number: signal.Signals) -> float:
    """Send a signal to a process that is not our child; seconds until it has ended."""
    process = os.pidfd_open(pid)
    try:
        begun = time.monotonic()
        signal.pidfd_send_signal(process, number)
        assert select.select([process], [], [], 30)[0], "it does not end"
        return time.monotonic() - begun
    finally:
        os.close(process)


def await_new_agent(lab: Lab, node: str, old: int) -> None:
    """The supervisor has started another agent, and that one is ready."""
    eventually(lambda: lab.pid(f"{node}/agent") not in (None, old), "another agent")
    eventually(lambda: lab.get(node, "/readyz")[0] == 200, "the new agent to be ready")


def leases(lab: Lab, node: str) -> list[str]:
    """The lease of every pod on the node, as OVSDB has it."""
    columns = "--columns=name,ofport,external_ids"
    rows = lab.exec(node, "ovs-vsctl", "--bare", columns, "list", "Interface").stdout.split("\n\n")
    return sorted(row for row in rows if "k8s-ovs/sandbox" in row)


def flows(lab: Lab, node: str) -> dict[str, tuple[float, int]]:
    """Every flow of the bridge: its age in seconds and the packets that it has counted."""
    found = {}
    dump = lab.exec(node, "ovs-ofctl", "-O", "OpenFlow15", "--no-names", "dump-flows", "br0").stdout
    for line in dump.splitlines():
        if "duration=" not in line:
            continue
        cookie, duration, table, packets, _, rest = line.strip().split(", ", 5)
        rest = rest.partition("idle_age=")[2].partition(", ")[2] or rest
        age = float(duration.removeprefix("duration=").removesuffix("s"))
        found[f"{cookie} {table} {rest}"] = age, int(packets.removeprefix("n_packets="))
    return found


# -- the agent goes and comes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_traffic_flows_and_leases_outlive_the_agent(pair: Lab, number: signal.Signals) -> None:
    held, before = leases(pair, "node1"), flows(pair, "node1")
    assert len(held) == 1
    assert len(before) > 20
    old = pair.pid("node1/agent")
    begun = time.monotonic()
    with streaming(pair, "life/near", pair.pod_ip("life", "far")) as stream:
        assert end(old, number) < 3, "the promise is one second; the machine may be busy"
        await_new_agent(pair, "node1", old)
    assert stream.result["longest"] < 1
    passed = time.monotonic() - begun

    after = flows(pair, "node1")
    assert after.keys() == before.keys()
    for flow, (age, packets) in before.items():
        assert after[flow][0] >= age + passed - 1, f"made anew: {flow}"
        assert after[flow][1] >= packets, f"counter reset: {flow}"
    assert leases(pair, "node1") == held


def test_a_stopped_agent_holds_up_no_packet(pair: Lab) -> None:
    """Both agents are away for as long as it takes to see that they are."""
    pids = [pair.pid(f"{node}/agent") for node in ("node1", "node2")]
    with streaming(pair, "life/near", pair.pod_ip("life", "far")):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert pair.get("node1", "/healthz")[0] == 0, "it does not answer"
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    assert pair.get("node1", "/healthz")[0] == 200


def test_endpoints_and_status(pair: Lab) -> None:
    status = pair.status()
    shown = pair.kubectl(
        "get",
        "nodes",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.addresses[0].address}{'\\n'}{end}",
    )
    for node in status["nodes"]:
        assert f"{node['name']} {node['ip']}" in shown.splitlines()
        assert node["ip"] in pair.lab("status").stdout
        record = json.loads(pair.etcdctl("get", "--print-value-only", f"{RECORDS}/subnets/{node['ip']}"))
        assert record["Host"] == node["name"]
        assert record["Subnet"] == node["subnet"]
        assert pair.get(node["name"], "/healthz") == (200, "[+] ovs-rundir: ok\nok\n")
        code, ready = pair.get(node["name"], "/readyz")
        assert code == 200
        assert {"[+] network-config: ok", "[+] bridge: ok", "[+] nat: ok"} <= set(ready.splitlines())
        metrics = pair.metrics(node["name"])
        assert metrics["k8s_ovs_agent_ready"] == 1
        assert metrics["k8s_ovs_pods"] == 1
        assert metrics["k8s_ovs_store_outage"] == 0


# -- rules that somebody removes -------------------------------------------------------------------------------------


def rules(lab: Lab, node: str) -> set[str]:
    """Our rules in the node's kernel, without counters."""
    saved = lab.exec(node, "iptables-save").stdout
    return {line.partition(" [")[0] for line in saved.splitlines() if "K8S-OVS" in line}


@pytest.mark.parametrize("table", ["nat", "filter"])
def test_rules_that_were_flushed_come_back(pair: Lab, table: str) -> None:
    before, repaired = rules(pair, "node1"), repairs(pair, "firewall")
    assert any("MASQUERADE" in rule for rule in before)
    pair.exec("node1", "iptables", "-t", table, "-F")
    eventually(lambda: repairs(pair, "firewall") > repaired, "the repair to be counted")
    assert rules(pair, "node1") == before


def test_flows_that_were_removed_come_back(pair: Lab) -> None:
    before, repaired = flows(pair, "node1").keys(), repairs(pair, "flow")
    pair.exec("node1", "ovs-ofctl", "-O", "OpenFlow15", "del-flows", "br0")
    eventually(lambda: repairs(pair, "flow") >= repaired + len(before), "the repairs to be counted")
    assert flows(pair, "node1").keys() == before
    with streaming(pair, "life/near", pair.pod_ip("life", "far")):
        assert pair.get("node1", "/readyz")[0] == 200


def repairs(lab: Lab, kind: str) -> float:
    """What node1's agent has put right behind somebody's back."""
    return lab.metrics("node1")[f'k8s_ovs_repairs_total{{kind="{kind}"}}']


# -- Namespaces and Nodes come and go --------------------------------------------------------------------------------


def record(lab: Lab, namespace: str) -> dict[str, Any] | None:
    text = lab.etcdctl("get", "--print-value-only", f"{RECORDS}/netnamespaces/{namespace}")
    found: dict[str, Any] | None = json.loads(text) if text.strip() else None
    return found


def test_a_namespace_gets_a_vni_and_gives_it_back_but_not_to_the_next(pair: Lab) -> None:
    given = []
    for name in ("first", "second", "third"):
        pair.kubectl("create", "namespace", name)
        eventually(lambda name=name: record(pair, name) is not None, f"the record of {name}")
        found = record(pair, name)
        assert found is not None
        assert found == {"NetName": name, "NetID": found["NetID"], "Action": "", "Namespace": ""}
        assert 10 <= found["NetID"] <= 16777215
        given.append(found["NetID"])
        pair.delete_namespaces(name)
        eventually(lambda name=name: record(pair, name) is None, f"the record of {name} to be deleted")
    assert len(set(given)) == 3, "a VNI that was just freed may still be on its way in some agent"


def test_a_node_that_is_deleted_and_made_again(pair: Lab) -> None:
    """Its host subnet goes with it; under the same name it gets one again, and its pods work."""
    node2 = pair.node("node2")
    key = f"{RECORDS}/subnets/{node2['ip']}"
    pair.delete_pods("life", "far")
    kept = json.loads(pair.kubectl("get", "node", "node2", "-o", "json"))
    for field in ("uid", "resourceVersion", "creationTimestamp"):
        del kept["metadata"][field]
    pair.kubectl("delete", "node", "node2")
    eventually(lambda: not pair.etcdctl("get", key), "the record to go with the Node")
    eventually(lambda: pair.get("node2", "/readyz")[0] == 503, "its agent to be not ready")
    assert "no host subnet for node2 yet" in pair.get("node2", "/readyz")[1]
    assert pair.get("node1", "/readyz")[0] == 200

    pair.kubectl("create", "-f", "-", stdin=json.dumps(kept))
    eventually(lambda: bool(pair.etcdctl("get", key)), "a record for the new Node")
    eventually(lambda: pair.get("node2", "/readyz")[0] == 200, "its agent to be ready again")
    pair.create_pods({("life", "far"): "node2"})
    subnet = pair.node("node2")["subnet"]
    assert subnet is not None
    with streaming(pair, "life/near", pair.pod_ip("life", "far")):
        assert pair.get("node2", "/readyz")[0] == 200
