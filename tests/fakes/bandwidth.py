"""Measures what pods of a lab get through: several flows at once, by the kernel's counters at the receiver.

    rates = measure(lab, [Flow("red/a", "red/b", "tcp"), Flow("red/c", "red/d", "udp", offered=20e6)], seconds=3)
    rates["red/a>red/b tcp"].goodput, .frames       # Mbit/s

Two rates of the same flow: `frames` is what limits count, octets of Ethernet frames (14 octets of header, no preamble, no
checksum), without VXLAN; `goodput` is payload of TCP or UDP, what programs see: 95.5% of `frames` for TCP with the MTU of
the lab. The time begins with the first octet, so that what a burst lets through counts.
"""

import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.labs import PYTHON, Lab

WORKER = str(Path(__file__).with_name("bandwidth_worker.py"))
INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
UDP_HEADERS = 14 + 20 + 8
"""Octets of a frame that are not payload of a datagram."""
_ports = itertools.count(20_000)

Sample = tuple[int, int, int, int]


@dataclass(frozen=True)
class Flow:
    """From one pod (NAMESPACE/POD) to another. UDP: `offered` bits of payload per second; TCP sends what it can."""

    source: str
    target: str
    protocol: str
    offered: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.source}>{self.target} {self.protocol}"


@dataclass(frozen=True)
class Rates:
    """What has arrived of one flow, over time."""

    protocol: str
    samples: Sequence[Sample]

    @property
    def seconds(self) -> float:
        """From the first octet to the last look."""
        return (self.samples[-1][0] - self.samples[0][0]) / 1e9

    @property
    def goodput(self) -> float:
        """Mbit/s of payload, from the first octet to the last look."""
        return self._rate(self.samples[0], self.samples[-1], payload=True)

    @property
    def frames(self) -> float:
        """Mbit/s of Ethernet frames, from the first octet to the last look."""
        return self._rate(self.samples[0], self.samples[-1], payload=False)

    def between(self, begin: int, end: int) -> float:
        """Mbit/s of Ethernet frames between two instants of CLOCK_MONOTONIC (nanoseconds), as near as the looks were."""
        inside = [sample for sample in self.samples if begin <= sample[0] <= end]
        assert len(inside) >= 2, f"{len(inside)} looks between {begin} and {end}"
        return self._rate(inside[0], inside[-1], payload=False)

    def settled(self, begin: int, low: float, high: float, window: float = 0.3) -> float:
        """Seconds from `begin` until frames pass at `low` to `high` Mbit/s for `window` seconds; inf if they never do."""
        later = [sample for sample in self.samples if sample[0] >= begin]
        for first in later:
            last = next((each for each in later if each[0] - first[0] >= window * 1e9), None)
            if last is not None and low <= self._rate(first, last, payload=False) <= high:
                return (first[0] - begin) / 1e9
        return float("inf")

    def _rate(self, first: Sample, last: Sample, *, payload: bool) -> float:
        nanoseconds, octets, frames, read = (
            after - before for before, after in zip(first, last, strict=True)
        )
        if payload:
            octets = read if self.protocol == "tcp" else octets - frames * UDP_HEADERS
        return octets * 8e3 / nanoseconds


class Running:
    """Flows that run."""

    def __init__(self, flows: Sequence[Flow], receivers: Sequence["subprocess.Popen[str]"]) -> None:
        self._flows = flows
        self._receivers = receivers

    @staticmethod
    def now() -> int:
        """The instant that samples are measured by."""
        return time.monotonic_ns()

    def end(self) -> None:
        """No more looks."""
        for receiver in self._receivers:
            assert receiver.stdin is not None
            receiver.stdin.close()

    def rates(self) -> Mapping[str, Rates]:
        """What arrived, by the flows' names; waits for receivers to end."""
        rates = {}
        for flow, receiver in zip(self._flows, self._receivers, strict=True):
            assert receiver.stdout is not None
            said = receiver.stdout.readline()
            assert said, f"{flow.name}: the receiver has failed: did anything come through?"
            rates[flow.name] = Rates(flow.protocol, [tuple(sample) for sample in json.loads(said)])
        return rates


