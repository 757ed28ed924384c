"""The Lease of an election as one candidate sees and writes it.

Used by the election only, which decides when to call what. Nothing here waits or retries, except for one second look
after a conflict. Every method raises the client's KubeErrors.
"""

import math
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from k8s_ovs.errors import KubeConflict, KubeNotFound
from k8s_ovs.sources.kube.clock import Clock
from k8s_ovs.sources.kube.objects import LEASES, Lease, LeaseSpec, ObjectMeta, Resource, T

LEASE_NAMESPACE, LEASE_NAME = "kube-system", "k8s-ovs-controller"
"""The Lease that our controllers elect their leader with."""


class LeaseApi(Protocol):
    """What an election needs of a KubeClient."""

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """Raises KubeNotFound."""

    async def create(self, resource: Resource[T], obj: T) -> T:
        """Raises KubeConflict if it exists."""

    async def update(self, resource: Resource[T], obj: T) -> T:
        """Raises KubeConflict if it changed since metadata.resource_version."""


class LeaseLost(Exception):
    """The lease is not ours any more; the text says why."""


class LeaseRecord:
    """One Lease and one candidate for it. `duration` (seconds) is what we write, and assume where a holder wrote none."""

    def __init__(
        self, api: LeaseApi, key: tuple[str, str], identity: str, duration: float, clock: Clock
    ) -> None:
        self._api = api
        self._namespace, self._name = key
        self._identity = identity
        self._duration = duration
        self._clock = clock
        self._lease: Lease | None = None
        self._observed: LeaseSpec | None = None
        self._observed_at = 0.0

    def __str__(self) -> str:
        return f"lease {self._namespace}/{self._name}"

    @property
    def holder(self) -> str:
        """Identity of whoever was last seen to hold the lease; empty if nobody."""
        return (self._observed.holder_identity or "") if self._observed else ""

    async def take(self) -> float | None:
        """Take the lease if it is free: the monotonic moment from which it counts, or None if another holds it.

        Raises KubeConflict if somebody was faster.
        """
        try:
            lease = await self._read()
        except KubeNotFound:
            lease = Lease(metadata=ObjectMeta(name=self._name, namespace=self._namespace))
        else:
            if not self._is_free(lease.spec):
                return None
        return await self._write(lease)

    async def renew(self) -> float:
        """Renew: the monotonic moment from which it counts. Raises LeaseLost if it is not ours any more."""
        if self._lease is None:
            raise LeaseLost("there is no lease")
        try:
            try:
                return await self._write(self._lease)
            except KubeConflict:
                # Changed by somebody: by another holder, by an annotation, or by our own write whose answer was lost.
                current = await self._read()
        except KubeNotFound as err:
            raise LeaseLost("the lease was deleted") from err
        if current.spec.holder_identity != self._identity:
            raise LeaseLost(f"{current.spec.holder_identity or 'nobody'} holds the lease now")
        return await self._write(current)

    async def release(self) -> None:
        """Let the next one in without waiting, if the lease is still ours."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            await self._free(lease)
        except KubeConflict:
            # Perhaps by our own last renewal, whose answer we did not wait for.
            await self._free(await self._read())

    async def _read(self) -> Lease:
        lease = await self._api.get(LEASES, self._name, self._namespace)
        self._observe(lease)
        return lease

    def _is_free(self, spec: LeaseSpec) -> bool:
        if not spec.holder_identity or spec.holder_identity == self._identity:
            return True
        duration = spec.lease_duration_seconds or self._duration
        return self._clock.monotonic() >= self._observed_at + duration

    def _observe(self, lease: Lease) -> None:
        """Note a change by our own clock: the times in the lease are by somebody else's."""
        if lease.spec != self._observed:
            self._observed = lease.spec
            self._observed_at = self._clock.monotonic()

    async def _write(self, lease: Lease) -> float:
        """Make the lease ours, on top of `lease` as it was read. It counts from when the request left."""
        before = self._clock.monotonic()
        now = micro_time(self._clock.now())
        old = lease.spec
        kept = old.holder_identity == self._identity
        taken = bool(lease.metadata.resource_version) and not kept
        new = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, math.ceil(self._duration)),
            acquire_time=old.acquire_time if kept and old.acquire_time else now,
            renew_time=now,
            lease_transitions=(old.lease_transitions or 0) + int(taken),
        )
        changed = msgspec.structs.replace(lease, spec=new)
        write = self._api.update if lease.metadata.resource_version else self._api.create
        self._lease = await write(LEASES, changed)
        self._observe(self._lease)
        return before

    async def _free(self, lease: Lease) -> None:
        if lease.spec.holder_identity != self._identity:
            return
        now = micro_time(self._clock.now())
        # One second is the shortest duration that the API accepts.
        free = msgspec.structs.replace(
            lease.spec, holder_identity="", lease_duration_seconds=1, acquire_time=now, renew_time=now
        )
        self._observe(await self._api.update(LEASES, msgspec.structs.replace(lease, spec=free)))


def micro_time(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits of a second, as MicroTime of meta/v1 wants it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
