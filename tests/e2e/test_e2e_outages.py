"""etcd and the Kubernetes API are away, or etcd has forgotten: what goes on, what is said, and that all converges.

One lab with steady traffic. What is away, or lost, is docs/outages.md; the answers collected here are what it quotes.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fakes.labs import Lab, eventually, running_lab
from fakes.runtime import Answer, Runtime, runtime_on
from fakes.survival import LEADS, Survivors, Toll, outage, survivors, told_ready, tolls

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

RECORDS = "/k8s.ovs.com/ovs/network/k8ssdn"
CONFIG = "/k8s.ovs.com/ovs/network/config"
LONG = os.environ.get("K8S_OVS_TEST_OUTAGES", "") == "long"
"""Whether etcd loses all at a time when no controller remembers: the next one leads 15 s later."""


@dataclass
class Seen:
    """What was answered and read while this or that was done; `tolls` is what the traffic paid for it."""

    said: dict[str, Answer] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    bundles: dict[str, float] = field(default_factory=dict)
    """How many bundles of flows the agents sent while etcd had forgotten and was taught again."""
    tolls: dict[str, Toll] = field(default_factory=dict)


def decided(lab: Lab) -> dict[str, Any]:
    """The host subnets and tenants that etcd has now."""
    lines = lab.etcdctl("get", "--prefix", f"{RECORDS}/").splitlines()
    return {
        key.removeprefix(f"{RECORDS}/"): json.loads(value)
        for key, value in zip(lines[::2], lines[1::2], strict=True)
        if "/subnets/" in key or "/tenants/" in key
    }


@contextmanager
def forgetful(lab: Lab, saved: Path | None) -> Iterator[None]:
    """etcd is down for the block, and has forgotten all, or all since `saved`, when it comes back."""
    options = Path(f"/proc/{lab.pids()['etcd']}/cmdline").read_text().split("\0")
    with outage(lab, "etcd"):
        data = lab.home / "etcd"
        shutil.rmtree(data)
        if saved is not None:
            restore(lab, saved, data, options)
        yield


def restore(lab: Lab, saved: Path, data: Path, options: list[str]) -> None:
    """As docs/outages.md says it is done."""
    options = [option for option in options if option.startswith(("--name=", "--initial-"))]
    command = ["etcdctl", "snapshot", "restore", str(saved), f"--data-dir={data}", *options]
    subprocess.run(command, env=lab.environment, check=True, capture_output=True, timeout=60)


def told(lab: Lab, metric: str) -> list[float]:
    """What the agents' metrics say."""
    return [lab.metrics(node)[metric] for node in ("node1", "node2")]


def go_away(lab: Lab, away: ExitStack, seen: Seen) -> None:
    """Neither etcd nor the API is there any more; node1's agent is killed then, node2's goes on."""
    away.enter_context(outage(lab, "etcd", "apiserver"))
    before = lab.pids()["node1/agent"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: lab.pids().get("node1/agent") not in (None, before), "another agent")
    eventually(lambda: lab.get("node1", "/readyz")[0] == 503, "an agent that is not ready")
    eventually(lambda: "etcd:" in lab.get("node2", "/readyz")[1], "a note")
    eventually(lambda: "kubernetes:" in lab.get("node2", "/readyz")[1], "another note")
    seen.read["node2"] = lab.get("node2", "/readyz")[1]
    seen.read["node1"] = lab.get("node1", "/readyz")[1]
    seen.metrics = lab.metrics("node2")
    eventually(lambda: lab.get("control", "/readyz", 9641)[0] == 503, "a controller that says so")
    seen.read["controller1"] = lab.get("control", "/readyz", 9641)[1]


