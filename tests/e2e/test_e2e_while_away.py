"""Everything changes while node1's agent is away; its first synchronisation brings all of it, before it says that it is ready.

And what is left of pods that are gone: after a restart of everything, and in conntrack, when their addresses are given again.
Two nodes and two external hosts, with 13 pod addresses each. UDP every 2 ms: what was allowed throughout loses nothing,
what is forbidden by then passes nothing from the moment that the agent says "ready" on.
"""

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from fakes.labs import PYTHON, Lab, eventually, running_lab
from fakes.runtime import Runtime, runtime_on
from fakes.survival import told_ready
from fakes.tenant_admin import RECORDS, administrator
from fakes.traffic import UDP_PORT, Probe, Traffic, traffic
from fakes.traffic_log import StreamLog
from k8s_ovs.dataplane.netns import call_in

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

NODE = "node1"
AGENT = f"{NODE}/agent"
PODS = {
    ("red", "a"): NODE,
    ("red", "b"): NODE,
    ("blue", "x"): NODE,
    ("blue", "y"): "node2",
    ("green", "g"): NODE,
    ("green", "k"): NODE,
    ("green", "h"): "node2",
    ("orange", "o"): NODE,
}
OLD_PORT, NEW_PORT = 7700, 7800
LIMITED = "green/k"
RATE = re.compile(r"rate=(\d+)")
SYNCHRONISED = re.compile(r"full synchronisation \([^)]*\): (\d+) flows added, (\d+) deleted")
READY = "ready: serving pods"
ENOUGH = 200
"""Probes of every stream after "ready"."""

ALWAYS = [
    Probe("green/g", "green/k"),
    Probe("green/g", "green/h"),
    Probe("green/h", "green/g"),
    Probe("green/g", "green/k", tcp=True, echo=True),
    Probe("red/a", "red/b"),
]
"""Allowed throughout. Of the tenant that changes, only what stays on the node: the node does not know its new VNI yet."""
NO_LONGER = [
    Probe("red/a", "blue/x"),
    Probe("blue/x", "red/b"),
    Probe("blue/y", "red/a"),
    Probe("old", "green/g"),
]
SELDOM = 0.01
"""Seconds between two probes of what has to pass in the end, or never could: the others go every 2 ms."""
NEWLY = [Probe("orange/o", "green/g", period=SELDOM), Probe("new", "green/g", period=SELDOM)]
NEVER = [Probe("blue/x", "green/g", period=SELDOM)]


def service(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "green", "name": "probe"},
        "spec": {
            "selector": {"role": "backend"},
            "ports": [{"protocol": "UDP", "port": port, "targetPort": UDP_PORT}],
        },
    }


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("--pod-cidr", "10.213.0.0/24", "--host-bits", "4", nodes=2) as lab:
        for host in ("old", "new"):
            lab.lab("add-host", host)
        lab.create_pods(PODS)
        yield lab


def instant(lab: Lab) -> int:
    """When the agent last said "ready", to the millisecond, rounded up."""
    line = [line for line in lab.log(AGENT).splitlines() if READY in line][-1]
    text = json.loads(line)["time"] if line.startswith("{") else line.split(" ", 1)[0]
    ago = time.time() - datetime.fromisoformat(text).timestamp() - 0.001
    return time.monotonic_ns() - int(ago * 1e9)


def ofctl(lab: Lab, command: str, *arguments: str) -> str:
    return lab.exec(NODE, "ovs-ofctl", "-O", "OpenFlow15", command, "br0", *arguments).stdout


def ask(lab: Lab, namespace: str, action: str, other: str = "") -> None:
    """Ask for a tenant's change, and do not wait."""
    current = json.loads(lab.etcdctl("get", "--print-value-only", RECORDS + namespace))
    lab.etcdctl("put", RECORDS + namespace, json.dumps({**current, "Action": action, "Namespace": other}))


def answered(lab: Lab, *namespaces: str) -> bool:
    records = [json.loads(lab.etcdctl("get", "--print-value-only", RECORDS + name)) for name in namespaces]
    assert not [record for record in records if record.get("Error")], records
    return all(not record["Action"] for record in records)


