"""How Services spread connections, what choosing costs, and how fast they answer, as Markdown tables for docs/services.md.

    make bench              or, as root: .venv/bin/python bench/services.py [--connections 20000] [--endpoints 2 3 10 100]

Real TCP and UDP connections from one pod, counted where they arrive. What the product chooses by is compared with what else
it could: the ways take turns in blocks, within one run, so that a busy machine is as busy for each of them.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.lab_services import namespace
from fakes.labs import Lab, eventually, running_lab
from fakes.service_load import Endpoint, Load, Switch, loading
from k8s_ovs.flows.group import Bucket, Group, GroupId
from k8s_ovs.flows.stages.frontends import HASH, translate
from k8s_ovs.model.records import BackendKey
from k8s_ovs.model.services import Protocol

NODES = ("node1", "node2", "node3")
CLIENT = "load/client-1"
RECEIVERS = 10
BLOCKS = 4
"""Each way gets its connections in so many turns."""
ONE_BY_ONE = 250
"""Connections of a block whose time is taken, one after another."""
NO_RESYNC = {"K8S_OVS_RESYNC_PERIOD": "3600"}
"""So that agents leave the groups alone that we have changed."""
ASKED = 5
"""UDP connections that one client tries without endpoints: the kernel sends 6 ICMP errors at once, then one a second."""


@dataclass
class Taken:
    """What one way of choosing has done so far."""

    shares: dict[Endpoint, int]
    processor: float = 0.0
    upcalls: int = 0
    connections: int = 0
    cached: int = 0
    milliseconds: list[float] = field(default_factory=list)

    def row(self) -> str:
        mean = sum(self.shares.values()) / len(self.shares)
        least, most = min(self.shares.values()), max(self.shares.values())
        cells = [
            f"{least} / {mean:.0f} / {most}",
            f"{least / mean:.2f}",
            f"{most / mean:.2f}",
            f"{self.upcalls / self.connections:.3f}",
            f"{1e6 * self.processor / self.connections:.0f}",
            str(self.cached),
            f"{statistics.median(self.milliseconds):.2f}",
        ]
        return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=20_000, help="for each row")
    parser.add_argument("--endpoints", type=int, nargs="+", default=[2, 3, 10, 100])
    parser.add_argument("--protocols", nargs="+", default=["TCP", "UDP"])
    parser.add_argument("--times", type=int, default=50, help="each of the other figures is taken")
    options = parser.parse_args()
    with running_lab(environment=NO_RESYNC) as lab, bench(lab) as load:
        print(f"{options.connections} connections a row, from one pod, 16 at once\n")
        print(
            "| endpoints | protocol | chosen by | least / mean / most | least : mean | most : mean "
            "| upcalls a connection | µs of ovs-vswitchd a connection | cached flows | ms, one by one |"
        )
        print("| --- " * 10 + "|")
        for count in options.endpoints:
            for protocol in options.protocols:
                spreading(load, count, options.connections, Protocol[protocol])
        print("\n| what | times | median ms | longest ms |\n| --- | --- | --- | --- |")
        refusals(load, options.times)
        beginnings(load, options.times)


@contextmanager
def bench(lab: Lab) -> Iterator[Load]:
    with namespace(lab, "load") as (services,):
        receivers = services.pods("web", *(NODES[number % len(NODES)] for number in range(RECEIVERS)))
        services.pods("client", *["node1"] * RECEIVERS)
        with loading(
            services, receivers, [f"load/client-{number}" for number in range(1, RECEIVERS + 1)]
        ) as load:
            yield load


def spreading(load: Load, count: int, connections: int, protocol: Protocol) -> None:
    """The rows for so many endpoints."""
    endpoints, udp = load.endpoints(count), protocol is Protocol.UDP
    address = load.create(f"e{count}{protocol.name.lower()}", endpoints, protocol.name)
    answers(load, address, udp=udp)
    switch = Switch(load.services.lab, "node1")
    ways = other_ways(load, switch, endpoints, protocol)
    taken = {way: Taken(dict.fromkeys(endpoints, 0)) for way in ways}
    for _ in range(BLOCKS):
        # A client for each way, so that no source port comes again while conntrack remembers it.
        for client, (way, group) in zip(load.clients, ways.items(), strict=False):
            switch.change_group(group)
            block(load, switch, (client, address), taken[way], connections // BLOCKS, udp=udp)
    for way, done in taken.items():
        print(f"| {count} | {protocol.name} | {way} | {done.row()} |", flush=True)


def block(load: Load, switch: Switch, way: tuple[str, str], taken: Taken, count: int, *, udp: bool) -> None:
    """One turn: many at once, and then some one by one, whose time is taken."""
    (client, address), endpoints = way, list(taken.shares)
    switch.ask("revalidator/purge")
    before = switch.processor(), switch.upcalls()
    spread = load.run(client, address, endpoints, count, udp=udp)
    taken.processor += switch.processor() - before[0]
    taken.upcalls += switch.upcalls() - before[1]
    taken.cached = max(taken.cached, switch.cached())
    taken.connections += count
    assert spread.outcomes == {"answered": count}, spread.outcomes
    assert set(spread.peers) == {load.address(client)}, "endpoints see the client's own address"
    for endpoint, got in spread.shares.items():
        taken.shares[endpoint] += got
    taken.milliseconds += load.run(client, address, endpoints, ONE_BY_ONE, at_once=1, udp=udp).taken


def other_ways(
    load: Load, switch: Switch, endpoints: Sequence[Endpoint], protocol: Protocol
) -> dict[str, str]:
    """The group as the product has made it, and the same endpoints chosen in other ways."""
    keys = [BackendKey(IPv4Address(load.address(pod)), protocol, port) for pod, port in endpoints]
    wanted = {f"{key.address}:{key.port}" for key in keys}
    ours = [line for line in switch.groups() if set(re.findall(r"nat\(dst=([0-9.:]+)\)", line)) == wanted]
    own = max(ours, key=lambda line: int(re.findall(r"group_id=(\d+)", line)[0]))
    number = GroupId(int(re.findall(r"group_id=(\d+)", own)[0]))
    buckets = tuple(Bucket(int(key.address) + key.port * 0x10001, (translate(key),)) for key in keys)
    method = re.findall(r"selection_method=(\w+)", own)[0]
    ways = {f"{method} (the product's)": own}
    if own.count("bucket=") != len(buckets):
        ways["dp_hash, as many hashes as it takes by itself"] = Group(number, "dp_hash", buckets).to_ofctl()
    ways["hash"] = Group(number, HASH[protocol], buckets).to_ofctl()
    return ways


def answers(load: Load, address: str, *, udp: bool = False) -> None:
    """Wait until the Service is known at the client's node."""
    eventually(
        lambda: "answered" in load.connect(CLIENT, address, 80, 1, udp=udp)[1], f"an answer from {address}"
    )


