"""One lock per key, for as long as somebody holds or awaits it.

The CNI server uses it to serve the requests for one sandbox in order, the agent's pods to keep two changes of
one attachment apart. It never keeps a key that nobody uses, so it cannot grow with the pods that have come
and gone.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Entry:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class KeyedLocks(Generic[K]):
    """Mutual exclusion by key. Waiters get the lock in the order of asking (asyncio.Lock is fair)."""

    def __init__(self) -> None:
        self._entries: dict[K, _Entry] = {}

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Hold the lock of `key` for the block."""
        entry = self._entries.setdefault(key, _Entry())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if entry.users == 0:
                del self._entries[key]

    def __contains__(self, key: object) -> bool:
        """Whether somebody holds the lock of `key` or waits for it."""
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
