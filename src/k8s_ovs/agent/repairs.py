"""What somebody changed behind our back, and has been put right: counted, logged, and told in Events of the Node.

    writer, FirewallKeeper, PortKeeper ──> Repairs ──> metric k8s_ovs_repairs_total, log, Event

Those who repair decide whether a difference was somebody's doing; this module never asks. Telling the API server takes
place in a task of its own, and nobody waits for it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from k8s_ovs.dataplane.findings import Finding, Kind, joined
from k8s_ovs.errors import RecordError, SourceError
from k8s_ovs.runtime.backoff import Backoff
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import ObjectReference

log = logging.getLogger(__name__)

EVENT_REASON = "RepairedBehindOurBack"
PORT_REASON = "PodPortNotRestored"

Tell = Callable[[str, str], Awaitable[None]]
"""Makes an Event of the Node: reason and message. Raises SourceError."""


@dataclass(frozen=True, slots=True)
class NodeEvents:
    """`Tell` on the real API: Events of the Node `hostname`."""

    client: KubeClient
    hostname: str

    async def __call__(self, reason: str, message: str) -> None:
        """Make a Warning."""
        # `kubectl describe node` looks for Events whose uid is the Node's name, as the kubelet writes them.
        about = ObjectReference(kind="Node", name=self.hostname, uid=self.hostname, api_version="v1")
        await self.client.create_event(about, reason, message, warning=True)


class Repairs:
    """Remembers what was repaired. `tell` None: nobody to tell (a host without Kubernetes); `run` is a task then too.

    At most one Event every `pace` seconds; what is repaired meanwhile is told together, one Event of a kind.
    """

    def __init__(self, tell: Tell | None = None, pace: float = 1.0) -> None:
        self.counts: Counter[Kind] = Counter()
        self._tell = tell
        self._pace = pace
        self._untold: dict[Kind, Finding] = {}
        self._complaints: dict[str, None] = {}
        self._news = asyncio.Event()

    def note(self, findings: Iterable[Finding]) -> None:
        """These were otherwise than they should be, by somebody else's doing, and are right again."""
        for finding in joined(findings):
            log.warning("repaired what was changed behind our back: %s", finding)
            self.counts[finding.kind] += finding.count
            earlier = self._untold.get(finding.kind)
            self._untold[finding.kind] = finding if earlier is None else earlier.with_more(finding)
            self._news.set()

    def complain(self, message: str) -> None:
        """Tell of what cannot be repaired: somebody has to do something."""
        log.error("%s", message)
        self._complaints[message] = None
        self._news.set()

    async def run(self) -> None:
        """Make Events of what is new, until cancelled. What the API server cannot take now is told once it can."""
        backoff = Backoff(base=2 * self._pace, cap=30.0, floor=self._pace)
        trouble = ""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._tell is not None and (self._untold or self._complaints):
                pause = self._pace
                try:
                    await self._tell_next(self._tell)
                except RecordError as err:
                    log.warning("no Event: %s", err)
                except SourceError as err:
                    if str(err) != trouble:
                        log.warning("no Event yet: %s", err)
                    trouble, pause = str(err), backoff.next()
                else:
                    trouble = ""
                    backoff.reset()
                await asyncio.sleep(pause)

    async def _tell_next(self, tell: Tell) -> None:
        """Make one Event. What could not be told stays to be told: together with what has come meanwhile. SourceError."""
        if self._complaints:
            message = next(iter(self._complaints))
            try:
                await tell(PORT_REASON, message)
            except RecordError:
                del self._complaints[message]
                raise
            self._complaints.pop(message, None)
            return
        kind = next(iter(self._untold))
        finding = self._untold.pop(kind)
        try:
            await tell(EVENT_REASON, f"repaired what was changed behind our back: {finding}")
        except SourceError:
            later = self._untold.get(kind)
            self._untold[kind] = finding if later is None else finding.with_more(later)
            raise
