"""Events on their way to the bridge, and those who wait until they have arrived there.

For the reconciler: many tasks post, one takes. Every future that `post` returns is resolved: confirmed, failed, or
cancelled when the inbox closes.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from k8s_ovs.errors import DataplaneError
from k8s_ovs.model.events import Event


@dataclass(frozen=True, slots=True)
class _Submission:
    events: Sequence[Event]
    done: asyncio.Future[None]


class Inbox:
    """Events in the order in which they were posted. What is taken waits for `confirm` or `fail`."""

    def __init__(self) -> None:
        self._posted: list[_Submission] = []
        self._taken: list[_Submission] = []
        self._wake = asyncio.Event()
        self._closed = False

    def post(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """Add events. The future may be left alone."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        if self._closed:
            done.cancel()
        else:
            self._posted.append(_Submission(events, done))
            self._wake.set()
        return done

    def nudge(self) -> None:
        """Let `wait` return although there may be no events."""
        self._wake.set()

    async def wait(self, seconds: float | None) -> None:
        """Return when something was posted, or after so many seconds (None: only then)."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def take(self) -> list[Event]:
        """Everything posted since the last time."""
        batch, self._posted = self._posted, []
        self._taken += batch
        return [event for submission in batch for event in submission.events]

    def confirm(self) -> None:
        """What was taken has arrived."""
        for done in self._answered():
            done.set_result(None)

    def fail(self, error: DataplaneError) -> None:
        """Nobody knows whether what was taken has arrived."""
        for done in self._answered():
            done.set_exception(error)

    def close(self) -> None:
        """Nothing arrives any more: cancel everybody who waits, now and later."""
        self._closed = True
        self.take()
        for done in self._answered():
            done.cancel()

    def _answered(self) -> list[asyncio.Future[None]]:
        taken, self._taken = self._taken, []
        return [submission.done for submission in taken if not submission.done.done()]


def _retrieve(done: asyncio.Future[None]) -> None:
    """Mark the outcome as seen: whoever posts events without waiting relies on the full synchronisation instead."""
    if not done.cancelled():
        done.exception()
