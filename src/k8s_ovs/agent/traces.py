"""What is still known of an address that a pod had: forgotten before another pod gets it.

    DEL, collected lease ──> AddressBook ──> AddressCleaner ──> Traces: bridge (conntrack, session affinity), kernel (conntrack)

`AddressBook` says which addresses wait for that and gives out none of them. The cleaning is a task of its own, so that no DEL
and no commit waits for it; an ADD does only if there is no clean address left. It frees no address, and never decides who
may have one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Set
from ipaddress import IPv4Address

from k8s_ovs.dataplane.bridge import FlowTable, HostNetwork
from k8s_ovs.errors import LinkError, OpenFlowError

log = logging.getLogger(__name__)

Forget = Callable[[Set[IPv4Address]], Awaitable[None]]
"""Returns once nothing is known of these addresses. Raises OpenFlowError."""

RETRY_FIRST, RETRY_MOST = 0.2, 10.0
"""Seconds until what could not be cleaned is tried again: doubled from the first to the most."""
REST = 10
"""The task rests so many times as long as it has worked: the switch lists its connections for it, and does nothing else."""


class Traces:
    """What switch and kernel know of addresses."""

    def __init__(self, flows: FlowTable, host: HostNetwork) -> None:
        self._flows = flows
        self._host = host
        self._told = ""

    async def forget(self, addresses: Set[IPv4Address]) -> None:
        """Forget it all. Raises OpenFlowError.

        A kernel that cannot (no nf_conntrack_netlink) is only told of, once: the switch judges every packet by its tenant, and
        a node that could never give an address again would be worse.
        """
        await self._flows.forget_addresses(addresses)
        try:
            count = await self._host.forget_addresses(addresses)
        except LinkError as err:
            if str(err) != self._told:
                log.warning("what the kernel knows of connections of pods that are gone stays: %s", err)
            self._told = str(err)
        else:
            log.debug("forgot %d connections of %d addresses", count, len(addresses))


class AddressCleaner:
    """Knows which addresses have to be cleaned, and has it done."""

    def __init__(self, forget: Forget) -> None:
        self._forget = forget
        self._dirty: set[IPv4Address] = set()
        self._busy = asyncio.Lock()
        self._news = asyncio.Event()

    @property
    def dirty(self) -> Set[IPv4Address]:
        """Those that wait."""
        return self._dirty

    def note(self, addresses: Iterable[IPv4Address]) -> None:
        """Nobody has these any more."""
        before = len(self._dirty)
        self._dirty.update(addresses)
        if len(self._dirty) > before:
            self._news.set()

    async def clean(self) -> None:
        """Return once all that waited when this was called are clean. Raises OpenFlowError."""
        async with self._busy:
            batch = frozenset(self._dirty)
            if batch:
                await self._forget(batch)
                self._dirty -= batch

    async def run(self) -> None:
        """Until cancelled. What fails holds up nobody who finds another address."""
        loop = asyncio.get_running_loop()
        pause = RETRY_FIRST
        while True:
            await self._news.wait()
            self._news.clear()
            begun = loop.time()
            try:
                await self.clean()
                pause = RETRY_FIRST
                await asyncio.sleep(REST * (loop.time() - begun))
            except OpenFlowError as err:
                log.warning("%d addresses are not given again yet: %s", len(self._dirty), err)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST)
                self._news.set()
