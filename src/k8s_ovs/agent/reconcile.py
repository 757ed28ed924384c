"""The one task that owns the bridge: events in, one atomic bundle per commit out.

Sources and the CNI server hand it events (`submit`, `install`, `withdraw`) and await the commit that contains them.
Events that arrive while a commit is under way share the next one. A full synchronisation, which compares with what the
switch really holds and sends the difference only, runs at start, after a failed commit, when the switch says that it
may have changed, and once a period.

Nothing is sent before every source has synced: until then the switch keeps the flows of the agent's previous life, and
traffic goes on. This module never talks to etcd or Kubernetes and never allocates anything.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from time import monotonic

from k8s_ovs.agent.pods import NodeNetwork
from k8s_ovs.config import VXLAN_OVERHEAD
from k8s_ovs.dataplane.bridge import BridgeSpec, FlowTable, GatewaySpec, HostNetwork, Switch
from k8s_ovs.errors import CniError, DataplaneError
from k8s_ovs.flows.diff import FlowMod
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import AttachmentGone, AttachmentSet, Event, Source, Synced
from k8s_ovs.model.types import Attachment, AttachmentKey, mac_of
from k8s_ovs.model.view import LocalHost, NodeView, ViewKey

log = logging.getLogger(__name__)

TRY_AGAIN_LATER = 11
"""CNI specification 1.1, section "Error": well-known error code 11."""

RETRY_FIRST = 0.2
RETRY_MOST = 10.0
"""Seconds until a failed synchronisation is tried again: doubled from the first to the most."""


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """What the operator chose: `mtu` of the pod network (None: the underlay's less VXLAN's 50), `resync_period` in seconds."""

    bridge: BridgeSpec = field(default_factory=BridgeSpec)
    node_ip: IPv4Address | None = None
    mtu: int | None = None
    resync_period: float = 60.0


@dataclass(frozen=True, slots=True)
class Plant:
    """The switch and the kernel, or their fakes."""

    switch: Switch
    flows: FlowTable
    host: HostNetwork


@dataclass(slots=True)
class ReconcileStats:
    """Counters for metrics; only ever grow, but for `flows`."""

    commits: int = 0
    full_syncs: int = 0
    failures: int = 0
    repaired_flows: int = 0
    flows: int = 0
    observe_commit: Callable[[float], None] = lambda seconds: None


@dataclass(slots=True)
class _Submission:
    events: Sequence[Event]
    done: asyncio.Future[None]


class Reconciler:
    """Owns bridge and view of one node. `run` is its task; every other method is called from other tasks.

    `source_trouble` says why nothing is heard of the cluster's records at the moment, or "": whoever waits for them is
    told that.
    """

    def __init__(
        self,
        hostname: str,
        plant: Plant,
        options: ReconcileOptions,
        *,
        source_trouble: Callable[[], str] = lambda: "",
    ) -> None:
        self.view = NodeView(hostname, options.node_ip)
        self.stats = ReconcileStats()
        self._hostname = hostname
        self._plant = plant
        self._options = options
        self._source_trouble = source_trouble
        self._desired = DesiredFlows()
        self._inbox: list[_Submission] = []
        self._waiting: list[_Submission] = []
        self._wake = asyncio.Event()
        self._tenants_changed = asyncio.Condition()
        self._withdrawn: set[AttachmentKey] = set()
        self._full_sync: str | None = "start"
        self._retry_at: float | None = None
        self._retry_delay = RETRY_FIRST
        self._mtu = 0
        self._problem = "the first synchronisation has not run yet"

    # -- called by sources, the CNI server and health checks ---------------------------------------------------------

    async def submit(self, *events: Event) -> None:
        """Apply events and return once the switch has confirmed what follows from them.

        Before every source has synced, it waits for that. Raises DataplaneError if the commit failed (the events stay
        applied, and a full synchronisation follows by itself).
        """
        submission = self.post(*events)
        await submission

    def post(self, *events: Event) -> asyncio.Future[None]:
        """Like `submit`, but returns the future of the commit instead of waiting for it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self._inbox.append(_Submission(events, done))
        self._wake.set()
        return done

    def request_sync(self, reason: str) -> None:
        """Ask for a full synchronisation; `reason` goes to the log."""
        self._full_sync = self._full_sync or reason
        self._wake.set()

    async def install(self, attachment: Attachment) -> None:
        """Install the pod's flows; returns when the switch has confirmed them. Raises DataplaneError."""
        self._withdrawn.discard(attachment.key)
        await self.submit(AttachmentSet(attachment))

    async def withdraw(self, key: AttachmentKey) -> None:
        """Remove the pod's flows, and keep them away until `install` comes again.

        Does not wait while this node is not synchronised, and does not fail when the switch does: a full
        synchronisation without these flows comes before any other pod can get the address.
        """
        self._withdrawn.add(key)
        done = self.post(AttachmentGone(key))
        if self.trouble():
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
            mtu=self._mtu,
            checksum_offload=self._plant.switch.datapath == "system",
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
        """Why this node cannot serve yet, or "" when it can."""
        return self._missing() or self._problem

    # -- the task ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the bridge until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._load_leases()
                tasks.create_task(self._watch_switch(), name="watch-switch")
                tasks.create_task(self._work(), name="bridge")
        finally:
            for submission in [*self._inbox, *self._waiting]:
                submission.done.cancel()

    async def _load_leases(self) -> None:
        delay = RETRY_FIRST
        while True:
            try:
                await self._plant.switch.ensure_bridge(self._options.bridge)
                break
            except DataplaneError as err:
                self._problem = str(err)
                log.warning("the switch is not usable yet: %s", err)
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_MOST)
        leases = [AttachmentSet(attachment) for attachment in self._plant.switch.attachments()]
        self.post(*leases, Synced(Source.ATTACHMENTS))

    async def _watch_switch(self) -> None:
        """Turn what OVSDB tells into events; a switch that may have lost flows gets a full synchronisation."""
        async for _ in self._plant.switch.changes():
            rows = {attachment.key: attachment for attachment in self._plant.switch.attachments()}
            self._withdrawn &= rows.keys()
            known = self.view.state.attachments
            events: list[Event] = [
                AttachmentSet(row)
                for key, row in rows.items()
                if key not in self._withdrawn and row.ofport is not None and known.get(key) != row
            ]
            events += [AttachmentGone(key) for key in known if key not in rows]
            if events:
                self.post(*events)
            self.request_sync("the switch was restarted or changed")

    async def _work(self) -> None:
        while True:
            await self._wait_for_work()
            batch, self._inbox = self._inbox, []
            mods = await self._apply(batch)
            self._waiting += batch
            if missing := self._missing():
                log.debug("not synchronising yet: %s", missing)
                continue
            waiting, self._waiting = self._waiting, []
            try:
                if self._full_sync is not None:
                    await self._synchronise(self._full_sync)
                elif mods:
                    started = monotonic()
                    await self._plant.flows.commit(mods)
                    self.stats.commits += 1
                    self.stats.observe_commit(monotonic() - started)
            except DataplaneError as err:
                self._failed(err, waiting)
            else:
                self.stats.flows = len(self._desired)
                for submission in waiting:
                    if not submission.done.done():
                        submission.done.set_result(None)

    async def _wait_for_work(self) -> None:
        due = monotonic() + self._options.resync_period if self._retry_at is None else self._retry_at
        try:
            async with asyncio.timeout(max(0.0, due - monotonic())):
                await self._wake.wait()
        except TimeoutError:
            self._full_sync = self._full_sync or "period"
        self._wake.clear()

    async def _apply(self, batch: Sequence[_Submission]) -> list[FlowMod]:
        dirty: set[ViewKey] = set()
        for submission in batch:
            for event in submission.events:
                dirty |= self.view.apply(event)
        async with self._tenants_changed:
            self._tenants_changed.notify_all()
        return self._desired.update(self.view, dirty)

    def _missing(self) -> str:
        unsynced = [source.value for source in Source if source not in self.view.state.synced]
        if unsynced:
            return f"waiting for {', '.join(unsynced)}{self._why_no_news()}"
        if self.view.local is None:
            return f"no host subnet for {self._hostname} yet (is the controller running, and the Node registered?)"
        return ""

    def _why_no_news(self) -> str:
        trouble = self._source_trouble()
        return f" ({trouble})" if trouble else ""

    async def _synchronise(self, reason: str) -> None:
        """Make bridge, gateway and flows as they should be, changing only what differs. Raises DataplaneError."""
        local = self.view.local
        if local is None:
            return
        self._full_sync = None
        plant = self._plant
        await plant.switch.ensure_bridge(self._options.bridge)
        self._mtu = self._options.mtu or await plant.host.underlay_mtu(local.host_ip) - VXLAN_OVERHEAD
        if await plant.host.ensure_gateway(self._gateway(local)):
            log.info("gateway %s: set to %s", self._options.bridge.gateway, local.gateway)
        result = await plant.flows.replace(self._desired.all())
        self.stats.full_syncs += 1
        if result.added or result.deleted:
            log.info(
                "full synchronisation (%s): %d flows added, %d deleted", reason, result.added, result.deleted
            )
            if reason == "period":
                self.stats.repaired_flows += result.added + result.deleted
        self._problem = ""
        self._retry_at = None
        self._retry_delay = RETRY_FIRST

    def _gateway(self, local: LocalHost) -> GatewaySpec:
        return GatewaySpec(
            ifname=self._options.bridge.gateway,
            address=local.gateway,
            subnet=local.subnet,
            network=local.config.network,
            service_network=local.config.service_network,
            mac=mac_of(local.gateway),
            mtu=self._mtu,
        )

    def _failed(self, err: DataplaneError, waiting: Sequence[_Submission]) -> None:
        """Tell those who wait, and try a full synchronisation soon: nobody knows what the switch holds now."""
        self.stats.failures += 1
        self._full_sync = "a commit failed"
        self._retry_at = monotonic() + self._retry_delay
        self._retry_delay = min(2 * self._retry_delay, RETRY_MOST)
        self._problem = str(err)
        log.error("synchronising the bridge failed: %s", err)
        for submission in waiting:
            if not submission.done.done():
                submission.done.set_exception(err)


def _retrieve(done: asyncio.Future[None]) -> None:
    """Mark the outcome as seen: whoever posts events without waiting relies on the full synchronisation instead."""
    if not done.cancelled():
        done.exception()
