"""Steady traffic between many pods of a lab at once, and what became of every packet of it.

One process for each namespace (`traffic_worker`) sends and receives; this module starts them, gives commands and reads the
logs (`traffic_log`). UDP probes go every 2 ms unless told otherwise, one way: so a loss says in which direction. TCP streams
are one long connection each; every TCP segment that arrives is noted, so that a forbidden connection's retransmissions are
seen too.

    with traffic(lab, [Probe("red/a", "red/b"), Probe("red/a", "blue/c", tcp=True)]) as flow:
        flow.start("red/a>red/b")           # returns when these arrive
        begun = flow.now()
        …
        logs = flow.finish()
    assert logs["red/a>red/b"].lost() == 0

What came before everything that is expected had arrived is warming up: on the userspace datapath the first packet to a host
whose underlay MAC is unknown is lost (OVS's tunnel neighbour cache). Measure from `now()` after `start`.
"""

import base64
import json
import subprocess
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fakes.labs import PYTHON, Lab, eventually
from fakes.traffic_log import Segment, StreamLog
from k8s_ovs.lab import places as places_of
from k8s_ovs.lab.cluster import DEFAULT_BASE
from k8s_ovs.lab.state import load_cluster

WORKER = str(Path(__file__).with_name("traffic_worker.py"))
UDP_PORT, TCP_PORT = 7700, 7701
"""What the workers listen on; a Service needs them as targetPort."""
PERIOD = 0.002
TCP_PERIOD = 0.01
DRAIN = 0.5
"""Seconds for what is on its way when sending ends."""


@dataclass(frozen=True)
class Probe:
    """A stream from one place to another; or to `address` and `port` (a Service's), behind which `target` is one receiver.

    Places are named as for `lab exec`: NODE or NAMESPACE/POD. With `echo`, the answers count, not the arrivals.
    """

    source: str
    target: str
    address: str = ""
    port: int = 0
    tcp: bool = False
    echo: bool = False
    period: float = 0.0
    label: str = ""

    @property
    def name(self) -> str:
        """How the log is called: SOURCE>TARGET, with what is special."""
        marks = [mark for mark, there in (("tcp", self.tcp), ("echo", self.echo)) if there]
        marks += [self.label] if self.label else []
        return f"{self.source}>{self.target}" + "".join(f" {mark}" for mark in marks)


