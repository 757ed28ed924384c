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
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from k8s_ovs.errors import ConfigError, KubeConflict, KubeError, KubeNotFound, RecordError
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock
from k8s_ovs.sources.kube.objects import LEASES, Lease, LeaseSpec, ObjectMeta, Resource, T

RELEASE_SECONDS = 0.5
"""How long the release may take at the end: SIGTERM is answered within a second."""
SPREAD = 1.2
"""Candidates try every retry_period times 1 to this, so that they do not keep meeting."""

log = logging.getLogger(__name__)


class LeaseApi(Protocol):
    """What an election needs of a KubeClient."""

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """Raises KubeNotFound."""

    async def create(self, resource: Resource[T], obj: T) -> T:
        """Raises KubeConflict if it exists."""

    async def update(self, resource: Resource[T], obj: T) -> T:
        """Raises KubeConflict if it changed since metadata.resource_version."""


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


class _LeaseLost(Exception):
    """Not the leader any more; the text says why."""


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
        self._api = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing
        self._clock = clock
        self._lease: Lease | None = None
        self._observed: LeaseSpec | None = None
        self._observed_at = 0.0
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
        return (self._observed.holder_identity or "") if self._observed else ""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Campaign, call `lead` while holding the lease, cancel it at once on loss, campaign again.

        Returns when `lead` returns. What `lead` raises comes out as it is. The lease is released (holderIdentity "")
        when `lead` has ended, also when this is cancelled; never before.
        """
        finished = False
        while not finished:
            await self._acquire()
            log.info("%s leads (lease %s/%s)", self._identity, self._namespace, self._name)
            try:
                finished = await self._reign(lead)
            finally:
                self._renewed = None
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
            lost, others = errors.split(_LeaseLost)
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
                raise self._lost(f"the lease could not be renewed for {self._timing.renew_deadline:g} s")
            await self._clock.sleep(left)

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._timing.retry_period)
            try:
                async with self._clock.timeout(self._timing.request):
                    await self._renew()
            except (KubeError, RecordError, TimeoutError) as err:
                log.warning(
                    "lease %s/%s not renewed: %s", self._namespace, self._name, err or "no answer in time"
                )

    async def _renew(self) -> None:
        if self._lease is None:
            raise self._lost("there is no lease")
        try:
            await self._write(self._lease)
        except KubeNotFound as err:
            raise self._lost("the lease was deleted") from err
        except KubeConflict:
            # Changed by somebody: by another holder, by an annotation, or by our own write whose answer was lost.
            try:
                current = await self._api.get(LEASES, self._name, self._namespace)
            except KubeNotFound as err:
                raise self._lost("the lease was deleted") from err
            self._observe(current)
            if current.spec.holder_identity != self._identity:
                raise self._lost(f"{current.spec.holder_identity or 'nobody'} holds the lease now") from None
            await self._write(current)

    def _lost(self, reason: str) -> _LeaseLost:
        self._renewed = None
        return _LeaseLost(reason)

    async def _acquire(self) -> None:
        while True:
            try:
                async with self._clock.timeout(self._timing.request):
                    if await self._try():
                        return
            except KubeConflict as err:
                log.debug("lease %s/%s: another candidate was faster: %s", self._namespace, self._name, err)
            except (KubeError, RecordError, TimeoutError) as err:
                log.warning(
                    "lease %s/%s cannot be had: %s", self._namespace, self._name, err or "no answer in time"
                )
            await self._clock.sleep(self._timing.retry_period * random.uniform(1.0, SPREAD))  # noqa: S311 - no secret

    async def _try(self) -> bool:
        """Take the lease if it is free. Raises KubeConflict if somebody was faster."""
        try:
            lease = await self._api.get(LEASES, self._name, self._namespace)
        except KubeNotFound:
            lease = Lease(metadata=ObjectMeta(name=self._name, namespace=self._namespace))
        else:
            self._observe(lease)
            if not self._is_free(lease.spec):
                return False
        await self._write(lease)
        return True

    def _is_free(self, spec: LeaseSpec) -> bool:
        if not spec.holder_identity or spec.holder_identity == self._identity:
            return True
        duration = spec.lease_duration_seconds or self._timing.lease_duration
        return self._clock.monotonic() >= self._observed_at + duration

    def _observe(self, lease: Lease) -> None:
        if lease.spec != self._observed:
            self._observed = lease.spec
            self._observed_at = self._clock.monotonic()

    async def _write(self, lease: Lease) -> None:
        """Make the lease ours, on top of `lease` as it was read. It counts from when the request left."""
        before = self._clock.monotonic()
        now = micro_time(self._clock.now())
        old = lease.spec
        kept = old.holder_identity == self._identity
        taken = bool(lease.metadata.resource_version) and not kept
        new = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, math.ceil(self._timing.lease_duration)),
            acquire_time=old.acquire_time if kept and old.acquire_time else now,
            renew_time=now,
            lease_transitions=(old.lease_transitions or 0) + int(taken),
        )
        changed = msgspec.structs.replace(lease, spec=new)
        write = self._api.update if lease.metadata.resource_version else self._api.create
        self._lease = await write(LEASES, changed)
        self._observe(self._lease)
        self._renewed = before
        self._complaint = ""

    async def _release(self) -> None:
        """Let the next one in without waiting, if the lease is still ours."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            async with self._clock.timeout(RELEASE_SECONDS):
                try:
                    await self._free(lease)
                except KubeConflict:
                    # Perhaps by our own last renewal, whose answer we did not wait for.
                    await self._free(await self._api.get(LEASES, self._name, self._namespace))
        except (KubeError, RecordError, TimeoutError) as err:
            log.warning(
                "lease %s/%s not released: %s", self._namespace, self._name, err or "no answer in time"
            )

    async def _free(self, lease: Lease) -> None:
        if lease.spec.holder_identity != self._identity:
            return
        # One second is the shortest duration that the API accepts.
        now = micro_time(self._clock.now())
        free = msgspec.structs.replace(
            lease.spec, holder_identity="", lease_duration_seconds=1, acquire_time=now, renew_time=now
        )
        self._observe(await self._api.update(LEASES, msgspec.structs.replace(lease, spec=free)))

    def _complain(self, what: str, err: Exception) -> None:
        """Log a failure; as a warning only once while it stays the same."""
        complaint = f"lease {self._namespace}/{self._name} {what}: {str(err) or 'no answer in time'}"
        log.log(logging.DEBUG if complaint == self._complaint else logging.WARNING, "%s", complaint)
        self._complaint = complaint


def micro_time(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits of a second, as MicroTime of meta/v1 wants it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
