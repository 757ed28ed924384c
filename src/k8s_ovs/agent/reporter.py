"""What this node has applied of the tenants that change, told once no packet is handled by what was before.

The reconciler says what the bridge holds for certain (`confirm`) and when nobody knows any more (`doubt`); `run` waits
for the switch's datapath to settle, beside the reconciler's commits and not in their way, and tells the controller.
It changes nothing on the switch and never talks to etcd itself. Level-triggered: what counts is the last `confirm`;
how many steps came before it makes no difference.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from k8s_ovs.errors import DataplaneError
from k8s_ovs.model.types import AgentReport, HostSubnet, StillUsed, Tenant
from k8s_ovs.model.view import NodeView

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.2, 5.0
"""Seconds until a switch that could not settle is asked again: doubled from the first to the most."""


def still_used(lost: Iterable[HostSubnet | Tenant], view: NodeView) -> StillUsed:
    """What of the records that the store has lost this node has a use for."""
    if not (records := list(lost)) or view.local is None:
        return StillUsed()
    here = {attachment.namespace for attachment in view.state.attachments.values()}
    own = any(isinstance(one, HostSubnet) and one.host_ip == view.local.host_ip for one in records)
    tenants = {one.name: one.vni for one in records if isinstance(one, Tenant) and one.name in here}
    return StillUsed(view.local.subnet if own else None, tenants)


class TenantReporter:
    """Tells `tell` what is true of this node. `settle` is `FlowTable.settle`.

    The first report is told after the first `confirm`. Should the bridge come into doubt later (a commit failed, the
    switch was restarted), what was reported as applied is withdrawn until it is certain again.
    """

    def __init__(self, settle: Callable[[], Awaitable[None]], tell: Callable[[AgentReport], None]) -> None:
        self.observe_settle: Callable[[float], None] = lambda seconds: None
        self._settle = settle
        self._tell = tell
        self._confirmed: AgentReport | None = None
        self._revision = 0
        self._settled = -1
        self._doubts = 0
        self._told: AgentReport | None = None
        self._wake = asyncio.Event()

    def confirm(self, report: AgentReport, revision: int) -> None:
        """The switch has confirmed everything that `report` says, and nothing is in doubt.

        `revision` grows with every change of what the bridge holds: a report that needed no change needs no waiting.
        """
        self._confirmed, self._revision = report, revision
        if report != self._told:
            self._wake.set()

    def doubt(self) -> None:
        """Nobody knows what the bridge holds until the next `confirm`."""
        self._doubts += 1
        self._confirmed = None
        if self._told is not None and self._told.applied:
            self._say(replace(self._told, applied={}))

    async def run(self) -> None:
        """Report until cancelled. A switch that cannot settle is asked again: nothing is reported unseen."""
        pause = RETRY_FIRST
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._report()
                pause = RETRY_FIRST
            except DataplaneError as err:
                log.warning("the steps of tenants that change are not reported yet: %s", err)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                self._wake.set()
                pause = min(2 * pause, RETRY_MOST)

    async def _report(self) -> None:
        """Tell what is confirmed, once it has settled; news that came meanwhile stay for the next time."""
        report, revision, doubts = self._confirmed, self._revision, self._doubts
        if report is None or report == self._told:
            return
        known = self._told.applied if self._told is not None else {}
        if self._settled < revision and not report.applied.items() <= known.items():
            began = monotonic()
            await self._settle()
            self.observe_settle(monotonic() - began)
            if doubts != self._doubts:
                return  # the next `confirm` wakes us
            self._settled = revision
        self._say(report)
        if self._confirmed != report:
            self._wake.set()

    def _say(self, report: AgentReport) -> None:
        self._told = report
        self._tell(report)
        if report.applied:
            log.debug("applied: %s", ", ".join(f"{name} {step}" for name, step in report.applied.items()))
