"""The `ovs` package's poller on asyncio: what an IDL waits for becomes readers and timers of the event loop.

For `ovsdb_client`. One instance serves one wait; nothing is polled and nothing wakes up while the database is idle.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

POLLIN = 0x001
POLLOUT = 0x004
"""Event bits as in poll(2) and in `ovs.poller`."""


class AsyncPoller:
    """Collects what to wait for (the interface that `Idl.wait` calls), then waits for it once."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        self._timeout_ms: float | None = None

    def fd_wait(self, fd: object, events: int) -> None:
        """Wait for `events` on a file descriptor, or on an object that has a `fileno()`."""
        number = fd if isinstance(fd, int) else _fileno(fd)
        self._events[number] = self._events.get(number, 0) | events

    def timer_wait(self, msec: int) -> None:
        """Wait for `msec` milliseconds at most."""
        self._timeout_ms = msec if self._timeout_ms is None else min(msec, self._timeout_ms)

    def timer_wait_until(self, msec: int) -> None:
        """Wait until `ovs.timeval.msec()`, which is the monotonic clock in milliseconds, reaches `msec`."""
        self.timer_wait(max(0, int(msec - time.monotonic() * 1000)))

    def immediate_wake(self) -> None:
        """Do not wait at all."""
        self._timeout_ms = 0

    async def block(self, wake: asyncio.Event) -> None:
        """Wait for the first of everything collected and of `wake`, which is clear afterwards."""
        loop = asyncio.get_running_loop()
        undo: list[Callable[[], object]] = []
        for fd, events in self._events.items():
            if events & ~POLLOUT:
                loop.add_reader(fd, wake.set)
                undo.append(partial(loop.remove_reader, fd))
            if events & POLLOUT:
                loop.add_writer(fd, wake.set)
                undo.append(partial(loop.remove_writer, fd))
        if self._timeout_ms is not None:
            undo.append(loop.call_later(self._timeout_ms / 1000, wake.set).cancel)
        try:
            await wake.wait()
        finally:
            for step in undo:
                step()
            wake.clear()


def _fileno(thing: object) -> int:
    fileno = getattr(thing, "fileno", None)
    if not callable(fileno):
        raise TypeError(f"{thing!r} is no file descriptor and has no fileno()")
    number = fileno()
    if not isinstance(number, int):
        raise TypeError(f"fileno() of {thing!r} returned {number!r}")
    return number
