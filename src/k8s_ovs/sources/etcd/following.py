"""Follows a range of keys for as long as anybody listens, over every outage. The store's watches run on it.

What one connection tells is `rangewatch`'s; here is what happens between two of them.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing

from k8s_ovs.errors import EtcdCompacted, EtcdDenied, EtcdError
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.connection import Connection
from k8s_ovs.sources.etcd.rangewatch import Batch, Listing, RangeWatch

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds between two attempts to reach any endpoint: doubled from the first to the most, with jitter."""


SETTLED_SECONDS = 5.0
"""A connection that told less long than this counts as a failure: no server that dies young can make us busy."""


class Following:
    """One listener's news of the keys that start with what `prefix` returns.

    `failed` and `recovered` hear of every outage and of every sign of life.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: Callable[[], Awaitable[str]],
        failed: Callable[[EtcdError], None] = lambda error: None,
        recovered: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._failed = failed
        self._recovered = recovered

    async def news(self) -> AsyncGenerator[Listing | Batch, None]:
        """Without end. Raises EtcdDenied before anything was told, and what `prefix` raises but EtcdUnavailable."""
        watch: RangeWatch | None = None
        told = False
        pauses = retry_pauses()
        clock = asyncio.get_running_loop().time
        while True:
            connection: Connection | None = None
            since: float | None = None
            try:
                connection = await self._client.connection()
                watch = watch or RangeWatch(self._client, await self._prefix())
                async with aclosing(watch.follow(connection)) as source:
                    async for news in source:
                        self._recovered()
                        since = since or clock()
                        told = True
                        yield news
            except EtcdCompacted as err:
                logger.info("%s: reading everything anew", err)
                continue
            except EtcdError as err:
                if isinstance(err, EtcdDenied) and not told:
                    raise
                self._client.drop(connection)
                self._failed(err)
            if since is not None and clock() - since >= SETTLED_SECONDS:
                pauses = retry_pauses()
            await asyncio.sleep(next(pauses))


def retry_pauses() -> Iterator[float]:
    """Seconds to wait after one failure, after the next, and so on."""
    pause = RETRY_FIRST
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        pause = min(2 * pause, RETRY_MOST)
