"""Traffic that has to survive what happens to the parts around it, and what became of every packet.

For the end-to-end test (few repetitions) and `make bench` (ten of each): a lab with UDP every 2 ms and long TCP connections,
on one node, across nodes and through a Service, while somebody does harm. Losses are told for each harm.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fakes.labs import Lab, eventually, running_lab
from fakes.traffic import TCP_PORT, UDP_PORT, Probe, Traffic, probe_service, traffic
from fakes.traffic_log import StreamLog

PODS = {
    ("red", "a"): "node1",
    ("red", "b"): "node1",
    ("red", "c"): "node2",
    ("blue", "x"): "node1",
    ("blue", "y"): "node2",
}
BACKENDS = ("red/b", "red/c")
LEADS = " leads ("
"""What a controller logs when it begins to lead."""
ENOUGH = 100
"""Probes of every UDP stream that come before and after a harm."""


def probes(service: str) -> list[Probe]:
    """Same node, across, and through the Service at this address; UDP and TCP each."""
    direct = (("red/a", "red/b"), ("red/a", "red/c"), ("red/c", "red/b"))
    found = [Probe(*pair) for pair in direct]
    found += [Probe(*pair, tcp=True, echo=True) for pair in direct]
    for client in ("red/a", "red/c"):
        other = "red/c" if client == "red/a" else "red/b"
        found.append(Probe(client, other, address=service, port=UDP_PORT, label="service", echo=True))
        found.append(
            Probe(client, other, address=service, port=TCP_PORT, label="service", echo=True, tcp=True)
        )
    return found


FORBIDDEN = [Probe("blue/x", "red/b"), Probe("blue/y", "red/b")]
"""Never allowed, whatever happens."""


def build(lab: Lab) -> str:
    """The pods and the Service; its address."""
    lab.create_pods(PODS)
    return probe_service(lab, "red", *(name.partition("/")[2] for name in BACKENDS))


@dataclass
class Harmed:
    """What was done: its name, and from when to when (CLOCK_MONOTONIC nanoseconds) losses count for it."""

    name: str
    begun: int
    ended: int = 0


@dataclass
class Survivors:
    """Running traffic. `harm` does something to the lab and lets traffic go on before and after it."""

    lab: Lab
    flow: Traffic
    watched: list[Probe]
    history: list[Harmed] = field(default_factory=list)

    def harm(self, name: str, action: Callable[[], None]) -> None:
        """Do it, and let some traffic pass before and after it."""
        self.keep_going()
        entry = Harmed(name, self.flow.now())
        action()
        self.keep_going()
        entry.ended = self.flow.now()
        self.history.append(entry)

    def keep_going(self) -> None:
        """Return once every stream of UDP has brought some more."""
        names = {probe.name for probe in self.watched if not probe.tcp}
        before = self.flow.progress()
        eventually(
            lambda: all(
                count >= before[name] + ENOUGH
                for name, count in self.flow.progress().items()
                if name in names
            ),
            "all traffic to flow",
        )


@dataclass(frozen=True)
class Toll:
    """What one kind of harm has cost, over all its repetitions; `forbidden` of those `tried` have passed."""

    name: str
    times: int
    udp_sent: int
    udp_lost: int
    tcp_sent: int
    tcp_lost: int
    resets: int
    stall: float
    tried: int
    forbidden: int


def tolls(logs: dict[str, StreamLog], watched: list[Probe], history: list[Harmed]) -> list[Toll]:
    """One for each name in the history, in its order."""
    names = list(dict.fromkeys(entry.name for entry in history))
    return [_toll(name, logs, watched, [entry for entry in history if entry.name == name]) for name in names]


def _toll(name: str, logs: dict[str, StreamLog], watched: list[Probe], entries: list[Harmed]) -> Toll:
    def total(what: Callable[[StreamLog, int, int], int], *, tcp: bool) -> int:
        chosen = [logs[probe.name] for probe in watched if probe.tcp is tcp]
        return sum(what(log, entry.begun, entry.ended) for log in chosen for entry in entries)

    def sent(log: StreamLog, begin: int, end: int) -> int:
        return len(log.numbers(begin, end))

    def ended(log: StreamLog, begin: int, end: int) -> int:
        return sum(1 for _, instant in log.failures if begin <= instant < end)

    return Toll(
        name=name,
        times=len(entries),
        udp_sent=total(sent, tcp=False),
        udp_lost=total(StreamLog.lost, tcp=False),
        tcp_sent=total(sent, tcp=True),
        tcp_lost=total(StreamLog.lost, tcp=True),
        resets=total(ended, tcp=True),
        stall=max(logs[probe.name].stall(entry.begun, entry.ended) for probe in watched for entry in entries),
        tried=sum(
            sent(logs[probe.name], entry.begun, entry.ended) for probe in FORBIDDEN for entry in entries
        ),
        forbidden=sum(
            logs[probe.name].passed(entry.begun, entry.ended) for probe in FORBIDDEN for entry in entries
        ),
    )


@contextmanager
def survivors(lab: Lab) -> Iterator[Survivors]:
    """Traffic in a lab, warmed up; it ends with the block."""
    watched = probes(build(lab))
    with traffic(lab, [*watched, *FORBIDDEN], receivers=BACKENDS) as flow:
        flow.start(*(probe.name for probe in watched))
        yield Survivors(lab, flow, watched)


# -- what can be done to a lab ----------------------------------------------------------------------------------------


def restart_agents(lab: Lab, number: signal.Signals) -> None:
    """Send every agent a signal that ends it; return once the new ones, which the lab starts, are ready."""
    agents = [name for name in lab.pids() if name.endswith("/agent")]
    before = {name: told_ready(lab, name) for name in agents}
    for name, pid in lab.pids().items():
        if name in before:
            os.kill(pid, number)
    eventually(
        lambda: all(told_ready(lab, name) > count for name, count in before.items()),
        "new agents to be ready",
        seconds=60,
    )


def told_ready(lab: Lab, agent: str) -> int:
    """How often the agent of this name has said that it serves."""
    return lab.log(agent).count("ready: serving pods")


def kill_controllers(lab: Lab) -> None:
    """kill -9 every controller; the lab starts them again, and one leads in the end."""
    before = lab.pids()
    controllers = [name for name in before if name.startswith("controller")]
    led = {name: lab.log(name).count(LEADS) for name in controllers}
    for name in controllers:
        os.kill(before[name], signal.SIGKILL)
    eventually(
        lambda: any(lab.log(name).count(LEADS) > count for name, count in led.items()),
        "a controller to lead",
        seconds=60,
    )


@contextmanager
def outage(lab: Lab, *processes: str) -> Iterator[None]:
    """These processes of the lab do not run."""
    lab.lab("stop", "--kill", *processes)
    try:
        yield
    finally:
        lab.lab("start", *processes)


class Builds:
    """Two builds of the product that agents can be started from, as packages that replace each other.

    Agents started with `environment` load what `use` has chosen last. The second build has other table numbers.
    """

    def __init__(self, directory: Path, source: Path) -> None:
        self._link = directory / "installed"
        self._old, self._new = source, directory / "new"
        shutil.copytree(source, self._new, ignore=shutil.ignore_patterns("__pycache__"))
        tables = self._new / "k8s_ovs" / "flows" / "tables.py"
        text = tables.read_text()
        for name, number, other in (("_ROUTE", 70, 72), ("_TENANT", 80, 85), ("_SERVICE_NEW", 62, 65)):
            line = f"{name} = {number}\n"
            assert line in text, f"tables.py has changed: no {line!r}"
            text = text.replace(line, f"{name} = {other}\n")
        tables.write_text(text)
        self.use(new=False)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a lab's daemons come from here."""
        return {"PYTHONPATH": str(self._link)}

    def use(self, *, new: bool) -> None:
        """What starts from now on is this build."""
        draft = self._link.with_name("draft")
        draft.symlink_to(self._new if new else self._old)
        draft.rename(self._link)


@contextmanager
def lab_with_builds(directory: Path, source: Path) -> Iterator[tuple[Lab, Builds]]:
    """A lab whose agents can be upgraded."""
    builds = Builds(directory, source)
    with running_lab(nodes=2, environment=builds.environment) as lab:
        yield lab, builds
