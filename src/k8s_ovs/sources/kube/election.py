"""Lead while holding a Kubernetes Lease (coordination.k8s.io/v1), and not a moment longer.

Used by the controller. It decides who works, and is not what makes two workers harmless: that is the store's compare.

The rules, which any client-go candidate for the same Lease follows too: who renews within `renew_deadline`, by its own
monotonic clock, leads. Others take over when they have seen no change of the Lease for `lease_duration` by *their* monotonic
clock. As renew_deadline < lease_duration, nobody needs to believe anybody's calendar; the times in the Lease are for people.
"""

import asyncio
import logging
import math
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from k8s_ovs.errors import ConfigError, KubeConflict, KubeError, RecordError
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock
from k8s_ovs.sources.kube.lease import LeaseApi, LeaseLost, LeaseRecord

RELEASE_SECONDS = 0.5
"""How long the release may take at the end: SIGTERM is answered within a second."""
SPREAD = 1.2
"""Candidates try every retry_period times 1 to this, so that they do not keep meeting."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds: how long others wait for a silent holder, when a holder gives up by itself, how often it renews."""

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease_duration > self.renew_deadline > self.retry_period * SPREAD > 0:
            raise ConfigError(
                f"lease timing {self.lease_duration}/{self.renew_deadline}/{self.retry_period} s cannot keep two from leading",
                remedy=f"lease duration > renew deadline > {SPREAD} x retry period > 0",
            )

    @property
    def request(self) -> float:
        """How long one exchange with the API may take: a hung connection leaves time for another."""
        return self.renew_deadline / 2


def unique_identity(hostname: str) -> str:
    """`hostname_RANDOM`: an identity that no other process and no earlier run has."""
    return f"{hostname}_{secrets.token_hex(4)}"


class LeaseElection:
    """One candidate for one Lease. `identity` has to be this process's alone (see unique_identity)."""

    def __init__(
        self,
        client: LeaseApi,
        namespace: str,
        name: str,
        identity: str,
        timing: LeaseTiming = LeaseTiming(),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._record = LeaseRecord(client, (namespace, name), identity, timing.lease_duration, clock)
        self._identity = identity
        self._timing = timing
        self._clock = clock
        self._renewed: float | None = None
        self._complaint = ""

    @property
    def is_leader(self) -> bool:
        """Whether this candidate holds the lease at this moment, by its own monotonic clock."""
        return (
            self._renewed is not None
            and self._clock.monotonic() < self._renewed + self._timing.renew_deadline
        )

    @property
    def holder(self) -> str:
        """Identity of whoever was last seen to hold the lease; empty if nobody."""
        return self._record.holder

    @property
    def trouble(self) -> str:
        """Why the lease could not be read or written the last time; empty if it could."""
        return self._complaint

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Campaign, call `lead` while holding the lease, cancel it at once on loss, campaign again.

        Returns when `lead` returns. What `lead` raises comes out as it is. The lease is released (holderIdentity "")
        when `lead` has ended, also when this is cancelled; never before.
        """
        finished = False
        while not finished:
            await self._acquire()
            log.info("%s leads (%s)", self._identity, self._record)
            try:
                finished = await self._reign(lead)
            finally:
                await self._release()

    async def _reign(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Run `lead` until it ends (True) or the lease is lost (False)."""
        ended = False

        async def leading() -> None:
            nonlocal ended
            await lead()
            ended = True

        try:
            async with asyncio.TaskGroup() as group:
                keepers = (
                    group.create_task(self._keep(), name="lease: renew"),
                    group.create_task(self._guard(), name="lease: deadline"),
                )
                leader = group.create_task(leading(), name="lease: lead")
                await asyncio.wait((leader,))
                for keeper in keepers:
                    keeper.cancel()
        except BaseExceptionGroup as errors:
            lost, others = errors.split(LeaseLost)
            if others is not None:
                raise others.exceptions[0] if len(others.exceptions) == 1 else others from None
            log.warning("%s leads no more: %s", self._identity, lost.exceptions[0] if lost else errors)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # Lost and cancelled in the same moment: a TaskGroup of Python 3.11 forgets the second.
                raise asyncio.CancelledError from None
        return ended

    async def _guard(self) -> None:
        """Give up when the lease has not been renewed for renew_deadline, whatever the requests are doing."""
        while True:
            renewed = self._renewed if self._renewed is not None else -math.inf
            left = renewed + self._timing.renew_deadline - self._clock.monotonic()
            if left <= 0:
                self._renewed = None
                raise LeaseLost(f"the lease could not be renewed for {self._timing.renew_deadline:g} s")
            await self._clock.sleep(left)

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._timing.retry_period)
            try:
                async with self._clock.timeout(self._timing.request):
                    self._hold(await self._record.renew())
            except LeaseLost:
                self._renewed = None
                raise
            except (KubeError, RecordError, TimeoutError) as err:
                self._complain("not renewed", err)

    async def _acquire(self) -> None:
        while True:
            try:
                async with self._clock.timeout(self._timing.request):
                    since = await self._record.take()
                self._complaint = ""
                if since is not None:
                    self._hold(since)
                    return
            except KubeConflict as err:
                log.debug("%s: another candidate was faster: %s", self._record, err)
            except (KubeError, RecordError, TimeoutError) as err:
                self._complain("cannot be had", err)
            await self._clock.sleep(self._timing.retry_period * random.uniform(1.0, SPREAD))  # noqa: S311 - no secret

    async def _release(self) -> None:
        self._renewed = None
        try:
            async with self._clock.timeout(RELEASE_SECONDS):
                await self._record.release()
        except (KubeError, RecordError, TimeoutError) as err:
            self._complain("not released", err)

    def _hold(self, since: float) -> None:
        self._renewed = since
        self._complaint = ""

    def _complain(self, what: str, err: Exception) -> None:
        """Log a failure; as a warning only once while it stays the same."""
        complaint = f"{self._record} {what}: {str(err) or 'no answer in time'}"
        log.log(logging.DEBUG if complaint == self._complaint else logging.WARNING, "%s", complaint)
        self._complaint = complaint