LIMITS = {
    "egressRate": 20_000_000,
    "egressBurst": 1_000_000,
    "ingressRate": 20_000_000,
    "ingressBurst": 1_000_000,
}


@dataclass(frozen=True)
class Sandbox:
    """A pod that only the container runtime knows, with limits: it has a meter and a queue."""

    name: str
    address: str
    link: str


@dataclass
class Story:
    """What was seen. `ready` is the instant at which the agent said so (CLOCK_MONOTONIC nanoseconds)."""

    lab: Lab
    begun: int = 0
    ready: int = 0
    logs: dict[str, StreamLog] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    old_port: list[Probe] = field(default_factory=list)
    new_port: list[Probe] = field(default_factory=list)
    gone: Sandbox | None = None
    new_host: str = ""
    flows: tuple[str, str] = ("", "")


def attach(runtime: Runtime, namespace: str) -> Sandbox:
    sandbox = runtime.sandbox()
    answer = asyncio.run(runtime.ask("ADD", sandbox, namespace, runtimeConfig={"bandwidth": LIMITS}))
    assert answer.status == 0, answer
    address = answer.object["ips"][0]["address"].partition("/")[0]
    return Sandbox(sandbox, address, answer.object["interfaces"][0]["name"])


def footprint(lab: Lab) -> str:
    """All that a pod leaves on the node, but for conntrack."""
    rows = [
        lab.exec(NODE, "ovs-vsctl", "list", table).stdout for table in ("Interface", "Port", "QoS", "Queue")
    ]
    links = lab.exec(NODE, "ip", "-o", "link").stdout
    flows = ofctl(lab, "dump-flows", "--no-stats")
    meters = [f"rate={rate}" for rate in RATE.findall(ofctl(lab, "dump-meters"))]
    return "\n".join([*rows, links, flows, *meters])


def nothing_is_left(lab: Lab, *gone: Sandbox) -> bool:
    seen = footprint(lab)
    return not any(part in seen for each in gone for part in (each.name, f"{each.address},", each.link))


def change_everything(lab: Lab, story: Story, runtime: Runtime) -> None:
    ask(lab, "red", "isolate")
    ask(lab, "orange", "join", "green")
    lab.cli("subnet", "release", "old")
    lab.cli("subnet", "assign", "new", story.new_host)
    lab.kubectl("label", "pod", "-n", "green", "h", "role-")
    lab.kubectl("label", "pod", "-n", "green", "k", "role=backend")
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(service(NEW_PORT)))
    namespace, _, name = LIMITED.partition("/")
    lab.kubectl("annotate", "pod", "-n", namespace, name, "kubernetes.io/egress-bandwidth=10M")
    assert story.gone is not None
    runtime.remove(story.gone.name)
    eventually(
        lambda: answered(lab, "red", "orange"), "the tenants' changes to go on without the node", seconds=60
    )


@pytest.fixture(scope="module")
def story(lab: Lab) -> Story:
    story = Story(lab)
    lab.kubectl("label", "pod", "-n", "green", "h", "role=backend")
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(service(OLD_PORT)))
    address = lab.kubectl("get", "service", "-n", "green", "probe", "-o", "jsonpath={.spec.clusterIP}")
    story.old_port = [Probe("green/g", "green/h", address=address, port=OLD_PORT, label="old port")]
    story.new_port = [
        Probe("green/g", "green/k", address=address, port=NEW_PORT, label="new port", period=SELDOM)
    ]
    story.addresses = {name: lab.pod_ip(*name.split("/")) for name in ("green/h", "green/k")}
    story.new_host = next(host["ip"] for host in lab.status()["hosts"] if host["name"] == "new")
    with administrator(lab) as admin:
        admin.join("red", "blue")
    lab.cli("subnet", "release", "new")
    lab.lab("stop", "--kill", "old/agent")  # so that what its record's end makes of it is up to the others
    before = [*ALWAYS, *NO_LONGER, *story.old_port]
    with (
        runtime_on(lab, NODE) as runtime,
        traffic(lab, [*before, *NEWLY, *story.new_port, *NEVER]) as flow,
    ):
        story.gone = attach(runtime, "green")
        flow.start(*(probe.name for probe in before))
        story.begun = flow.now()
        starts = told_ready(lab, AGENT)
        lab.lab("stop", "--kill", AGENT)
        held = ofctl(lab, "dump-flows", "--no-stats")
        change_everything(lab, story, runtime)
        assert ofctl(lab, "dump-flows", "--no-stats") == held, "somebody else changed the flows"
        lab.lab("start", AGENT)
        eventually(lambda: told_ready(lab, AGENT) > starts, "the agent to be ready", seconds=60)
        story.ready = instant(lab)
        keep_going(flow, [*ALWAYS, *NEWLY, *story.new_port])
        story.flows = (held, ofctl(lab, "dump-flows", "--no-stats"))
        story.logs = flow.finish()
    return story