def refusals(load: Load, times: int) -> None:
    """A Service without endpoints."""
    names = list(load.clients)
    for protocol, clients, share in (("TCP", names[:1], times), ("UDP", names[1:], ASKED)):
        udp = protocol == "UDP"
        address = load.create(f"empty{protocol.lower()}", [], protocol)
        refused(load, names[0], address, udp=udp)
        taken: list[float] = []
        for client in clients:
            found, outcomes = load.connect(client, address, 80, share, udp=udp)
            assert outcomes == {"refused": share}, outcomes
            taken += found
        times_row(f"{protocol} refused, no endpoint", taken)


def refused(load: Load, client: str, address: str, *, udp: bool) -> None:
    """Wait until the Service is known at the client's node, and known to have no endpoint."""
    eventually(
        lambda: "refused" in load.connect(client, address, 80, 1, udp=udp)[1], f"a refusal from {address}"
    )


def beginnings(load: Load, times: int) -> None:
    """A Service that nobody has used yet; one in use; and one that is created."""
    (endpoint, *_) = load.endpoints(1)
    address = load.create("cold", [endpoint])
    answers(load, address)
    switches = [Switch(load.services.lab, node) for node in NODES]
    first: list[float] = []
    for _ in range(times):
        for switch in switches:
            switch.ask("revalidator/purge")
        first += load.connect(CLIENT, address, 80, 1)[0]
    times_row("TCP connection, nothing cached in any switch", first)
    times_row("TCP connection, one after another", load.connect(CLIENT, address, 80, times)[0])
    with api(load.services.lab) as create:
        times_row(
            "Service created until a pod's connection is answered", created(load, create, endpoint, times)
        )


def created(load: Load, create: "Create", endpoint: Endpoint, times: int) -> list[float]:
    """Milliseconds from the request to the API until a pod that tries every 5 ms gets an answer."""
    taken: list[float] = []
    services = load.services
    subnet = load.create("reserved", [endpoint]).rpartition(".")[0]
    for number in range(times):
        name = f"new{number}"
        pod, port = endpoint
        services.apply(services.slice(name, services.pod_ip(pod), ports=[{"port": port, "protocol": "TCP"}]))
        services.lab.kubectl("delete", "service", "-n", services.namespace, "reserved", "--ignore-not-found")
        address = f"{subnet}.{250 - number % 100}"
        answered = load.wait(CLIENT, address)
        begun = time.monotonic()
        create.service(services.service(name, {"port": 80, "protocol": "TCP"}, clusterIP=address))
        taken.append(1000 * (answered() - begun))
        services.lab.kubectl("delete", "service", "-n", services.namespace, name)
    return taken


@dataclass(frozen=True)
class Create:
    """Creates Services without the time that kubectl takes to start."""

    origin: str

    def service(self, service: dict[str, object]) -> None:
        request = urllib.request.Request(
            f"{self.origin}/api/v1/namespaces/load/services",
            json.dumps(service).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 201, answer.status


@contextmanager
def api(lab: Lab) -> Iterator[Create]:
    """The API through a proxy that has the credentials."""
    command = ["kubectl", "proxy", "--port=0"]
    with subprocess.Popen(command, env=dict(lab.environment), stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            yield Create(f"http://{proxy.stdout.readline().split()[-1]}")
        finally:
            proxy.terminate()


def times_row(what: str, taken: Sequence[float]) -> None:
    print(f"| {what} | {len(taken)} | {statistics.median(taken):.1f} | {max(taken):.1f} |", flush=True)


if __name__ == "__main__":
    main()
