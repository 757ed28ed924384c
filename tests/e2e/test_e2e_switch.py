"""A node's switch is killed: it is noticed each time, and the switch holds afterwards what it held before.

How long traffic stands still, against the least that anybody could need, is `make bench`'s (bench/switch.py).
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.labs import Lab, eventually, running_lab
from fakes.switch_outage import KINDS, NODE, PROBES, Outages, outages

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def running() -> Iterator[Outages]:
    with running_lab(nodes=2) as lab, outages(lab, pods=6) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_switch_is_noticed_and_gets_its_flows_again(running: Outages, kind: str) -> None:
    before = held(running.lab)
    assert len(before) > 100
    starts = {part: pid for part, pid in running.lab.pids().items() if part.startswith(f"{NODE}/")}
    running.kill(kind)  # returns once the agent has noticed, and all traffic flows
    now = running.lab.pids()
    killed = {part for part, pid in starts.items() if now[part] != pid}
    assert killed == {f"{NODE}/{part}" for part in KINDS[kind]}, "something else was restarted"
    eventually(lambda: held(running.lab) == before, "the switch to hold what it held")
    assert running.lab.metrics(NODE)["k8s_ovs_agent_ready"] == 1


def test_traffic_stood_still_and_went_on(running: Outages) -> None:
    logs = running.flow.finish()
    for kind, parts in KINDS.items():
        for probe in PROBES:
            pauses = running.lengths(logs, "agent", kind, probe)
            assert len(pauses) == 1
            # A switch that was not killed at all would make this test a lie.
            assert "vswitchd" not in parts or pauses[0] > 0.05
            assert logs[probe.name].received(*running.when["agent", kind][0]) > 50


def held(lab: Lab) -> set[str]:
    """Flows and groups of the killed node's bridge, without counters."""
    management = f"unix:{Path(lab.directory(NODE)) / 'ovs' / 'br0.mgmt'}"
    found: set[str] = set()
    for what in ("flows", "groups", "meters"):
        command = ["ovs-ofctl", "-O", "OpenFlow15", "--no-stats", "--no-names", f"dump-{what}", management]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found |= {line.strip() for line in done.stdout.splitlines() if "=" in line and "xid=" not in line}
    return found