def keep_going(flow: Traffic, probes: list[Probe]) -> None:
    before = flow.progress()
    names = [probe.name for probe in probes if not probe.tcp]
    eventually(
        lambda: all(flow.progress()[name] >= before[name] + ENOUGH for name in names),
        f"{names} to flow",
    )


def test_what_is_forbidden_by_then_passes_nothing_once_it_is_ready(story: Story) -> None:
    probes = [*NO_LONGER, *story.old_port, *NEVER]
    tried = {probe.name: len(story.logs[probe.name].numbers(story.ready)) for probe in probes}
    assert min(tried.values()) >= ENOUGH / 10, tried
    passed = {probe.name: story.logs[probe.name].passed(story.ready) for probe in probes}
    assert passed == dict.fromkeys(tried, 0)
    assert story.logs[NEVER[0].name].passed(0) == 0
    until = {
        probe.name: (story.ready - (story.logs[probe.name].last_arrival() or 0)) / 1e9
        for probe in [*NO_LONGER, *story.old_port]
    }
    print(f"seconds from the last forbidden packet to ready: {until}")


def test_what_was_allowed_throughout_has_lost_nothing(story: Story) -> None:
    lost = {probe.name: story.logs[probe.name].lost(story.begun) for probe in ALWAYS}
    assert lost == dict.fromkeys(lost, 0)
    stream = next(story.logs[probe.name] for probe in ALWAYS if probe.tcp)
    assert (stream.failures, len(stream.connects)) == ([], 1)


def test_what_is_newly_allowed_passes(story: Story) -> None:
    for probe in [*NEWLY, *story.new_port]:
        log = story.logs[probe.name]
        assert log.lost(story.ready) == 0, f"{probe.name}: {log.gaps(story.ready)[:3]}"


def test_the_service_leads_where_it_should(story: Story) -> None:
    groups = ofctl(story.lab, "dump-groups")
    assert f"nat(dst={story.addresses['green/k']}:" in groups
    assert f"nat(dst={story.addresses['green/h']}:" not in groups


def test_the_limit_is_the_new_one(story: Story) -> None:
    eventually(
        lambda: [int(rate) for rate in RATE.findall(ofctl(story.lab, "dump-meters"))] == [10_200],
        "one meter, of the pod whose annotation was changed",
    )


def test_nothing_is_left_of_the_pod_that_went(story: Story) -> None:
    assert story.gone is not None
    assert f"{story.gone.address}," in story.flows[0]
    eventually(lambda: nothing_is_left(story.lab, story.gone), "all of it to go")


def synchronised(text: str) -> list[tuple[int, int]]:
    return [(int(added), int(deleted)) for added, deleted in SYNCHRONISED.findall(text)]


def test_the_first_synchronisation_sends_the_difference_only(story: Story) -> None:
    before, after = (set(lines(text)) for text in story.flows)
    said = synchronised(story.lab.log(AGENT))[-1]
    print(f"{len(before)} flows before, {len(after)} after; told: {said[0]} added, {said[1]} deleted")
    assert said[0] <= len(after - before) + 3  # groups and meters count too
    assert said[1] <= len(before - after) + 3


def lines(dump: str) -> list[str]:
    return [line for line in dump.splitlines() if "actions=" in line]


