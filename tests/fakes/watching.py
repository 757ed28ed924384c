"""Reads a Store's watch in a test: batches are collected by a task and waited for with a deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from k8s_ovs.model.events import Event, Source, Synced
from k8s_ovs.sources.store import Store

DEADLINE = 30.0


class Watching:
    """What a watch has told so far: `batches` as they came, `events` without the Synced ones."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Event]] = []
        self._news = asyncio.Condition()

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch if not isinstance(event, Synced)]

    @property
    def synced(self) -> set[Source]:
        return {event.source for batch in self.batches for event in batch if isinstance(event, Synced)}

    async def until(self, done: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
        """Wait for batches until `done()`; AssertionError that shows the events otherwise."""
        try:
            async with asyncio.timeout(deadline), self._news:
                await self._news.wait_for(done)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {deadline} s; told: {self.events[-10:]}") from None

    async def until_synced(self) -> None:
        await self.until(lambda: len(self.synced) == 2, "synced")

    async def count(self, number: int) -> list[Event]:
        """Wait until at least `number` events were told, and return all."""
        await self.until(lambda: len(self.events) >= number, f"{number} events")
        return self.events

    async def read(self, watch: AsyncIterator[Sequence[Event]]) -> None:
        async for batch in watch:
            async with self._news:
                self.batches.append(batch)
                self._news.notify_all()


@asynccontextmanager
async def watching(store: Store) -> AsyncIterator[Watching]:
    """Watch `store` as long as the context; an error that ends the watch is raised here."""
    seen = Watching()
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(seen.read(store.watch()), name="watching")
        yield seen
        reader.cancel()


async def until(condition: Callable[[], bool], what: str = "condition", deadline: float = DEADLINE) -> None:
    """Look again and again, letting others run, until `condition()`; AssertionError after `deadline` seconds."""
    try:
        async with asyncio.timeout(deadline):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {deadline} s") from None
