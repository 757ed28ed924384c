"""Tenants that change while everybody talks: what is lost of the allowed, and what passes of the forbidden.

For the end-to-end test, which runs a few cycles, and the benchmark, which runs many. Namespace red changes; blue, green and
kube-system do not. Each cycle goes through every way from one state to another: joined with blue, global, alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fakes.labs import Lab, eventually
from fakes.tenant_admin import Administrator, Changed, Period, administrator, windows
from fakes.traffic import TCP_PORT, UDP_PORT, Probe, Traffic, probe_service, traffic
from fakes.traffic_log import StreamLog

PODS = {
    ("red", "r1"): "node1",
    ("red", "r2"): "node2",
    ("red", "r3"): "node3",
    ("red", "r4"): "node1",
    ("blue", "b1"): "node1",
    ("blue", "b2"): "node2",
    ("green", "g1"): "node1",
    ("green", "g2"): "node3",
    ("kube-system", "s1"): "node2",
}
BACKENDS = ("red/r2", "red/r3")
CYCLE = (
    ("join", "blue"),
    ("global", ""),
    ("join", "blue"),
    ("isolate", ""),
    ("global", ""),
    ("isolate", ""),
)
"""What red is asked for. Where it leads: join to global and back is allowed for red and blue before, during and after."""
ENOUGH = 100
"""Probes of one stream between two changes."""


def _pod(name: str) -> str:
    space = {"r": "red", "b": "blue", "g": "green", "s": "kube-system"}[name[0]]
    return f"{space}/{name}"


def _udp(*pairs: tuple[str, str]) -> list[Probe]:
    return [Probe(_pod(source), _pod(target)) for source, target in pairs]


def _tcp(*pairs: tuple[str, str]) -> list[Probe]:
    return [Probe(_pod(source), _pod(target), tcp=True, echo=True) for source, target in pairs]


ALWAYS = [
    *_udp(("r1", "r4"), ("r1", "r2"), ("r3", "r1"), ("s1", "r1"), ("r2", "s1"), ("b1", "b2")),
    *_tcp(("r1", "r4"), ("r2", "r3"), ("s1", "r3")),
]
"""Allowed whatever red does: same node and across, also to and from a global tenant."""
SOMETIMES = [
    *_udp(("r1", "b1"), ("b1", "r3"), ("r2", "g2"), ("g1", "r1")),
    *_tcp(("r1", "b2"), ("b1", "r4"), ("g2", "r3")),
]
"""Allowed in some states and forbidden in others, from and to red, same node and across."""
NEVER = _udp(("b1", "g1"))


def service_probes(address: str) -> tuple[list[Probe], list[Probe]]:
    """Through red's Service: from red itself (always allowed), and from blue (sometimes)."""
    udp = {"address": address, "port": UDP_PORT, "label": "service", "echo": True}
    tcp = {"address": address, "port": TCP_PORT, "label": "service", "echo": True, "tcp": True}
    own = [Probe("red/r1", "red/r2", **udp), Probe("red/r1", "red/r2", **tcp)]
    return own, [Probe("blue/b2", "red/r2", **udp), Probe("blue/b1", "red/r2", **tcp)]


def build(lab: Lab, *, services: bool = True) -> str:
    """The pods, and red's Service; its address ("" without one)."""
    lab.create_pods(PODS)
    if not services:
        return ""
    return probe_service(lab, "red", *(name.partition("/")[2] for name in BACKENDS))


@dataclass(frozen=True)
class Outcome:
    """What the cycles have shown; `logs` by the name of the probe."""

    logs: dict[str, StreamLog]
    probes: list[Probe]
    periods: list[Period]
    history: list[Changed]

    def sent(self, probe: Probe) -> int:
        """Probes sent while they were allowed."""
        return sum(
            len(self.logs[probe.name].numbers(*window)) for window in self.windows(probe, allowed=True)
        )

    def lost(self, probe: Probe) -> int:
        """Those of them that never arrived, or were never answered."""
        log = self.logs[probe.name]
        return sum(log.lost(*window) for window in self.windows(probe, allowed=True))

    def passed(self, probe: Probe) -> int:
        """Packets that arrived while they were forbidden, from the moment of the report on."""
        log = self.logs[probe.name]
        return sum(log.passed(*window) for window in self.windows(probe, allowed=False))

    def tried(self, probe: Probe) -> int:
        """Probes sent while they were forbidden."""
        log = self.logs[probe.name]
        return sum(len(log.numbers(*window)) for window in self.windows(probe, allowed=False))

    def ended(self, probe: Probe) -> list[str]:
        """Why a connection ended while it was allowed."""
        found = self.logs[probe.name].failures
        times = self.windows(probe, allowed=True)
        return [name for name, instant in found if any(begin <= instant < end for begin, end in times)]

    def stall(self, probe: Probe) -> float:
        """The longest time in seconds without an arrival while it was allowed."""
        log = self.logs[probe.name]
        return max((log.stall(*window) for window in self.windows(probe, allowed=True)), default=0.0)

    def windows(self, probe: Probe, *, allowed: bool) -> list[tuple[int, int]]:
        ends = (place.partition("/")[0] for place in (probe.source, probe.target))
        return windows(self.periods, *ends, allowed=allowed)


def run_cycles(lab: Lab, cycles: int, address: str) -> Outcome:
    """Change red again and again under traffic. Begins and ends with red alone."""
    own, others = service_probes(address) if address else ([], [])
    always, sometimes = [*ALWAYS, *own], [*SOMETIMES, *others]
    probes = [*always, *sometimes, *NEVER]
    with traffic(lab, probes, receivers=BACKENDS) as flow, warmed_up(lab, flow, always, sometimes) as admin:
        for action, other in CYCLE * cycles:
            admin.change("red", action, other)
            revive(flow, admin, sometimes)
            keep_going(flow, always)
        admin.end()
        logs = flow.finish()
    return Outcome(logs, probes, admin.periods, admin.history)


@contextmanager
def warmed_up(
    lab: Lab, flow: Traffic, always: list[Probe], sometimes: list[Probe]
) -> Iterator[Administrator]:
    """Everything has flowed once, so that the switches know each other's MAC addresses; and red is alone."""
    with administrator(lab) as admin:
        admin.make_global("red")
        flow.start(*(probe.name for probe in [*always, *sometimes]))
        admin.isolate("red")
    with administrator(lab) as admin:
        keep_going(flow, always)
        yield admin


def revive(flow: Traffic, admin: Administrator, sometimes: list[Probe]) -> None:
    """Connections that have become allowed begin anew: their retransmissions may wait for minutes."""
    now, before = admin.vnis, admin.periods[-1].vnis
    names = []
    for probe in sometimes:
        ends = tuple(place.partition("/")[0] for place in (probe.source, probe.target))
        state = [bool(windows([Period(0, 1, vnis)], *ends, allowed=True)) for vnis in (before, now)]
        if probe.tcp and state == [False, True]:
            names.append(probe.name)
    if names:
        flow.reconnect(*names)


def keep_going(flow: Traffic, probes: list[Probe]) -> None:
    """Let some traffic pass before the next change."""
    names = [probe.name for probe in probes if not probe.tcp]
    before = flow.progress()
    eventually(
        lambda: all(
            count >= before[name] + ENOUGH for name, count in flow.progress().items() if name in names
        ),
        "the traffic that is always allowed to go on",
    )
