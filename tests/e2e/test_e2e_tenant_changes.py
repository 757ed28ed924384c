"""Tenants that change lose nothing that is allowed, and pass nothing that is forbidden.

UDP probes every 2 ms and long TCP connections, same node and across, directly and through a Service, while a Namespace is
joined, made global and isolated again and again. `make bench` does it for longer, and writes the table of docs/tenants.md.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fakes.labs import Lab, eventually, running_lab
from fakes.tenant_admin import administrator
from fakes.tenant_cycles import ALWAYS, Outcome, build, run_cycles

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

CYCLES = 3
DEAD_AFTER = 10.0
"""Seconds that a host without a sign of life is waited for; its last one counts for as long again."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def outcome(lab: Lab) -> Outcome:
    shown = run_cycles(lab, CYCLES, build(lab))
    lab.kubectl(
        "delete", "service", "-n", "red", "probe"
    )  # nobody listens behind it any more, as a matrix would see
    return shown


def test_nothing_that_is_allowed_before_and_after_is_lost(outcome: Outcome) -> None:
    lost = {probe.name: outcome.lost(probe) for probe in outcome.probes if outcome.lost(probe)}
    # What a connection has on its way when its pair becomes forbidden ends there; that is not what is promised.
    between = {probe.name for probe in outcome.probes if probe.tcp and probe not in ALWAYS}
    lost = {name: count for name, count in lost.items() if name not in between}
    gaps = {name: outcome.logs[name].gaps(outcome.periods[0].begun)[:3] for name in lost}
    assert lost == {}, gaps
    for probe in outcome.probes:
        assert outcome.sent(probe) > 0 or outcome.tried(probe) > 0, f"{probe.name} shows nothing"


def test_no_connection_that_is_allowed_ends(outcome: Outcome) -> None:
    ended = {probe.name: outcome.ended(probe) for probe in outcome.probes if probe.tcp}
    assert {name: why for name, why in ended.items() if why} == {}


def test_nothing_that_is_forbidden_passes_once_it_is_reported(outcome: Outcome) -> None:
    passed = {probe.name: outcome.passed(probe) for probe in outcome.probes if outcome.passed(probe)}
    assert passed == {}
    assert sum(outcome.tried(probe) for probe in outcome.probes) > 1000


@contextmanager
def stopped_agent(lab: Lab, node: str) -> Iterator[None]:
    """Hang the agent: its last sign of life stays for a while, its switch goes on with what it has."""
    pid = lab.pid(f"{node}/agent")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_dead_node_holds_a_change_up_for_a_while_and_is_named(lab: Lab, outcome: Outcome) -> None:
    assert outcome.history[-1].action == "isolate"
    with administrator(lab) as admin:
        with stopped_agent(lab, "node3"):
            taken = admin.join("red", "blue", seconds=90).seconds
            again = admin.isolate("red", seconds=90).seconds
        print(
            f"with a node that has just died: {taken:.1f} s; with one that is known to be dead: {again:.1f} s"
        )
        assert taken < 3 * DEAD_AFTER
        assert again < 1.5 * DEAD_AFTER
        eventually(lambda: "node3" in events(lab, "red"), "an Event on the Namespace that names the node")
        begun = time.monotonic()
        eventually(lambda: lab.matrix().returncode == 0, "the node to catch up", seconds=60)
        print(f"caught up {time.monotonic() - begun:.1f} s after it woke up")
        assert admin.join("red", "blue").seconds < DEAD_AFTER


def events(lab: Lab, namespace: str) -> str:
    """What `kubectl describe` tells of the Namespace's Events."""
    chosen = f"involvedObject.kind=Namespace,involvedObject.name={namespace}"
    return lab.kubectl(
        "get", "events", "-A", "--field-selector", chosen, "-o", "jsonpath={.items[*].message}"
    )
