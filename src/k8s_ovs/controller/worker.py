"""The one task that changes records while this controller leads, and the feeds that wake it.

Made by `app` for each reign, cancelled with the lease. Level-triggered: whatever changes only wakes it,
changes that come while it works are one more round together, and now and then it looks without being asked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from k8s_ovs.controller.cluster import Facts
from k8s_ovs.controller.report import Reporter
from k8s_ovs.controller.rounds import Outcome, Rounds, RoundServices
from k8s_ovs.errors import ConfigError, RecordError, SourceError
from k8s_ovs.model.events import Source, Synced
from k8s_ovs.runtime.backoff import Backoff

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerPace:
    """Seconds: the longest time between two rounds, and the longest pause after an error or a refusal."""

    resync: float = 60.0
    error_cap: float = 5.0
    refusal_cap: float = 0.2
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Worker:
    """Work of one reign; `run` until cancelled."""

    def __init__(self, services: RoundServices, reporter: Reporter, pace: WorkerPace = WorkerPace()) -> None:
        self._services = services
        self._reporter = reporter
        self._pace = pace
        self._facts = Facts()
        self._rounds = Rounds(services, self._facts)
        self._untold = {Source.HOST_SUBNETS, Source.TENANTS}
        self._wake = asyncio.Event()
        self._watch_error = ""
        self._error = "the first round is not through"

    @property
    def trouble(self) -> str:
        """Why the records are perhaps not as they should be; empty if they are."""
        missing = self._missing
        if missing:
            reasons = [why for why in (self._services.cluster.trouble, self._watch_error) if why]
            return "; ".join(["not in sync yet: " + ", ".join(missing), *reasons])
        return self._error

    @property
    def _missing(self) -> list[str]:
        return self._facts.missing + sorted(self._untold)

    async def run(self) -> None:
        """Keep the records right. Raises only what is a bug."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_nodes(), name="controller: nodes")
            tasks.create_task(self._watch_namespaces(), name="controller: namespaces")
            tasks.create_task(self._watch_records(), name="controller: records")
            tasks.create_task(self._watch_reports(), name="controller: reports")
            tasks.create_task(self._work(), name="controller: work")

    async def _watch_nodes(self) -> None:
        async with aclosing(self._services.cluster.nodes()) as batches:
            async for batch in batches:
                if self._facts.apply_nodes(batch):
                    self._rounds.forget_doubts()
                    self._wake.set()

    async def _watch_namespaces(self) -> None:
        async with aclosing(self._services.cluster.namespaces()) as batches:
            async for batch in batches:
                if self._facts.apply_namespaces(batch):
                    self._rounds.forget_doubts()
                    self._wake.set()

    async def _watch_records(self) -> None:
        """Only to be woken: a plan is made from a snapshot, whose revision it needs."""
        backoff = Backoff(cap=self._pace.error_cap, floor=0.05)
        while True:
            try:
                async for batch in self._services.store.watch():
                    self._untold -= {event.source for event in batch if isinstance(event, Synced)}
                    self._watch_error = ""
                    self._wake.set()
            except (ConfigError, SourceError) as err:
                # Refused at its start; later it survives everything by itself.
                self._watch_error = str(err)
                log.warning("records cannot be watched: %s", err)
            await self._pace.sleep(backoff.next())

    async def _watch_reports(self) -> None:
        """Agents say what they have applied: a change of a tenant may be a step further."""
        backoff = Backoff(cap=self._pace.error_cap, floor=0.05)
        while True:
            try:
                async for _ in self._services.store.watch_reports():
                    self._wake.set()
            except (ConfigError, SourceError) as err:
                log.warning("agents' reports cannot be watched: %s", err)
            await self._pace.sleep(backoff.next())

    async def _work(self) -> None:
        while self._missing:
            await self._wake.wait()
            self._wake.clear()
        errors = Backoff(cap=self._pace.error_cap, floor=0.05)
        refusals = Backoff(base=0.005, cap=self._pace.refusal_cap)
        while True:
            self._wake.clear()
            outcome = await self._round()
            if outcome is None:
                await self._pace.sleep(errors.next())
                continue
            errors.reset()
            if outcome is Outcome.REFUSED:
                # At once the first time: whoever was faster is through. Then with a pause, in case there are
                # many.
                await self._pace.sleep(refusals.next() if refusals.failures else 0)
                continue
            refusals.reset()
            if outcome is Outcome.SETTLED:
                self._reporter.update(self._rounds.problems)
                await self._rest()

    async def _round(self) -> Outcome | None:
        """One round; None if a source or the network config stopped it."""
        metrics = self._services.metrics
        try:
            with metrics.round_seconds.time():
                outcome = await self._rounds.once()
        except (ConfigError, RecordError, SourceError) as err:
            metrics.errors.inc()
            if str(err) != self._error:
                log.warning("records cannot be put right now: %s", err)
            self._error = str(err)
            return None
        if outcome is Outcome.SETTLED and self._error:
            log.info("records are as they should be")
            self._error = ""
        return outcome

    async def _rest(self) -> None:
        """Until something changes, or a host has been waited for long enough, or for `resync` seconds."""
        soon = self._rounds.wake_at - self._services.clock()
        try:
            async with asyncio.timeout(max(0.0, min(self._pace.resync, soon))):
                await self._wake.wait()
        except TimeoutError:
            if soon > self._pace.resync:
                self._rounds.forget_doubts()
