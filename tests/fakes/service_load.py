"""Load on Services of a lab: many real connections, counted at the receiving ends.

For the benchmark and the end-to-end test. `load_worker.py` runs in the pods.
"""

import json
import os
import queue
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.lab_services import ServiceLab
from fakes.labs import PYTHON, Lab
from k8s_ovs.dataplane.unixctl import control_socket

WORKER = str(Path(__file__).with_name("load_worker.py"))
FIRST_PORT = 9000
FIRST_SOURCE, LAST_SOURCE = 10000, 61999
PATIENCE = 120.0
BRIDGE = "br0"

Endpoint = tuple[str, int]
"""Pod and port."""


class Worker:
    """A `load_worker.py` in a pod or node; commands and answers go through pipes, so asking costs no process."""

    def __init__(self, lab: Lab, place: str, *arguments: str) -> None:
        command = lab.inside(place, PYTHON, "-I", "-S", WORKER)
        self._process = subprocess.Popen(
            [*command, *arguments],
            env=dict(lab.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._place = place
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True, name=f"load {place}").start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def tell(self, *command: Any) -> None:
        """One command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The answer to the next command that has none yet; the first one is "ready"."""
        try:
            return json.loads(self._lines.get(timeout=PATIENCE))
        except queue.Empty:
            raise AssertionError(f"the load worker in {self._place} says nothing") from None

    def end(self) -> None:
        """The worker ends with its stdin."""
        if self._process.poll() is None:
            self._process.communicate(timeout=20)


@dataclass(frozen=True)
class Spread:
    """What came of a load. `shares` has every endpoint, also one that got nothing; `peers` is whom endpoints saw."""

    shares: dict[Endpoint, int]
    peers: Counter[str]
    taken: list[float]
    """Milliseconds from the first packet to the answer, of each connection that was answered or refused."""
    outcomes: dict[str, int]

    @property
    def mean(self) -> float:
        """Connections of an endpoint if all were equal."""
        return sum(self.shares.values()) / len(self.shares)

    @property
    def least(self) -> float:
        """The smallest share, as a part of the mean."""
        return min(self.shares.values()) / self.mean

    @property
    def most(self) -> float:
        """The greatest share, in means."""
        return max(self.shares.values()) / self.mean


@dataclass
class Load:
    """Receiving pods, and a client."""

    services: ServiceLab
    receivers: dict[str, Worker]
    clients: dict[str, Worker]
    ports: int
    """On which each receiver listens: so many endpoints a pod can be."""
    _sources: dict[str, int] = field(default_factory=dict)
    _addresses: dict[str, str] = field(default_factory=dict)

    def endpoints(self, count: int) -> list[Endpoint]:
        """So many endpoints: one port of as many pods as there are, then their second ports, and so on."""
        names = list(self.receivers)
        assert count <= len(names) * self.ports
        return [(names[number % len(names)], FIRST_PORT + number // len(names)) for number in range(count)]

    def address(self, pod: str) -> str:
        """A pod's address, asked for once."""
        if pod not in self._addresses:
            self._addresses[pod] = self.services.pod_ip(pod)
        return self._addresses[pod]

    def create(self, name: str, endpoints: list[Endpoint], protocol: str = "TCP", **spec: Any) -> str:
        """A Service with these endpoints behind its port 80; its address."""
        by_port: dict[int, list[str]] = {}
        for pod, port in endpoints:
            by_port.setdefault(port, []).append(self.address(pod))
        pieces = [
            self.services.slice(name, *addresses, number=number, ports=[{"port": port, "protocol": protocol}])
            for number, (port, addresses) in enumerate(by_port.items())
        ]
        self.services.apply(*pieces, self.services.service(name, {"port": 80, "protocol": protocol}, **spec))
        return self.services.address(name)

    def wait(self, client: str, address: str) -> Callable[[], float]:
        """A client tries until the Service answers; when that was (time.monotonic), for who calls what is returned."""
        worker = self.clients[client]
        worker.tell("await", address, 80)
        return lambda: float(worker.hear())

    def run(
        self,
        client: str,
        address: str,
        endpoints: list[Endpoint],
        count: int,
        *,
        at_once: int = 16,
        udp: bool = False,
    ) -> Spread:
        """So many connections from one client, each from a source port that was not used for long."""
        for receiver in self.receivers.values():
            receiver.tell("report")
            receiver.hear()
        taken, outcomes = self.connect(client, address, 80, count, at_once=at_once, udp=udp)
        shares, peers = dict.fromkeys(endpoints, 0), Counter[str]()
        for name, receiver in self.receivers.items():
            receiver.tell("report")
            for port, seen in receiver.hear().items():
                if total := sum(seen.values()):
                    shares[name, int(port)] = shares.get((name, int(port)), 0) + total
                    peers.update(seen)
        return Spread(shares, peers, taken, outcomes)

    def connect(
        self, client: str, address: str, port: int, count: int, *, at_once: int = 1, udp: bool = False
    ) -> tuple[list[float], dict[str, int]]:
        """Connections to anything: milliseconds of those that got an answer, and how many ended how."""
        first = self._sources.get(client, FIRST_SOURCE)
        if first + count > LAST_SOURCE:
            first = FIRST_SOURCE
        sources = [first, first + count - 1]
        self._sources[client] = first + count
        worker = self.clients[client]
        worker.tell("load", address, port, "udp" if udp else "tcp", sources, at_once)
        taken, outcomes = worker.hear()
        return taken, outcomes


@contextmanager
def loading(
    services: ServiceLab, receivers: list[str], clients: list[str], *, ports: int = 10
) -> Iterator[Load]:
    """Workers in these pods (NAMESPACE/NAME), gone afterwards."""
    with ExitStack() as stack:
        roles = [*((name, ("serve", str(FIRST_PORT), str(ports))) for name in receivers)]
        roles += [(name, ("load",)) for name in clients]
        workers = {}
        for name, arguments in roles:
            workers[name] = Worker(services.lab, name, *arguments)
            stack.callback(workers[name].end)
        for worker in workers.values():
            assert worker.hear() == "ready"
        yield Load(
            services,
            {name: workers[name] for name in receivers},
            {name: workers[name] for name in clients},
            ports,
        )


class Switch:
    """A node's switch: what it has done so far, and its groups."""

    def __init__(self, lab: Lab, node: str) -> None:
        self._files = lab.directory(node) / "ovs"
        self._pid = lab.pids()[f"{node}/vswitchd"]

    def upcalls(self) -> int:
        """Packets that the datapath did not know what to do with: each costs a walk through the tables."""
        shown = self.ask("dpif-netdev/pmd-stats-show")
        return sum(map(int, re.findall(r"miss with success upcall: (\d+)", shown)))

    def cached(self) -> int:
        """Flows in the datapath's cache."""
        return sum(map(int, re.findall(r"current (\d+)", self.ask("upcall/show"))))

    def processor(self) -> float:
        """Seconds of processor time, of all threads (proc(5), /proc/PID/stat)."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, *command: str) -> str:
        """What ovs-appctl prints. Its sockets are files, so this needs no place in the lab."""
        return self._run("ovs-appctl", "-t", str(control_socket(self._files)), *command)

    def groups(self) -> list[str]:
        """As ovs-ofctl prints them."""
        printed = self._ofctl("dump-groups")
        return [line.strip() for line in printed.splitlines() if "group_id=" in line]

    def change_group(self, group: str) -> None:
        """Behind the agent's back, until its next full comparison."""
        self._ofctl("mod-group", group)

    def _ofctl(self, verb: str, *arguments: str) -> str:
        return self._run(
            "ovs-ofctl", "-O", "OpenFlow15", verb, f"unix:{self._files}/{BRIDGE}.mgmt", *arguments
        )

    def _run(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
