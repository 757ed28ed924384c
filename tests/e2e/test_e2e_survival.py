"""Restarts, crashes, upgrades and outages of everything but the switch lose no packet of anybody.

The same as `make bench` does ten times each (bench/survival.py), with shorter outages.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import k8s_ovs
from fakes.labs import Lab
from fakes.survival import (
    Builds,
    Survivors,
    Toll,
    kill_controllers,
    lab_with_builds,
    outage,
    restart_agents,
    survivors,
    tolls,
)

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

SOURCE = Path(k8s_ovs.__file__).parent.parent
OUTAGE = 3.0
"""Seconds; a server that is away for longer is `make bench`'s."""


@pytest.fixture(scope="module")
def toll(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Toll]]:
    with (
        lab_with_builds(tmp_path_factory.mktemp("builds"), SOURCE) as (lab, builds),
        survivors(lab) as running,
    ):
        do_harm(running, lab, builds)
        yield {each.name: each for each in tolls(running.flow.finish(), running.watched, running.history)}


def do_harm(running: Survivors, lab: Lab, builds: Builds) -> None:
    running.harm("stop", lambda: restart_agents(lab, signal.SIGTERM))
    running.harm("kill", lambda: restart_agents(lab, signal.SIGKILL))
    builds.use(new=True)
    running.harm("upgrade", lambda: restart_agents(lab, signal.SIGTERM))
    flows = lab.exec("node1", "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br0").stdout
    assert "table=85," in flows, "the other build's pipeline is not there"
    running.harm("controller", lambda: kill_controllers(lab))
    for process in ("etcd", "apiserver"):
        running.harm(process, lambda process=process: away(lab, process))


def away(lab: Lab, process: str) -> None:
    with outage(lab, process):
        time.sleep(OUTAGE)  # the outage itself


@pytest.mark.parametrize("name", ["stop", "kill", "upgrade", "controller", "etcd", "apiserver"])
def test_nothing_is_lost(toll: dict[str, Toll], name: str) -> None:
    cost = toll[name]
    assert cost.udp_sent > 1000
    assert cost.tcp_sent > 100
    assert cost.tried > 100
    assert (cost.udp_lost, cost.tcp_lost, cost.resets, cost.forbidden) == (0, 0, 0, 0)