def test_a_restart_with_nothing_changed_sends_nothing(story: Story) -> None:
    lab = story.lab
    held = lines(ofctl(lab, "dump-flows", "--no-stats"))
    starts, syncs = told_ready(lab, AGENT), len(synchronised(lab.log(AGENT)))
    lab.lab("stop", "--kill", AGENT)
    lab.lab("start", AGENT)
    eventually(lambda: told_ready(lab, AGENT) > starts, "the agent to be ready", seconds=60)
    assert len(synchronised(lab.log(AGENT))) == syncs
    assert lines(ofctl(lab, "dump-flows", "--no-stats")) == held


FORGET = """
import sys
from ipaddress import IPv4Address
from k8s_ovs.dataplane import ctnetlink
print(ctnetlink.forget({IPv4Address(sys.argv[1])}, {0}))
"""


def kernel_knew(lab: Lab, address: str) -> int:
    """How many connections of this address the node's kernel has tracked; afterwards it knows none."""
    return int(lab.exec(NODE, PYTHON, "-c", FORGET, address).stdout)


def bridge_knows(lab: Lab, address: str) -> bool:
    listed = lab.exec(NODE, "ovs-appctl", "dpctl/dump-conntrack").stdout
    return f"src={address}," in listed


def talk(runtime: Runtime, sandbox: Sandbox, *targets: tuple[str, int]) -> None:
    """A datagram to each, through a Service or out of the cluster."""

    def inside() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for target in targets:
                sender.sendto(b"x", target)

    call_in(f"/run/netns/{runtime.sandboxes[sandbox.name]}", inside)


def test_an_address_given_again_brings_no_connection(story: Story) -> None:
    """Neither in the bridge nor in the kernel, from the moment that another tenant's pod has it."""
    lab = story.lab
    targets = (story.new_port[0].address, NEW_PORT), ("198.51.100.7", 9)
    with runtime_on(lab, NODE) as runtime:
        first, other = attach(runtime, "green"), attach(runtime, "green")
        for each in (first, other):
            talk(runtime, each, *targets)
            eventually(lambda each=each: bridge_knows(lab, each.address), "the bridge to track it")
        assert kernel_knew(lab, other.address) > 0
        asyncio.run(runtime.insist("DEL", first.name))
        runtime.remove(first.name)
        for _ in range(13):
            if attach(runtime, "blue").address == first.address:
                break
        else:
            raise AssertionError("the address is not given again")
        assert kernel_knew(lab, first.address) == 0
        assert not bridge_knows(lab, first.address)
        assert bridge_knows(lab, other.address), "others' connections stay"
        for sandbox in runtime.sandboxes:
            asyncio.run(runtime.insist("DEL", sandbox))


def test_a_reboot_leaves_nothing_of_pods_that_are_gone(story: Story) -> None:
    """OVSDB's file survives it with their rows, whose devices are gone; nobody sends DEL."""
    lab = story.lab
    with runtime_on(lab, NODE) as runtime:
        gone = [attach(runtime, namespace) for namespace in ("green", "blue")]
        assert not nothing_is_left(lab, gone[0])
        starts = told_ready(lab, AGENT)
        everything = [f"{NODE}/{name}" for name in ("agent", "vswitchd", "ovsdb")]
        lab.lab("stop", "--kill", *everything)
        for each in gone:
            runtime.remove(each.name)
        lab.lab("start", *everything[::-1])
        eventually(lambda: told_ready(lab, AGENT) > starts, "the agent to be ready", seconds=60)
        eventually(lambda: nothing_is_left(lab, *gone), "all of it to go")
        found = {attach(runtime, "red").address for _ in range(13 - len(on_node(lab)))}
        assert {each.address for each in gone} <= found, "their addresses are free"
        for sandbox in runtime.sandboxes:
            asyncio.run(runtime.insist("DEL", sandbox))


def on_node(lab: Lab) -> list[str]:
    """The leases of the node."""
    rows = lab.exec(NODE, "ovs-vsctl", "--columns=external_ids", "list", "Interface").stdout
    return [line for line in rows.splitlines() if "k8s-ovs/sandbox" in line]
