"""Tells the operator what is wrong: log, metric and Kubernetes Event, once per problem until it changes.

Called by `worker` with the problems of every settled round. A problem that cannot be told stops nothing.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from k8s_ovs.controller.metrics import ControllerMetrics
from k8s_ovs.controller.plan import Problem, ProblemKind, Subject
from k8s_ovs.errors import SourceError

log = logging.getLogger(__name__)

Tell = Callable[[Problem], Awaitable[None]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EventPace:
    """At most one Event every `seconds`: a thousand problems at once must not drown the API server."""

    seconds: float = 0.2
    sleep: Sleep = asyncio.sleep


class Reporter:
    """Remembers what was told."""

    def __init__(self, metrics: ControllerMetrics, tell: Tell, pace: EventPace = EventPace()) -> None:
        self._metrics = metrics
        self._tell = tell
        self._pace = pace
        self._known: dict[tuple[Subject, ProblemKind], Problem] = {}
        self._untold: dict[tuple[Subject, ProblemKind], Problem] = {}
        self._news = asyncio.Event()

    def update(self, problems: Iterable[Problem]) -> None:
        """These are the problems now, all of them."""
        now = {(problem.subject, problem.kind): problem for problem in problems}
        for key, problem in now.items():
            if self._known.get(key) != problem:
                log.warning("%s [%s]", problem, problem.kind.value)
                self._untold[key] = problem
        for key in self._known.keys() - now.keys():
            log.info("solved: %s [%s]", self._known[key].message, key[1].value)
            self._untold.pop(key, None)
        self._known = now
        counts = Counter(kind for _, kind in now)
        for kind in ProblemKind:
            self._metrics.problems.labels(kind.value).set(counts[kind])
        if self._untold:
            self._news.set()

    async def run(self) -> None:
        """Make Events of what is new, one after the other, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._untold:
                problem = self._untold.pop(next(iter(self._untold)))
                try:
                    await self._tell(problem)
                except SourceError as err:
                    log.debug("no Event for %s: %s", problem.subject, err)
                await self._pace.sleep(self._pace.seconds)