@contextmanager
def running(lab: Lab, flows: Sequence[Flow], seconds: float = 0) -> Iterator[Running]:
    """Flows that run until `Running.end`, or for so many seconds each."""
    places = _places(lab)
    with ExitStack() as stack:
        receivers, ports = [], []
        for flow in flows:
            ports.append(str(next(_ports)))
            arguments = ("receive", flow.protocol, ports[-1], str(seconds))
            receivers.append(stack.enter_context(_worker(places[flow.target], *arguments)))
        for flow, receiver in zip(flows, receivers, strict=True):
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "{}\n", f"{flow.name}: the receiver did not start"
        for flow, port in zip(flows, ports, strict=True):
            address = places[flow.target]["address"]
            place = places[flow.source]
            stack.enter_context(_worker(place, "send", flow.protocol, address, port, str(flow.offered)))
        yield Running(flows, receivers)


def measure(lab: Lab, flows: Sequence[Flow], seconds: float) -> Mapping[str, Rates]:
    """Let flows run side by side for so many seconds each."""
    with running(lab, flows, seconds) as these:
        return these.rates()


def create_pods(lab: Lab, pods: Mapping[str, tuple[str, Mapping[str, str]]], *, wait: bool = True) -> None:
    """Create pods with annotations: NAMESPACE/POD to node and annotations. The Namespaces exist."""
    items = [_pod(title, node, annotations) for title, (node, annotations) in pods.items()]
    manifest = {"apiVersion": "v1", "kind": "List", "items": items}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    if wait:
        for namespace in {title.partition("/")[0] for title in pods}:
            names = [f"pod/{title.partition('/')[2]}" for title in pods if title.startswith(f"{namespace}/")]
            lab.kubectl("wait", "-n", namespace, "--for=condition=Ready", "--timeout=60s", *names)


def remove_shaper(lab: Lab, pod: str) -> None:
    """What a pod with CAP_NET_ADMIN can do: away with the queueing discipline that is in its own namespace."""
    lab.exec(pod, "tc", "qdisc", "delete", "dev", "eth0", "root")


def _pod(title: str, node: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    namespace, _, name = title.partition("/")
    metadata = {"namespace": namespace, "name": name, "annotations": dict(annotations)}
    spec = {"nodeName": node, "containers": [{"name": "server", "image": "lab"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _places(lab: Lab) -> dict[str, dict[str, Any]]:
    """What the lab's kubelet has recorded of each pod: its namespace's file, its address."""
    files = (lab.home / "pods").glob("*.json")
    records = [json.loads(file.read_text()) for file in files]
    return {f"{record['namespace']}/{record['name']}": record for record in records}


@contextmanager
def _worker(place: Mapping[str, Any], *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = ["nsenter", f"--net={place['netns']}", "--", PYTHON, "-I", "-S", WORKER, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Held:
    """What a node's switch holds of limits: the rows of QoS, and of Queue with their rate; meters with theirs (kbit/s)."""

    qos: frozenset[str]
    queues: Mapping[str, int]
    meters: Mapping[int, int]

    def rates(self) -> tuple[list[int], list[int]]:
        """Bits per second of the queues, kilobits per second of the meters."""
        return sorted(self.queues.values()), sorted(self.meters.values())


def held(lab: Lab, node: str) -> Held:
    """Look at a node's switch."""
    rundir = lab.directory(node) / "ovs"
    database = ("ovs-vsctl", f"--db=unix:{rundir}/db.sock", "-f", "json")
    listed = _output(*database, "--columns=_uuid", "list", "QoS")
    qos = frozenset(row[0][1] for row in json.loads(listed)["data"])
    listed = _output(*database, "--columns=_uuid,other_config", "list", "Queue")
    queues = {row[0][1]: int(dict(row[1][1])["max-rate"]) for row in json.loads(listed)["data"]}
    dumped = _output("ovs-ofctl", "-O", "OpenFlow15", "dump-meters", f"{rundir}/br0.mgmt")
    meters = re.findall(r"meter=(\d+) [^=]*=\s*type=drop rate=(\d+)", dumped)
    return Held(qos, queues, {int(number): int(rate) for number, rate in meters})


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
