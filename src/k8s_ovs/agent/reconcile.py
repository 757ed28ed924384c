"""The one task that owns the bridge: events in, one atomic bundle per commit out.

Sources and the CNI server hand it events (`submit`, `install`, `withdraw`) and await the commit that contains them.
Events that arrive while a commit is under way share the next one. A full synchronisation, which reads the leases anew,
compares with what the switch really holds and sends the difference only, runs at start, after a failed commit, when
the switch says that it may have changed, when this node's own subnet is another, and once a period. When the kernel says
that the gateway has changed, only that is looked at.

Nothing is sent before every source has synced, nor while this node has no subnet: until then the switch keeps the
flows that it has, and traffic goes on. This module never talks to etcd or Kubernetes and never allocates anything.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from k8s_ovs.agent.drift import OnRepair
from k8s_ovs.agent.forgetting import Forgetter
from k8s_ovs.agent.gateway import GatewayWatch
from k8s_ovs.agent.inbox import Inbox
from k8s_ovs.agent.lost import LostPorts
from k8s_ovs.agent.pods import NodeNetwork
from k8s_ovs.agent.reporter import TenantReporter, still_used
from k8s_ovs.agent.schedule import SyncSchedule
from k8s_ovs.agent.writer import (
    RETRY_FIRST,
    RETRY_MOST,
    BridgeWriter,
    Plant,
    ReconcileOptions,
    ReconcileStats,
)
from k8s_ovs.errors import CniError, DataplaneError
from k8s_ovs.model.events import AttachmentGone, AttachmentSet, Event, Source, Synced
from k8s_ovs.model.types import AgentReport, Attachment, AttachmentKey, HostSubnet, Tenant
from k8s_ovs.model.view import LocalHost, LocalPodKey, NodeView, ViewKey

__all__ = ["Plant", "ReconcileOptions", "ReconcileStats", "Reconciler", "Surroundings", "lease_events"]

log = logging.getLogger(__name__)

TRY_AGAIN_LATER = 11
"""CNI specification 1.1, section "Error": well-known error code 11."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the reconciler asks and tells.

    `source_trouble` says why nothing is heard of the cluster's records at the moment, or "": whoever waits for them is
    told that. `host_trouble` says what else of this host keeps it from serving pods, or "". `report` is told what this
    node has applied of the tenants that change, from the first full synchronisation on, and what it uses of the
    `lost_records`, which the store has no more; `on_repair` of what somebody else had changed.
    """

    source_trouble: Callable[[], str] = lambda: ""
    host_trouble: Callable[[], str] = lambda: ""
    report: Callable[[AgentReport], None] = lambda report: None
    on_repair: OnRepair = lambda findings: None
    lost_records: Callable[[], Iterable[HostSubnet | Tenant]] = tuple


class Reconciler:
    """Owns bridge and view of one node. `run` is its task; every other method is called from other tasks."""

    def __init__(
        self,
        hostname: str,
        plant: Plant,
        options: ReconcileOptions,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.view = NodeView(hostname, options.node_ip)
        self._surroundings = surroundings = surroundings or Surroundings()
        self._inbox = Inbox()
        self._hostname = hostname
        self._external = options.external
        self._empty = False
        self._switch = plant.switch
        self.reporter = TenantReporter(plant.flows.settle, surroundings.report)
        self._forgetter = Forgetter(plant.flows.forget)
        self._writer = BridgeWriter(
            plant, options, self.reporter.doubt, self._forgetter.note, surroundings.on_repair
        )
        self._gateway = GatewayWatch(plant.host, options.bridge.gateway, self._inbox.nudge)
        self.stats = self._writer.stats
        self._schedule = SyncSchedule(options.resync_period, RETRY_FIRST, RETRY_MOST)
        self._tenants_changed = asyncio.Condition()
        self._withdrawn: set[AttachmentKey] = set()
        self.lost = LostPorts(self.view.state.attachments.values)
        self._local: LocalHost | None = None
        self._served: LocalHost | None = None
        self._problem = ""
        self._told_problems: set[str] = set()

    # -- called by sources, the CNI server and health checks ---------------------------------------------------------

    async def submit(self, *events: Event) -> None:
        """Apply events and return once the switch has confirmed what follows from them.

        Before every source has synced, it waits for that. Raises DataplaneError if the commit failed, or if this node
        has no subnet (the events stay applied, and a full synchronisation follows by itself).
        """
        await self.post(*events)

    def post(self, *events: Event) -> asyncio.Future[None]:
        """Like `submit`, but returns the future of the commit instead of waiting for it."""
        return self._inbox.post(events)

    def request_sync(self, reason: str) -> None:
        """The switch may have changed: have a full synchronisation before anything else; `reason` goes to the log."""
        self._empty = False
        self._writer.doubt()
        self._schedule.request(reason, _now())
        self._inbox.nudge()

    async def install(self, attachment: Attachment) -> None:
        """Install the pod's flows; returns when the switch has confirmed them.

        Raises DataplaneError, or CniError 11 if the pod may have no flows (its Namespace has lost its NetID meanwhile,
        say): a pod that is told Ready must have a network.
        """
        self._withdrawn.discard(attachment.key)
        self.lost.forget(attachment.key)
        # A switch that was restarted meanwhile may have given the port another number, and has told us so already.
        lease = next((row for row in self._switch.attachments() if row.key == attachment.key), attachment)
        await self.submit(AttachmentSet(lease))
        if self.view.record(LocalPodKey(attachment.key)) is None:
            raise CniError(
                TRY_AGAIN_LATER,
                f"pod {attachment.namespace}/{attachment.pod} can have no flows: {self.view.why_no_flows(attachment.key)}",
            )

    async def withdraw(self, key: AttachmentKey) -> None:
        """Remove the pod's flows, and keep them away until `install` comes again.

        Does not wait while this node is not synchronised, and does not fail when the switch does: a full
        synchronisation without these flows comes before any other pod can get the address.
        """
        self._withdrawn.add(key)
        self.lost.forget(key)
        done = self.post(AttachmentGone(key))
        if self.bridge_trouble():
            return
        try:
            await done
        except DataplaneError as err:
            log.warning(
                "flows of %s/%s stay until the next synchronisation: %s", key.sandbox, key.ifname, err
            )

    def node(self) -> NodeNetwork:
        """What a pod's network needs to know of this node. Raises CniError 11 while that is not known."""
        local = self.view.local
        trouble = self.trouble()
        if local is None or trouble:
            raise CniError(TRY_AGAIN_LATER, f"node {self._hostname} cannot attach pods yet: {trouble}")
        return NodeNetwork(
            subnet=local.subnet,
            gateway=local.gateway,
            network=local.config.network,
            mtu=self._writer.mtu,
            checksum_offload=self._switch.datapath == "system",
        )

    async def wait_tenant(self, namespace: str, deadline: float) -> None:
        """Return once the Namespace's VNI is known. Raises CniError 11 when the loop's clock passes `deadline`."""
        try:
            async with asyncio.timeout_at(deadline), self._tenants_changed:
                await self._tenants_changed.wait_for(lambda: self.view.vni_of(namespace) is not None)
        except TimeoutError:
            raise CniError(
                TRY_AGAIN_LATER,
                f"Namespace {namespace} has no NetID yet{self._why_no_news()}",
                remedy="see that the Namespace exists and that the k8s-ovs controller runs",
            ) from None

    def trouble(self) -> str:
        """Why this node cannot serve pods yet, or "" when it can."""
        return self.bridge_trouble() or self._surroundings.host_trouble()

    def bridge_trouble(self) -> str:
        """Why the bridge is not as it should be, or ""."""
        reasons = "; ".join(filter(None, (self._problem, self._missing())))
        if reasons or self._served == self.view.local:
            return reasons
        return "the bridge has not been synchronised yet"

    # -- the task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the bridge until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_switch(), name="switch")
                tasks.create_task(self._gateway.run(), name="gateway")
                tasks.create_task(self._work(), name="bridge")
                tasks.create_task(self.reporter.run(), name="reporter")
                tasks.create_task(self._forgetter.run(), name="forgetter")
        finally:
            self._inbox.close()

    async def _follow_switch(self) -> None:
        """A switch that may have lost flows, or given other port numbers, gets a full synchronisation."""
        changes = self._switch.changes()
        delay = RETRY_FIRST
        while True:
            try:
                await self._writer.ensure_bridge()
                break
            except DataplaneError as err:
                self._problem = str(err)
                log.warning("the switch is not usable yet: %s", err)
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_MOST)
        self._problem = ""
        self.post(Synced(Source.ATTACHMENTS))
        async for _ in changes:
            self.request_sync("the switch was restarted or changed")

    async def _work(self) -> None:
        while True:
            # While something is missing, only news can help: what is due by time would be due again at once.
            await self._inbox.wait(self._patience())
            await self._apply(self._inbox.take())
            if not self._missing():
                self._empty = False
                await self._bring_about()
                continue
            self._writer.doubt()
            self._schedule.request("something was missing", _now())
            if len(self.view.state.synced) == len(Source):
                self._inbox.fail(DataplaneError(self._missing()))
                await self._leave()

    def _patience(self) -> float | None:
        """Seconds that the task waits for news at most; None: only news can help."""
        if not self._missing():
            return self._schedule.wait(_now())
        synced = len(self.view.state.synced) == len(Source)
        return RETRY_MOST if self._external and synced and not self._empty else None

    async def _leave(self) -> None:
        """An external host whose subnet was taken back, or not given yet, is no part of the network: it keeps no flows."""
        if not self._external or self._empty:
            return
        try:
            await self._writer.clear()
        except DataplaneError as err:
            self._problem = str(err)
            log.error("removing the flows of a host without subnet failed: %s", err)
        else:
            self._empty, self._problem = True, ""
            log.info("%s", self._missing())

    async def _apply(self, events: Iterable[Event]) -> None:
        dirty: set[ViewKey] = set()
        for event in events:
            dirty |= self.view.apply(event)
        self._writer.plan(self.view, dirty)
        async with self._tenants_changed:
            self._tenants_changed.notify_all()

    async def _bring_about(self) -> None:
        """Send what is planned, fully if that is due, and answer those who wait for it."""
        if self._local != self.view.local:
            self._local = self.view.local
            self._writer.doubt()
            self._schedule.request("this node has another subnet", _now())
        failure: DataplaneError | None = None
        try:
            if self._writer.certain:
                await self._writer.commit()
            if reason := self._schedule.due(_now()):
                await self._synchronise(reason)
            elif self._gateway.take() and self._served is not None:
                await self._writer.ensure_host(self._served)
        except DataplaneError as err:
            failure = err
            self.stats.failures += 1
            self._problem = str(err)
            self._schedule.failed(_now())
            log.error("synchronising the bridge failed: %s", err)
        if self._writer.certain and self.view.local is not None:
            self._inbox.confirm()
            used = still_used(self._surroundings.lost_records(), self.view)
            report = AgentReport(self._hostname, self.view.local.host_ip, self.view.steps, used)
            self.reporter.confirm(report, self._writer.revision)
        elif failure is not None:
            self._inbox.fail(failure)

    async def _synchronise(self, reason: str) -> None:
        """Make bridge, flows and gateway as they should be, changing only what differs. Raises DataplaneError.

        The flows come before the gateway: what the host refuses (an address that it does not have, say) must not keep
        pods apart.
        """
        local = self.view.local
        if local is None:
            return
        self._schedule.begin()
        self._gateway.take()
        await self._writer.ensure_bridge()
        self._writer.plan(self.view, self.view.set_sctp(self._switch.datapath == "system"))
        rows = {attachment.key: attachment for attachment in self._switch.attachments()}
        known = self.view.state.attachments
        self.lost.note(known[key] for key in known.keys() - rows.keys() - self._withdrawn)
        self._withdrawn &= rows.keys()
        await self._apply(lease_events(rows, self.view.state.attachments, self._withdrawn))
        await self._writer.replace(reason)
        await self._writer.ensure_host(local)
        self._served = local
        self._problem = ""
        self._schedule.succeeded(_now())
        self._tell_problems()

    def _tell_problems(self) -> None:
        """Records and leases that cannot be used as they are: each once, until it changes."""
        problems = {str(problem) for problem in self.view.problems.values()}
        for problem in sorted(problems - self._told_problems):
            log.warning("%s", problem)
        self._told_problems = problems

    def _missing(self) -> str:
        unsynced = [source.value for source in Source if source not in self.view.state.synced]
        if unsynced:
            return f"waiting for {', '.join(unsynced)}{self._why_no_news()}"
        if self.view.local is None and self._external:
            return (
                f"no host subnet for the external host {self._hostname}: waiting until somebody registers it "
                f"(k8s-ovs subnet assign {self._hostname} IP) and a controller gives it one"
            )
        if self.view.local is None:
            return f"no host subnet for {self._hostname} yet (is the controller running, and the Node registered?)"
        return ""

    def _why_no_news(self) -> str:
        trouble = self._surroundings.source_trouble()
        return f" ({trouble})" if trouble else ""


def lease_events(
    rows: Mapping[AttachmentKey, Attachment],
    known: Mapping[AttachmentKey, Attachment],
    withdrawn: Set[AttachmentKey],
) -> list[Event]:
    """What leads from the attachments that are `known` to the leases in OVSDB, leaving out the withdrawn ones."""
    wanted = {key: row for key, row in rows.items() if key not in withdrawn}
    events: list[Event] = [AttachmentSet(row) for key, row in wanted.items() if known.get(key) != row]
    return events + [AttachmentGone(key) for key in known if key not in wanted]


def _now() -> float:
    """The loop's clock, in seconds."""
    return asyncio.get_running_loop().time()
