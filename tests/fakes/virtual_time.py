"""An event loop whose clock jumps to the next timer when nothing else is to be done: a minute of retries costs nothing.

For tests of timers in code that does no real I/O. `virtual_time` makes an async test function run on such a loop; one in
which nothing can ever happen again ends with AssertionError instead of hanging.
"""

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Never waits: the time that it would have waited has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            assert timeout is not None, "every task waits, and nothing can ever happen"
            self.elapsed += max(0.0, timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `time()` begins at 0."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.elapsed


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on a VirtualLoop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async test function run on a VirtualLoop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


async def within(seconds: float, waiting: Awaitable[T]) -> T:
    """The result of `waiting`, which has to come within so many (virtual) seconds."""
    async with asyncio.timeout(seconds):
        return await waiting
