"""When the next full synchronisation is due: once a period, soon after a request, with growing pauses after failures.

For the reconciler. Pure: it is told the time, in seconds of any clock that never goes back, and never sleeps.
"""

from math import inf

SPACING = 0.05
"""Seconds between a failed attempt and the next one that is asked for: news may come faster than a switch heals."""


class SyncSchedule:
    """Knows for what reason and when the next full synchronisation is due. The first one is due at once.

    Neither a stream of requests nor one of other work moves what is due to a later time.
    """

    def __init__(self, period: float, first: float, most: float) -> None:
        """`period` between two successes; after failures, pauses of `first` seconds, doubled up to `most`."""
        self._period = period
        self._first = first
        self._most = most
        self._pause = first
        self._reason: str | None = "start"
        self._attempted: str | None = None
        self._due_at = -inf
        self._failed_at = -inf

    def request(self, reason: str, now: float) -> None:
        """Ask for one now; while attempts fail, no sooner than SPACING after the last of them."""
        self._reason = self._reason or reason
        self._due_at = min(self._due_at, max(now, self._failed_at + SPACING))

    def due(self, now: float) -> str | None:
        """Why a full synchronisation has to begin now; None while it need not."""
        if now < self._due_at:
            return None
        return self._reason or "period"

    def wait(self, now: float) -> float:
        """Seconds until the next is due."""
        return max(0.0, self._due_at - now)

    def begin(self) -> None:
        """An attempt begins; what is requested from here on asks for another one."""
        self._attempted, self._reason = self._reason, None
        self._due_at = inf

    def succeeded(self, now: float) -> None:
        """The attempt did what it should."""
        self._attempted = None
        self._pause = self._first
        self._failed_at = -inf
        self._due_at = min(self._due_at, now + self._period)

    def failed(self, now: float) -> None:
        """An attempt, or any other work on the switch, failed."""
        self._reason = self._reason or self._attempted or "a commit failed"
        self._failed_at = now
        self._due_at = now + self._pause
        self._pause = min(2 * self._pause, self._most)
