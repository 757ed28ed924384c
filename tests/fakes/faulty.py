"""Failure injection for the fakes of the dataplane: one call fails, or waits."""

import asyncio
from collections import defaultdict, deque


class Faulty:
    """Failure injection: each method passes `_enter` first."""

    def __init__(self) -> None:
        self._faults: defaultdict[str, deque[Exception]] = defaultdict(deque)
        self._gates: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []

    def fail_next(self, method: str, error: Exception, times: int = 1) -> None:
        """Let the next `times` calls of `method` raise `error`."""
        assert callable(getattr(self, method)), method
        self._faults[method].extend([error] * times)

    def hold(self, method: str) -> asyncio.Event:
        """Let calls of `method` wait until the event is set."""
        assert callable(getattr(self, method)), method
        return self._gates.setdefault(method, asyncio.Event())

    def heal(self) -> None:
        """Forget the failures that have not happened yet."""
        self._faults.clear()

    async def _enter(self, method: str) -> None:
        await asyncio.sleep(0)
        self.calls.append(method)
        if method in self._gates:
            await self._gates[method].wait()
        if self._faults[method]:
            raise self._faults[method].popleft()