async def ask_for_pods(first: Runtime, second: Runtime, old: str, unknown: str, seen: Seen) -> None:
    """What a runtime is answered meanwhile."""
    limited = second.sandbox()
    bandwidth = {"bandwidth": {"ingressRate": 10**9, "egressRate": 10**9}}
    seen.said["ADD"] = await second.ask("ADD", limited, runtimeConfig=bandwidth)
    seen.said["ADD of whose annotations nobody knows"] = await second.ask("ADD", unknown)
    seen.said["DEL"] = await second.ask("DEL", limited)
    seen.said["STATUS"] = await second.ask("STATUS")
    seen.said["new agent: STATUS"] = await first.ask("STATUS")
    seen.said["new agent: ADD"] = await first.ask("ADD", first.sandbox())
    seen.said["new agent: DEL"] = await first.ask("DEL", old)


def come_back(lab: Lab, away: ExitStack) -> None:
    """Both are there again, and the new agent serves."""
    serving = told_ready(lab, "node1/agent")
    away.close()
    eventually(lambda: told_ready(lab, "node1/agent") > serving, "the new agent to serve", seconds=60)


async def both(runtime: Runtime, sandbox: str) -> None:
    """ADD and DEL, both with success in the end."""
    await runtime.insist("ADD", sandbox)
    await runtime.insist("DEL", sandbox)


def put_back(lab: Lab, saved: Path, seen: Seen) -> None:
    """etcd comes back as it was before the Namespaces of the pods were there."""
    before = told(lab, "k8s_ovs_commits_total")
    with forgetful(lab, saved):
        pass
    eventually(lambda: seen.before == decided(lab), "what was lost to be back", seconds=60)
    eventually(lambda: not any(told(lab, "k8s_ovs_store_lost_records")), "nothing to be missing")
    seen.after["restored"] = decided(lab)
    seen.bundles["restored"] = sum(told(lab, "k8s_ovs_commits_total")) - sum(before)


def emptied(lab: Lab, seen: Seen) -> None:
    """etcd comes back without anything. In the long form no controller is left that remembers: only the agents do."""
    before = told(lab, "k8s_ovs_commits_total")
    controllers = [name for name in lab.pids() if name.startswith("controller")]
    led = sum(lab.log(name).count(LEADS) for name in controllers)
    if LONG:
        for name in controllers:
            os.kill(lab.pids()[name], signal.SIGKILL)
    config = lab.etcdctl("get", CONFIG, "--print-value-only").strip()
    with forgetful(lab, None):
        pass
    eventually(lambda: all(told(lab, "k8s_ovs_store_lost_records")), "the agents to notice")
    seen.read["emptied"] = lab.get("node1", "/readyz")[1]
    eventually(
        lambda: "Used" in lab.etcdctl("get", "--prefix", "/k8s.ovs.com/ovs/network/agents/"),
        "agents to report",
    )
    lab.etcdctl("put", CONFIG, config)
    eventually(
        lambda: not LONG or sum(lab.log(name).count(LEADS) for name in controllers) > led,
        "a controller to lead",
        seconds=60,
    )
    eventually(lambda: seen.before.items() <= used_here(decided(lab), seen).items(), "records", seconds=60)
    eventually(lambda: not any(told(lab, "k8s_ovs_store_lost_records")), "nothing to be missing")
    seen.after["emptied"] = decided(lab)
    seen.bundles["emptied"] = sum(told(lab, "k8s_ovs_commits_total")) - sum(before)


def used_here(records: dict[str, Any], seen: Seen) -> dict[str, Any]:
    """Tenants without pods may get another VNI: nobody knows what they had."""
    unused = {"tenants/default", "tenants/kube-public", "tenants/kube-node-lease"}
    return records | {key: seen.before[key] for key in unused & seen.before.keys() & records.keys()}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    seen, saved = Seen(), tmp_path_factory.mktemp("etcd") / "saved"
    with running_lab(nodes=2) as lab:
        lab.etcdctl("snapshot", "save", str(saved))
        with survivors(lab) as running, runtime_on(lab, "node1") as one, runtime_on(lab, "node2") as two:
            seen.before = decided(lab)
            do_harm(running, (one, two), saved, seen)
            seen.tolls = {
                each.name: each for each in tolls(running.flow.finish(), running.watched, running.history)
            }
        lab.kubectl("delete", "service", "-n", "red", "probe")  # nobody answers there any more
        matrix = lab.matrix()
        seen.read["matrix"] = f"{matrix.stdout}\nexit status {matrix.returncode}"
    return seen


