"""Hears when somebody changes the host's own leg in the pod network, so that it is put right at once.

For the reconciler, which does the looking: this module only says when. Changes of our own are heard too; they cost one
look, which finds nothing.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from k8s_ovs.dataplane.bridge import HostNetwork
from k8s_ovs.errors import LinkError

log = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds from the first news to the look: a change is several messages, and a dying switch says so itself meanwhile."""
REST = 1.0
"""Seconds between two looks at least: who changes the gateway all the time gets no hot loop, nor a flood of Events."""


class GatewayWatch:
    """Whether the interface `ifname` has to be looked at; `wake` is called when that becomes so. `run` is a task."""

    def __init__(self, host: HostNetwork, ifname: str, wake: Callable[[], None]) -> None:
        self._host = host
        self._ifname = ifname
        self._wake = wake
        self._due = False

    def take(self) -> bool:
        """Whether a look is due; it is not any more then."""
        due, self._due = self._due, False
        return due

    async def run(self) -> None:
        """Until cancelled. Where the kernel cannot be heard, the comparison once a period is left."""
        try:
            async with aclosing(self._host.changes(self._ifname)) as changes:
                async for _ in changes:
                    await asyncio.sleep(PAUSE)
                    self._due = True
                    self._wake()
                    await asyncio.sleep(REST - PAUSE)
        except (LinkError, OSError) as err:
            log.warning("changes of %s are seen once a period only: %s", self._ifname, err)
