"""Endpoints that come and go: what is established stays, nothing new goes to what is gone, and UDP follows at once."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fakes.lab_services import Heard, ServiceLab, ask, call, end, line, namespace, outcome, reached, running
from fakes.labs import Lab, eventually

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

CLIENT = "rolls/client-1"
SERVERS = ("rolls/web-1", "rolls/web-2", "rolls/web-3")


@pytest.fixture(scope="module")
def rolls(lab: Lab) -> Iterator[ServiceLab]:
    with namespace(lab, "rolls") as (made,):
        made.pods("web", "node1", "node2", "node3")
        made.pods("client", "node1")
        yield made


@pytest.mark.parametrize("stays_on", ["node1", "node2"])
def test_an_established_connection_stays_and_no_new_one_goes_there(rolls: ServiceLab, stays_on: str) -> None:
    """Its endpoint leaves the Service, on the client's node and on another one; the pod itself lives on."""
    name = f"moves-{stays_on}"
    gone = SERVERS[int(stays_on[-1]) - 1]
    rest = [server for server in SERVERS if server != gone]
    rolls.apply(rolls.service(name), rolls.slice(name, rolls.pod_ip(gone)))
    address = rolls.address(name)
    reached(rolls.lab, CLIENT, address, 80, gone)
    with running(rolls.lab, CLIENT, "hold", address, 80) as held:
        assert line(held)[0] == gone
        rolls.apply(rolls.slice(name, *map(rolls.pod_ip, rest)))
        reached(rolls.lab, CLIENT, address, 80, *rest)
        assert not any(answer.pod == gone for answer in ask(rolls.lab, CLIENT, address, 80, 200))
        answered = end(held)
    assert set(answered) == {gone}, answered
    assert answered[gone] > 20


def test_other_endpoints_coming_and_going_disturb_nobody(rolls: ServiceLab) -> None:
    rolls.apply(rolls.service("steady"), rolls.slice("steady", rolls.pod_ip(SERVERS[1])))
    address = rolls.address("steady")
    reached(rolls.lab, CLIENT, address, 80, SERVERS[1])
    with running(rolls.lab, CLIENT, "hold", address, 80) as held:
        assert line(held)[0] == SERVERS[1]
        for others in (SERVERS[:2], SERVERS, SERVERS[1:]):
            rolls.apply(rolls.slice("steady", *map(rolls.pod_ip, others)))
            reached(rolls.lab, CLIENT, address, 80, *others)
        assert set(end(held)) == {SERVERS[1]}


def test_datagrams_follow_to_a_living_endpoint(rolls: ServiceLab) -> None:
    """One socket keeps its conntrack entry alive: only forgetting it can move it away from an endpoint that is gone."""
    with moved_away(rolls, "resolver") as asking:
        assert line(asking) == "heard"


def test_datagrams_follow_though_the_endpoint_went_while_no_agent_was_there(rolls: ServiceLab) -> None:
    """Stopped before it can hear of that, then killed: only what the switch still holds tells the next one."""
    pid = rolls.lab.pid("node1/agent")
    with moved_away(rolls, "restarted", lambda: os.kill(pid, signal.SIGSTOP)) as asking:
        os.kill(pid, signal.SIGKILL)
        assert line(asking) == "heard"
    eventually(lambda: rolls.lab.get("node1", "/readyz")[0] == 200, "the new agent is ready")


@contextmanager
def moved_away(
    rolls: ServiceLab, name: str, before: Callable[[], None] = lambda: None
) -> Iterator[subprocess.Popen[str]]:
    """A client that goes on asking a UDP Service whose silent endpoint went, after `before`, for one that answers."""
    udp = {"port": 53, "protocol": "UDP"}
    silent, answers = {**udp, "port": 5999}, {**udp, "port": 80}
    rolls.apply(rolls.service(name, udp), rolls.slice(name, rolls.pod_ip(SERVERS[1]), ports=[silent]))
    address = rolls.address(name)
    with running(rolls.lab, CLIENT, "keep-asking", address, 53) as asking:
        assert line(asking) == "silent"
        eventually(lambda: sent_to(rolls, 5999), "a translated connection to the endpoint that will go")
        before()
        rolls.apply(rolls.slice(name, rolls.pod_ip(SERVERS[2]), ports=[answers]))
        yield asking


def sent_to(rolls: ServiceLab, port: int) -> bool:
    """Whether the client's switch has a connection to this port."""
    printed = rolls.lab.exec("node1", "ovs-appctl", "dpctl/dump-conntrack").stdout
    return f"sport={port}" in printed or f"dport={port}" in printed


def test_services_work_while_the_agent_is_dead_and_after_it_is_back(rolls: ServiceLab) -> None:
    """Killed: nothing is lost of a connection, new ones are made, and without endpoints it is refused."""
    rolls.apply(rolls.service("lasting", selector="web"), rolls.service("nobody", selector="nobody"))
    lab, address, empty = rolls.lab, rolls.address("lasting"), rolls.address("nobody")
    reached(lab, CLIENT, address, 80, *SERVERS)
    outcome(lab, CLIENT, empty, 80, "refused")
    with running(lab, CLIENT, "hold", address, 80) as held:
        server = line(held)[0]
        before = lab.pid("node1/agent")
        os.kill(before, signal.SIGKILL)
        assert set(map(by, ask(lab, CLIENT, address, 80, 30))) <= set(SERVERS)
        assert call(lab, CLIENT, empty, 80).pod == "refused"
        eventually(lambda: lab.pid("node1/agent") not in (before, None), "a new agent")
        eventually(lambda: lab.get("node1", "/readyz")[0] == 200, "the new agent is ready")
        for _ in range(5):
            assert set(map(by, ask(lab, CLIENT, address, 80, 30))) <= set(SERVERS)
        assert set(end(held)) == {server}


def by(answer: Heard) -> str:
    return answer.pod


def test_a_service_that_is_deleted_or_changed_answers_no_more_where_it_did(rolls: ServiceLab) -> None:
    rolls.apply(rolls.service("short", selector="web"))
    address = rolls.address("short")
    reached(rolls.lab, CLIENT, address, 80, *SERVERS)
    rolls.apply(rolls.service("short", {"port": 81, "targetPort": 80}, selector="web"))
    reached(rolls.lab, CLIENT, address, 81, *SERVERS)
    outcome(rolls.lab, CLIENT, address, 80, "silent")
    rolls.lab.kubectl("delete", "service", "-n", "rolls", "short")
    outcome(rolls.lab, CLIENT, address, 81, "silent")
