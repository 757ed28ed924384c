"""Lead while holding a Lease. (Skeleton: signatures are final.)"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds: how long others wait for a silent holder, when a holder gives up by itself, how often it renews."""

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0


def unique_identity(hostname: str) -> str:
    """`hostname_RANDOM`: an identity that no other process and no earlier run has."""
    raise NotImplementedError


class LeaseElection:
    """One candidate for one Lease."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        timing: LeaseTiming = LeaseTiming(),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None: ...

    @property
    def is_leader(self) -> bool:
        """Whether this candidate holds the lease at this moment, by its own monotonic clock."""
        raise NotImplementedError

    @property
    def holder(self) -> str:
        """Identity of whoever was last seen to hold the lease; empty if nobody."""
        raise NotImplementedError

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Campaign, call `lead` while holding the lease, cancel it at once on loss, campaign again.

        Returns when `lead` returns. What `lead` raises comes out as it is (single exception, not a group). The lease is
        released (holderIdentity "") whenever `lead` has ended and when this is cancelled.
        """
        raise NotImplementedError
