"""Has conntrack forget the UDP endpoints that have gone, beside the task that owns the bridge.

The writer says who has gone once no flow leads there (`note`); `run` does the rest. It is a task of its own because the
switch looks through all its connections for each endpoint: a tenant that opens very many of them, and whose endpoints come and
go, must not keep anybody's pods waiting. It changes no flow, and never decides who has gone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address

from k8s_ovs.errors import OpenFlowError

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.2, 10.0
"""Seconds until what could not be forgotten is tried again: doubled from the first to the most."""

Gone = tuple[IPv4Address, int, int]
"""Address, IP protocol and port."""


class Forgetter:
    """`forget` is `FlowTable.forget`."""

    def __init__(self, forget: Callable[[Iterable[Gone]], Awaitable[None]]) -> None:
        self._forget = forget
        self._wanted: set[Gone] = set()
        self._news = asyncio.Event()

    def note(self, gone: Iterable[Gone]) -> None:
        """No flow leads to these any more."""
        self._wanted.update(gone)
        if self._wanted:
            self._news.set()

    async def run(self) -> None:
        """Until cancelled. What fails holds up nobody: what the flows say is right already, and it is tried again."""
        pause = RETRY_FIRST
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._wanted = self._wanted, set()
            try:
                await self._forget(sorted(batch))
                pause = RETRY_FIRST
            except OpenFlowError as err:
                log.warning("clients of Services may go on sending to endpoints that have gone: %s", err)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST)
                self.note(batch)
