"""Steps that can be undone: what was done before a failure or cancellation is undone in reverse order.

For the agent's pods. It knows nothing of networks.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, also when the caller is cancelled meanwhile; the cancellation comes out afterwards.

    For work that has to be either done or not done (a netlink exchange in a thread, an OVSDB transaction on its
    way): after a cancellation in the middle nobody could say which. Its length has to be bounded by itself.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})  # unlike awaiting the task, a cancellation here does not reach it
        except asyncio.CancelledError as err:
            cancelled = err
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failure := task.exception()) is not None:
        log.warning("cancelled, and failed as well: %s", failure)
    raise cancelled


class Steps:
    """An async context in which each step says beforehand how to undo it.

    `on_failure` is called before its step, because a step that fails or is cancelled may have done part of its work;
    so every undo must bear that there is nothing to undo. Undoing goes on past failures, which are logged and added
    to the exception as notes; the exception itself passes on.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._undo: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    def on_failure(self, name: str, undo: Callable[[], Awaitable[None]]) -> None:
        """Have `undo` called if this or a later step does not succeed; `name` says what it does ("delete veth")."""
        self._undo.append((name, undo))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await whole(self._unwind(error))

    async def _unwind(self, error: BaseException) -> None:
        while self._undo:
            name, undo = self._undo.pop()
            try:
                await undo()
            except Exception as err:  # whatever it is, the steps before it still have to be undone
                log.exception("%s: could not undo: %s", self._what, name)
                error.add_note(f"could not undo: {name}: {err}")
