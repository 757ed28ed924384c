"""Many connections to one Service: every endpoint gets its share, of TCP and of UDP, and affinity holds under load.

The short form of `bench/services.py`, whose figures are in docs/services.md.
"""

from collections.abc import Iterator

import pytest

from fakes.lab_services import namespace
from fakes.labs import Lab, eventually
from fakes.service_load import Load, loading

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(120)]

CONNECTIONS = 2000
PORTS = 26
MANY = 130
"""More than dp_hash can spread."""


@pytest.fixture(scope="module")
def load(lab: Lab) -> Iterator[Load]:
    with namespace(lab, "load") as (services,):
        receivers = services.pods("web", "node1", "node2", "node3", "node1", "node2")
        clients = services.pods("client", "node1", "node1", "node3")
        with loading(services, receivers, clients, ports=PORTS) as workers:
            yield workers


def ready(load: Load, client: str, address: str, *, udp: bool = False) -> None:
    """The client's switch knows of the Service."""
    eventually(
        lambda: "answered" in load.connect(client, address, 80, 1, udp=udp)[1], f"{client}: {address} answers"
    )


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_no_endpoint_gets_twice_or_half_of_the_mean(load: Load, protocol: str) -> None:
    udp, endpoints = protocol == "UDP", load.endpoints(10)
    address = load.create(f"ten-{protocol.lower()}", endpoints, protocol)
    for client in ("load/client-1", "load/client-3"):
        ready(load, client, address, udp=udp)
        spread = load.run(client, address, endpoints, CONNECTIONS, udp=udp)
        assert spread.outcomes == {"answered": CONNECTIONS}
        assert sum(spread.shares.values()) == CONNECTIONS
        assert 0.5 <= spread.least <= spread.most <= 2, spread.shares
        assert set(spread.peers) == {load.address(client)}, "endpoints see the client's own address"


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_very_many_endpoints_all_get_connections(load: Load, protocol: str) -> None:
    """By chance alone 15 connections go to each; hardly ever to fewer than nine of ten."""
    udp, endpoints = protocol == "UDP", load.endpoints(MANY)
    address = load.create(f"many-{protocol.lower()}", endpoints, protocol)
    ready(load, "load/client-1", address, udp=udp)
    spread = load.run("load/client-1", address, endpoints, CONNECTIONS, udp=udp)
    assert set(spread.shares) == set(endpoints)
    assert sum(1 for got in spread.shares.values() if got) >= 0.9 * MANY
    assert spread.most < 4, spread.shares


def test_affinity_holds_when_all_begin_at_once(load: Load) -> None:
    """Nothing is learned yet: connections that begin together have to agree by themselves."""
    endpoints = load.endpoints(10)
    address = load.create("sticky", endpoints, sessionAffinity="ClientIP")
    ready(load, "load/client-2", address)
    spread = load.run("load/client-1", address, endpoints, 500, at_once=64)
    assert sorted(spread.shares.values()) == [0] * 9 + [500], spread.shares