def do_harm(running: Survivors, runtimes: tuple[Runtime, Runtime], saved: Path, seen: Seen) -> None:
    lab, (first, second) = running.lab, runtimes
    old, unknown = first.sandbox(), second.sandbox()
    asyncio.run(first.insist("ADD", old))
    with ExitStack() as away:
        running.harm("both away", lambda: go_away(lab, away, seen))
        # Not counted: Open vSwitch's userspace datapath loses what is sent into a tunnel when a veth comes or goes.
        asyncio.run(ask_for_pods(first, second, old, unknown, seen))
        running.harm("both back", lambda: come_back(lab, away))
    asyncio.run(both(second, unknown))
    running.harm("restored", lambda: put_back(lab, saved, seen))
    running.harm("emptied", lambda: emptied(lab, seen))


@pytest.mark.parametrize("name", ["both away", "both back", "restored", "emptied"])
def test_nothing_is_lost(seen: Seen, name: str) -> None:
    cost = seen.tolls[name]
    assert cost.udp_sent > 1000
    assert cost.tcp_sent > 100
    assert cost.tried > 100
    assert (cost.udp_lost, cost.tcp_lost, cost.resets, cost.forbidden) == (0, 0, 0, 0)


def test_what_needs_neither_goes_on(seen: Seen) -> None:
    for name, text in seen.read.items():
        print(f"-- {name}\n{text}")
    for name, answer in seen.said.items():
        print(f"-- {name}: {answer.code} {answer.text}")
    print(seen.bundles, seen.tolls)
    assert {name: seen.said[name].code for name in ("ADD", "DEL", "STATUS", "new agent: DEL")} == {
        "ADD": 0,
        "DEL": 0,
        "STATUS": 0,
        "new agent: DEL": 0,
    }


def test_what_has_to_wait_says_for_what(seen: Seen) -> None:
    unknown = seen.said["ADD of whose annotations nobody knows"]
    assert unknown.code == 11
    assert "bandwidth cannot be read from the API" in unknown.text
    assert seen.said["new agent: ADD"].code == 11
    assert seen.said["new agent: STATUS"].code == 50
    for name in ("new agent: ADD", "new agent: STATUS"):
        assert "etcd http" in seen.said[name].text


def test_readiness_tells_the_truth(seen: Seen) -> None:
    assert "[-] network-config: " in seen.read["node1"]
    assert seen.read["node1"].rstrip().endswith("\nnot ok")
    for note in ("[!] etcd: ", "[!] kubernetes: "):
        assert note in seen.read["node2"]
    assert seen.read["node2"].rstrip().endswith("\nok")
    assert (seen.metrics["k8s_ovs_store_outage"], seen.metrics["k8s_ovs_kube_outage"]) == (1, 1)
    assert "[-] controller: " in seen.read["controller1"]
    assert "[!] lost-records: etcd has no more" in seen.read["emptied"]


def test_what_was_lost_is_as_it_was(seen: Seen) -> None:
    assert {"tenants/red", "tenants/blue"} < seen.before.keys()
    assert seen.after["restored"] == seen.before
    assert used_here(seen.after["emptied"], seen) == seen.before
    vnis = [record["NetID"] for key, record in seen.after["emptied"].items() if key.startswith("tenants/")]
    assert len(set(vnis)) == len(vnis)
    assert set(seen.bundles.values()) == {0}, "no switch has heard of it"


def test_all_converges(seen: Seen) -> None:
    assert seen.read["matrix"].endswith("\nexit status 0"), seen.read["matrix"]
