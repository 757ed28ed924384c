"""Time as the Kubernetes source sees it, so that tests need not wait.

Used by the client, the reflector and the election. Deadlines inside one HTTP request are aiohttp's, not ours.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock, a calendar, and a way to wait on the first."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def now(self) -> datetime:
        """The calendar time in UTC (an aware datetime). Only ever written into objects, never compared."""

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds of `monotonic`."""

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """An async context that raises TimeoutError after that many seconds of `monotonic`."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def now(self) -> datetime:
        """The machine's idea of UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """The event loop's own timeout."""
        return asyncio.timeout(seconds)


SYSTEM_CLOCK = SystemClock()