class _Place:
    """The worker of one namespace."""

    def __init__(self, lab: Lab, name: str, plan: Mapping[str, object]) -> None:
        self.name = name
        command = lab.inside(name, PYTHON, "-I", "-S", WORKER)
        self.process = subprocess.Popen(
            command, env=dict(lab.environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tell(json.dumps(plan))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the traffic worker of {self.name} ended with status {self.process.wait(5)}"
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Traffic:
    """Streams between the places of a lab. Made by `traffic`."""

    def __init__(self, places: Mapping[str, _Place], ids: Mapping[str, int], probes: Sequence[Probe]) -> None:
        self._places = places
        self._ids = ids
        self._probes = {probe.name: probe for probe in probes}

    @staticmethod
    def now() -> int:
        """The instant that probes are measured by."""
        return time.monotonic_ns()

    def start(self, *expected: str, seconds: float = 20) -> None:
        """Begin to send; return once every stream of these names (none: of all) has come through, twenty probes of it."""
        self._command("start")
        wanted = {self._ids[name] for name in expected or self._ids}
        have: dict[int, int] = {}

        def all_came() -> bool:
            have.update(self.counts())
            return all(have.get(each, 0) >= 20 for each in wanted)

        names = {number: name for name, number in self._ids.items()}
        try:
            eventually(all_came, "the streams to flow", seconds=seconds)
        except AssertionError as err:
            silent = [names[each] for each in sorted(wanted) if have.get(each, 0) < 20]
            raise AssertionError(f"{err}: nothing or little of {', '.join(silent)}") from None

    def counts(self) -> dict[int, int]:
        """How much of each stream (by its number) has arrived so far."""
        total: dict[int, int] = {}
        for answer in self._command("look"):
            for each, count in answer["received"].items():
                total[int(each)] = total.get(int(each), 0) + count
        return total

    def progress(self) -> dict[str, int]:
        """How much of each stream has arrived so far."""
        counts = self.counts()
        return {name: counts.get(number, 0) for name, number in self._ids.items()}

    def reconnect(self, *names: str) -> None:
        """End these TCP streams and begin them anew."""
        for source in {self._probes[name].source for name in names}:
            ids = [str(self._ids[name]) for name in names if self._probes[name].source == source]
            place = self._places[source]
            place.tell(f"reconnect {' '.join(ids)}")
            place.hear()

    def finish(self) -> dict[str, StreamLog]:
        """End it all; the logs by name."""
        self._command("quiet")
        time.sleep(DRAIN)  # not waiting for anything: what has not arrived by then is lost
        reports = self._command("report")
        return {name: _log(self._probes[name], number, reports) for name, number in self._ids.items()}

    def _command(self, word: str) -> list[Any]:
        for place in self._places.values():
            place.tell(word)
        return [place.hear() for place in self._places.values()]


@contextmanager
def traffic(lab: Lab, probes: Iterable[Probe], *, receivers: Iterable[str] = ()) -> Iterator[Traffic]:
    """Workers for these probes, idle until `start`. `receivers` are further places, behind Services say."""
    probes = list(probes)
    ids = {probe.name: number for number, probe in enumerate(probes, 1)}
    assert len(ids) == len(probes), "two probes have one name: give labels"
    places = sorted({probe.source for probe in probes} | {probe.target for probe in probes} | set(receivers))
    addresses = _addresses(lab, {probe.target for probe in probes if not probe.address})
    sniff = any(probe.tcp for probe in probes)
    with ExitStack() as stack:
        workers = {}
        for place in places:
            streams = [_plan(each, ids[each.name], addresses) for each in probes if each.source == place]
            plan = {"udp_port": UDP_PORT, "tcp_port": TCP_PORT, "sniff": sniff, "streams": streams}
            workers[place] = _Place(lab, place, plan)
            stack.callback(workers[place].end)
        for worker in workers.values():
            assert worker.hear() == {"up": True}
        yield Traffic(workers, ids, probes)


def probe_service(lab: Lab, namespace: str, *pods: str) -> str:
    """A Service in front of the workers of these pods; its address, for probes with one."""
    lab.kubectl("label", "pod", "-n", namespace, *pods, "role=backend")
    ports = [
        {"name": kind.lower(), "protocol": kind, "port": port, "targetPort": port}
        for kind, port in (("UDP", UDP_PORT), ("TCP", TCP_PORT))
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": "probe"},
        "spec": {"selector": {"role": "backend"}, "ports": ports},
    }
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(service))
    return lab.kubectl("get", "service", "-n", namespace, "probe", "-o", "jsonpath={.spec.clusterIP}")


def _addresses(lab: Lab, places: set[str]) -> dict[str, str]:
    cluster = load_cluster(DEFAULT_BASE, lab.name)
    known = {node.name: str(node.ip) for node in cluster.nodes}
    known |= {pod.title: pod.address for pod in places_of.pods(cluster)}
    return {place: known[place] for place in places}


def _plan(probe: Probe, number: int, addresses: Mapping[str, str]) -> dict[str, object]:
    period = probe.period or (TCP_PERIOD if probe.tcp else PERIOD)
    return {
        "id": number,
        "address": probe.address or addresses[probe.target],
        "port": probe.port or (TCP_PORT if probe.tcp else UDP_PORT),
        "tcp": probe.tcp,
        "echo": probe.echo,
        "period": int(period * 1e9),
    }


def _log(probe: Probe, number: int, reports: Sequence[Any]) -> StreamLog:
    told = next(report["streams"][str(number)] for report in reports if str(number) in report["streams"])
    arrived: list[tuple[int, int]] = []
    for report in reports:
        if str(number) in report["received"]:
            arrived += _arrivals(report["received"][str(number)])
    names = {(address, port) for address, port in told["names"]}
    segments = [
        Segment(address, port, flags, instant)
        for report in reports
        for address, port, flags, instant in report["segments"]
        if (address, port) in names
    ]
    return StreamLog(
        sent=_numbers("q", told["sent"]),
        arrived=arrived,
        answers=_arrivals(told["answers"]),
        connects=told["connects"],
        failures=[(name, instant) for name, instant in told["failures"]],
        retransmits=told["retransmits"],
        segments=sorted(segments, key=lambda segment: segment.instant),
        echo=probe.echo,
    )


def _arrivals(told: Sequence[str]) -> list[tuple[int, int]]:
    return list(zip(_numbers("I", told[0]), _numbers("q", told[1]), strict=True))


def _numbers(kind: Literal["I", "q"], text: str) -> "array[int]":
    values: array[int] = array(kind)
    values.frombytes(base64.b64decode(text))
    return values
