"""How this agent fares, told beside its report in etcd: for `k8s-ovs status`, wherever that is called.

    reconciler, drops, repairs, health checks ──look──> HealthKeeper ──tell──> Presence ──> etcd
    TenantReporter ──report──────────────────────────────────┘

A report of what is applied goes on at once, with what was told of the health last. Health goes by itself rarely: at once
when this node begins or ceases to serve, else at most every PERIOD seconds, and drops are counted once in DROPS seconds.
Nothing is told before the first report. It decides nothing and changes nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from k8s_ovs import __version__
from k8s_ovs.agent.dropcounts import DropCounter
from k8s_ovs.model.types import AgentHealth, AgentReport
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK

LOOK, PERIOD, DROPS = 1.0, 10.0, 60.0
"""Seconds: between two looks, between two tellings that nobody waits for, between two counts of the drops."""
REPAIRS = 600.0
"""Seconds that count as "of late" for repairs."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A node now: why it cannot serve, what else lasts, and figures. Drops and repairs since the agent's start."""

    trouble: str = ""
    notes: str = ""
    pods: int = 0
    mtu: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    repairs: Mapping[str, int] = field(default_factory=dict)


class HealthKeeper:
    """Knows how the agent fares. `tell` is Presence.tell; `wall` gives the time of day."""

    def __init__(
        self,
        tell: Callable[[AgentReport], None],
        wall: Callable[[], datetime] = SYSTEM_CLOCK.now,
    ) -> None:
        self._tell = tell
        self._wall = wall
        self._health = AgentHealth(version=__version__, since=_text(wall()))
        self._report: AgentReport | None = None
        self._told: AgentHealth | None = None
        self._told_at = 0.0
        self._failed = 0
        self._served = False
        self._counted: Mapping[str, int] = {}
        self._counted_at: float | None = None
        self._repaired: deque[tuple[float, Mapping[str, int]]] = deque()

    @property
    def applied(self) -> int:
        """The store's revision up to which the switch has what the records say."""
        return self._health.revision

    def report(self, report: AgentReport) -> None:
        """Tell this report at once."""
        self._report = report
        self._say(_now())

    def follow(self, revision: int, commit: "asyncio.Future[None]") -> None:
        """All records up to `revision` are on the switch once `commit` is through, or after the next synchronisation."""

        def through(done: "asyncio.Future[None]") -> None:
            if done.cancelled():
                return
            if done.exception() is not None:
                self._failed = revision
                return
            self._failed = 0
            self._health = replace(self._health, revision=revision)

        commit.add_done_callback(through)

    async def run(self, look: Callable[[], Condition]) -> None:
        """Look and tell until cancelled."""
        while True:
            self.take(look(), _now())
            await asyncio.sleep(LOOK)

    def take(self, seen: Condition, now: float) -> None:
        """Note how things are at `now`, by the loop's clock, and tell it if it is time to."""
        known = self._health
        self._health = health = replace(
            known,
            trouble=seen.trouble,
            notes=seen.notes,
            pods=seen.pods,
            mtu=seen.mtu,
            repairs=self._of_late(seen.repairs, now),
        )
        if self._failed and not seen.trouble:
            # The synchronisation that followed had everything that was known by then.
            self._health = health = replace(health, revision=self._failed)
            self._failed = 0
        # What an agent waits for at its start is no error; `trouble` tells it while it lasts.
        self._served |= not seen.trouble
        wrong = seen.trouble or seen.notes
        if self._served and wrong and wrong not in (known.trouble, known.notes):
            self._health = health = replace(health, last_error=wrong, last_error_at=_text(self._wall()))
        self._count(seen.drops, now)
        told = self._told
        urgent = told is None or (told.trouble == "") != (health.trouble == "") or told.mtu != health.mtu
        if urgent or (self._health != told and now >= self._told_at + PERIOD):
            self._say(now)

    def _count(self, drops: Mapping[str, int], now: float) -> None:
        if not drops or (self._counted_at is not None and now < self._counted_at + DROPS):
            return  # not read yet: every flow that drops has a counter
        before, first = self._counted, self._counted_at is None
        more = {name: count - before.get(name, 0) for name, count in drops.items()}
        rising = {} if first else {name: count for name, count in more.items() if count > 0}
        counted = {name: count for name, count in drops.items() if count}
        self._health = replace(self._health, drops=counted, dropping=rising)
        self._counted, self._counted_at = dict(drops), now

    def _of_late(self, repairs: Mapping[str, int], now: float) -> Mapping[str, int]:
        """What was repaired within the last REPAIRS seconds."""
        if not self._repaired or self._repaired[-1][1] != repairs:
            self._repaired.append((now, dict(repairs)))
        while len(self._repaired) > 1 and self._repaired[1][0] <= now - REPAIRS:
            self._repaired.popleft()
        before = self._repaired[0][1]
        return {kind: more for kind, count in repairs.items() if (more := count - before.get(kind, 0)) > 0}

    def _say(self, now: float) -> None:
        if self._report is None:
            return
        self._told, self._told_at = self._health, now
        self._tell(replace(self._report, health=self._health))


def named(drops: Mapping[DropCounter, int]) -> dict[str, int]:
    """Drop counters by stage/reason."""
    return {f"{counter.stage.label}/{counter.reason.label}": packets for counter, packets in drops.items()}


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> float:
    return asyncio.get_running_loop().time()
