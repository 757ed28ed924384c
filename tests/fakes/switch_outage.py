"""How long traffic stands still when a node's switch is killed: with the agent, and with nothing but a script (the floor).

For the end-to-end test and `make bench`. A lab of two nodes with many pods on the first; UDP every 2 ms on that node and from
the other one to it. The floor is the least that anybody could need: the same processes killed, the same supervisor, and a
loop that gives the new switch its flows by `ovs-ofctl replace-flows` as soon as it takes them; no agent runs meanwhile.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from fakes.labs import Lab, eventually
from fakes.survival import outage, told_ready
from fakes.traffic import Probe, Traffic, traffic
from fakes.traffic_log import StreamLog

NODE = "node1"
PROBES = (Probe("load/p0", "load/p1"), Probe("load/far", "load/p1"), Probe("load/p1", "load/far"))
KINDS = {"vswitchd": ("vswitchd",), "ovsdb-server": ("ovsdb",), "both": ("ovsdb", "vswitchd")}
"""What is killed."""
BEFORE = 200_000_000
"""Nanoseconds of traffic before the kill that are looked at as well, so that the pause has a beginning."""
MILESTONES = {
    "the process has ended": "no longer serves",
    "the new one takes OpenFlow": "ovs-vswitchd serves",
    "it has its flows": "full synchronisation (",
}
"""What the agent logs while ovs-vswitchd comes back."""
CALM = 1100
"""Packets of each stream between two kills: more than two seconds."""
BY_HAND = """
cd "$1"
until ovs-ofctl -O OpenFlow15 --bundle add-groups unix:"$2" groups 2>/dev/null; do sleep 0.01; done
until ovs-ofctl -O OpenFlow15 --bundle replace-flows unix:"$2" flows 2>/dev/null; do sleep 0.01; done
"""


@dataclass
class Outages:
    """A lab under traffic, and when what was done to it."""

    lab: Lab
    flow: Traffic
    when: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)

    def kill(self, kind: str) -> None:
        """Kill, with the agent there; return once all traffic flows again."""
        seen = noticed(self.lab)
        self._do("agent", kind)
        eventually(lambda: noticed(self.lab) > seen, f"the agent to notice ({kind})")

    def kill_with_script(self, kind: str) -> None:
        """The same with the script in the agent's place."""
        mgmt = str(Path(self.lab.directory(NODE)) / "ovs" / "br0.mgmt")
        ready = told_ready(self.lab, f"{NODE}/agent")
        with tempfile.TemporaryDirectory() as place, outage(self.lab, f"{NODE}/agent"):
            for what in ("flows", "groups"):
                dump = [
                    "ovs-ofctl",
                    "-O",
                    "OpenFlow15",
                    "--no-names",
                    "--no-stats",
                    f"dump-{what}",
                    f"unix:{mgmt}",
                ]
                lines = subprocess.run(dump, capture_output=True, text=True, check=True).stdout.splitlines()
                text = "".join(f"{line.strip()}\n" for line in lines if "=" in line and "reply" not in line)
                (Path(place) / what).write_text(text)
            self._do("by hand", kind, ["sh", "-c", BY_HAND, "by-hand", place, mgmt])
        eventually(lambda: told_ready(self.lab, f"{NODE}/agent") > ready, "the agent to be back")

    def _do(self, who: str, kind: str, script: list[str] | None = None) -> None:
        self._calm()
        running = self.lab.pids()
        begun = self.flow.now() - BEFORE
        for part in KINDS[kind]:
            os.kill(running[f"{NODE}/{part}"], signal.SIGKILL)
        if script is not None and "vswitchd" in KINDS[kind]:
            subprocess.run(script, check=True, timeout=60)
        self.recovered(begun)
        self.when.setdefault((who, kind), []).append((begun, self.flow.now()))

    def _calm(self) -> None:
        """Have ovs-vswitchd forget how often it has lost its database: one that it lost soon after another one it asks
        for later (its reconnect doubles the pause unless something came through the connection after as long a time)."""
        self._flows_on(CALM)
        database = f"--db=unix:{Path(self.lab.directory(NODE)) / 'ovs' / 'db.sock'}"
        touch = ["ovs-vsctl", database, "set", "Open_vSwitch", ".", f"external_ids:calm={self.flow.now()}"]
        subprocess.run(touch, check=True, timeout=60)

    def recovered(self, since: int) -> None:
        """Return once every stream has flowed for a while, later than what was on its way when the switch was killed."""
        eventually(lambda: self.flow.now() - since > 2 * BEFORE, "the last packets of before")
        self._flows_on(100)

    def _flows_on(self, packets: int) -> None:
        """Return once every stream has brought so many more."""
        before = self.flow.progress()
        eventually(
            lambda: all(count > before[name] + packets for name, count in self.flow.progress().items()),
            "all traffic to flow",
            seconds=60,
        )

    def lengths(self, logs: dict[str, StreamLog], who: str, kind: str, probe: Probe) -> list[float]:
        """The longest time without an arrival, in seconds, each time."""
        return [logs[probe.name].stall(begun, ended) for begun, ended in self.when[who, kind]]

    def stages(self, logs: dict[str, StreamLog], kind: str) -> list[list[float]]:
        """Of each kill under the agent, in seconds from it: what MILESTONES say, then the first packet on the node itself."""
        epoch = time.time_ns() - self.flow.now()
        told = [
            (datetime.fromisoformat(line.split()[0]).timestamp() * 1e9 - epoch, line)
            for line in self.lab.log(f"{NODE}/agent").splitlines()
            if line[:2] == "20"
        ]
        found = []
        for begun, ended in self.when["agent", kind]:
            killed = begun + BEFORE
            marks = [
                next((at - killed for at, line in told if killed < at < ended and words in line), None)
                for words in MILESTONES.values()
            ]
            gap = max(logs[PROBES[0].name].gaps(begun, ended), key=lambda gap: gap.seconds)
            if None not in marks:
                first = gap.begun - killed + gap.seconds * 1e9
                found.append([mark / 1e9 for mark in (*marks, first) if mark is not None])
        return found


def noticed(lab: Lab) -> int:
    """How often the agent has logged that something of its switch went or came."""
    text = lab.log(f"{NODE}/agent")
    return text.count("no longer serves") + text.count("db.sock: ")


@contextmanager
def outages(lab: Lab, pods: int) -> Iterator[Outages]:
    """Traffic in a lab with so many pods on the node; it ends with the block."""
    names = {("load", f"p{number}"): NODE for number in range(pods)}
    lab.create_pods({**names, ("load", "far"): "node2"})
    with traffic(lab, PROBES) as flow:
        flow.start()
        yield Outages(lab, flow)
