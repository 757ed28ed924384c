"""Ports of pods that somebody has removed from the bridge, and their leases with them: written again.

    reconciler (a lease that nobody withdrew is gone) ──> LostPorts ──> PortKeeper ──> switch, reconciler

The Interface row is the lease, so whoever deletes a pod's port deletes its address too. While the agent lives it knows
both, and the pod's veth still exists: port, lease and flows come back. Until then the address stays taken. A pod whose
veth is gone has no network to come back to; it is forgotten.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from k8s_ovs.agent.attaching import PodParts
from k8s_ovs.agent.steps import whole
from k8s_ovs.cni.locks import KeyedLocks
from k8s_ovs.dataplane.findings import Kind, found
from k8s_ovs.errors import CniError, DataplaneError
from k8s_ovs.model.types import Attachment
from k8s_ovs.runtime.backoff import Backoff

log = logging.getLogger(__name__)

SIDE_BY_SIDE = 20
"""Ports that are written at the same time: they share transactions and bundles."""


class PortKeeper:
    """Writes lost ports again. `run` is a task; `locks` are those of ADD and DEL."""

    def __init__(self, parts: PodParts, locks: KeyedLocks[str]) -> None:
        self._parts = parts
        self._locks = locks

    async def run(self) -> None:
        """Until cancelled; what fails is tried again with growing pauses."""
        lost = self._parts.lost
        backoff = Backoff(cap=5.0, floor=0.05)
        while True:
            await lost.wait()
            if await self._round():
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())
                lost.again()

    async def keep_up(self, period: float) -> None:
        """Until cancelled, look every `period` seconds whether somebody has set a pod's veth down."""
        while True:
            await asyncio.sleep(period)
            try:
                if findings := await self._parts.links.keep_up():
                    self._parts.on_repair(findings)
            except DataplaneError as err:
                log.warning("pods' veths cannot be looked at: %s", err)

    async def _round(self) -> bool:
        """Whether every port that was lost is back, or forgotten."""
        try:
            links = set(await self._parts.links.leftovers())
        except DataplaneError as err:
            log.warning("lost ports cannot be restored now: %s", err)
            return False
        room = asyncio.Semaphore(SIDE_BY_SIDE)
        return all(await asyncio.gather(*(self._restore(each, links, room) for each in self._parts.lost)))

    async def _restore(self, lease: Attachment, links: Iterable[str], room: asyncio.Semaphore) -> bool:
        """Whether nothing has to be done any more."""
        lost, pod = self._parts.lost, f"pod {lease.namespace}/{lease.pod}"
        async with room, self._locks.hold(lease.host_ifname):
            if lease not in lost:
                return True  # an ADD or DEL was faster
            if lease.host_ifname not in links:
                log.info("%s: port %s is gone, and so is its veth", pod, lease.host_ifname)
                lost.forget(lease.key)
                return True
            try:
                written = await whole(self._parts.switch.add_port(replace(lease, ofport=None)))
                name = f"port {lease.host_ifname} of {pod} ({lease.address}): was missing"
                self._parts.on_repair(found(Kind.PORT, [name]))
                await self._parts.installer.install(written)
            except DataplaneError as err:
                log.warning("%s: port %s cannot be restored now: %s", pod, lease.host_ifname, err)
                return lease not in lost
            except CniError as err:
                log.warning("%s: %s", pod, err)
            return True
