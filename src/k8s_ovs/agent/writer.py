"""What reaches the bridge and the host's gateway: one bundle for what changed, or a comparison with all there is.

For the reconciler, the only caller. It knows what the bridge should hold, and whether the bridge is known to hold it.
It never decides when to write, and never retries.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from errno import ENODEV
from ipaddress import IPv4Address
from time import monotonic

from k8s_ovs.agent.drift import Drift, OnRepair
from k8s_ovs.agent.forgetting import Gone
from k8s_ovs.config import VXLAN_OVERHEAD
from k8s_ovs.dataplane.bridge import BridgeSpec, FlowTable, GatewaySpec, HostNetwork, Switch
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.errors import LinkError, OpenFlowError
from k8s_ovs.flows.diff import Mod
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.groupids import endpoints_in_use, groups_in_use
from k8s_ovs.flows.names import DROP_BIT, MAGIC_SHIFT, STAGE_MASK, STAGE_SHIFT, StageId, cookie_of
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.types import mac_of
from k8s_ovs.model.view import LocalHost, NodeView, ViewKey

log = logging.getLogger(__name__)

_STAGE = 0xFFFF << MAGIC_SHIFT | DROP_BIT | STAGE_MASK << STAGE_SHIFT
"""The bits of a cookie that say whose flow it is, and that it does not drop."""

RETRY_FIRST = 0.2
RETRY_MOST = 10.0
"""Seconds until a failed synchronisation is tried again: doubled from the first to the most."""
PATIENCE = 3
"""How often in a row the gateway's device may be missing after a restart of the switch, before it is made anew.
Without a restart, once."""


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """What the operator chose: `mtu` of the pod network (None: the underlay's less VXLAN's 50), `resync_period` in seconds.

    An `external` host keeps no flows while it has no subnet; a node does, so that its pods survive a lost record.
    """

    bridge: BridgeSpec = field(default_factory=BridgeSpec)
    node_ip: IPv4Address | None = None
    mtu: int | None = None
    resync_period: float = 60.0
    external: bool = False


@dataclass(frozen=True, slots=True)
class Plant:
    """The switch and the kernel, or their fakes."""

    switch: Switch
    flows: FlowTable
    host: HostNetwork


@dataclass(slots=True)
class ReconcileStats:
    """Counters for metrics; only ever grow, but for `flows` and `mtu`. `by_table` counts the flows of each table."""

    commits: int = 0
    full_syncs: int = 0
    failures: int = 0
    flows: int = 0
    mtu: int = 0
    by_table: Callable[[], Mapping[int, int]] = dict
    observe_commit: Callable[[float], None] = lambda seconds: None


class BridgeWriter:
    """The bridge of one node. `mtu` of the pod network is known once `ensure_host` has returned.

    `revision` grows with everything that may have changed what the bridge holds.
    """

    def __init__(
        self,
        plant: Plant,
        options: ReconcileOptions,
        on_doubt: Callable[[], None] = lambda: None,
        on_gone: Callable[[Iterable[Gone]], None] = lambda gone: None,
        on_repair: OnRepair = lambda findings: None,
    ) -> None:
        """`on_doubt` is called whenever the bridge comes into doubt, `on_gone` once no flow leads to UDP endpoints any more.

        `on_repair` is told of what somebody else had changed.
        """
        self.stats = ReconcileStats(by_table=self._by_table)
        self.mtu = 0
        self.revision = 0
        self._on_doubt = on_doubt
        self._on_gone = on_gone
        self._plant = plant
        self._options = options
        self._desired = DesiredFlows()
        self._view: NodeView | None = None
        self._adopted = self._followed = False
        self._pending: list[Mod] = []
        self._drift = Drift(plant.switch, on_repair)
        self._without_device = 0
        self._doubts = 1
        self._resolved = 0

    @property
    def certain(self) -> bool:
        """Whether the bridge holds what was planned, but for what `commit` has still to send."""
        return self._resolved == self._doubts

    def _by_table(self) -> Mapping[int, int]:
        return Counter(item.table for item in self._desired.all() if isinstance(item, Flow))

    def doubt(self) -> None:
        """Nobody knows any more what the bridge holds: only `replace` makes it certain again."""
        self._doubts += 1
        self._on_doubt()

    def plan(self, view: NodeView, dirty: Iterable[ViewKey]) -> None:
        """Compute anew what the dirty keys want; before the first `replace`, only take note of the view."""
        self._view = view
        if self._adopted:
            self._pending += self._desired.update(view, dirty)

    async def ensure_bridge(self) -> None:
        """Make the bridge and its fixed ports as they should be. Raises OvsdbError."""
        spec = replace(self._options.bridge, mtu=self.mtu or None)
        self._drift.bridge(spec, await self._plant.switch.ensure_bridge(spec))

    async def commit(self) -> None:
        """Send what was planned since the last time, as one bundle. Raises OpenFlowError; then all is in doubt."""
        mods, self._pending = self._pending, []
        if not mods:
            return
        started = monotonic()
        self.revision += 1
        try:
            await self._plant.flows.commit(mods)
        except OpenFlowError:
            self._drift.forget()
            self.doubt()
            raise
        self._on_gone(self._desired.take_forgotten())
        self.stats.commits += 1
        self.stats.flows = len(self._desired)
        self.stats.observe_commit(monotonic() - started)

    async def replace(self, reason: str) -> None:
        """Make the bridge hold exactly what was planned, sending the difference only. Raises OpenFlowError."""
        if self._drift.flows_known:
            # What is planned and not sent yet would look like somebody's doing.
            with suppress(OpenFlowError):
                await self.commit()
        doubts, was_certain, self._pending = self._doubts, self.certain, []
        restarts = self._plant.switch.restarts
        try:
            if not self._adopted:
                await self._adopt()
            result = await self._plant.flows.replace(self._desired.all())
            if not self._followed:
                # Whoever is told that this node is ready must be able to rely on it: what an agent before this one had
                # sent, or what it did not know yet, is in no cache any more.
                await self._plant.flows.settle()
                self._followed = True
        except OpenFlowError:
            self._drift.forget()
            self.doubt()
            raise
        self._on_gone(self._desired.take_forgotten())
        self._resolved = doubts
        self.revision += bool(result.added or result.deleted or not was_certain)
        self.stats.full_syncs += 1
        self.stats.flows = len(self._desired)
        if result.added or result.deleted:
            log.info(
                "full synchronisation (%s): %d flows added, %d deleted", reason, result.added, result.deleted
            )
        self._drift.flows(result.findings, restarts)

    async def _adopt(self) -> None:
        """Let the Services keep the groups that the switch has for them, so that a restart moves no connection.

        And see to whom they lead: some may have gone while no agent was here.
        """
        flows = self._plant.flows
        groups = groups_in_use(
            (flow.cookie, flow.match) for flow in await flows.dump(cookie_of(StageId.SERVICE_NEW), _STAGE)
        )
        chosen = [
            (flow.match, flow.actions) for flow in await flows.dump(cookie_of(StageId.ENDPOINT), _STAGE)
        ]
        self._desired.adopt(groups, endpoints_in_use(groups, await flows.dump_groups(), chosen))
        self._adopted = True
        if self._view is not None:
            self._desired.update(self._view)

    async def clear(self) -> None:
        """Remove every flow; what is planned stays planned. Raises OpenFlowError."""
        self.doubt()
        self._drift.forget()
        self._pending = []
        result = await self._plant.flows.replace(())
        self.stats.flows = 0
        if result.deleted:
            log.info("removed the bridge's %d flows", result.deleted)

    async def ensure_host(self, local: LocalHost) -> None:
        """Make the host's own leg in the pod network as it should be. Raises LinkError."""
        host, gateway = self._plant.host, self._options.bridge.gateway
        mtu = self._options.mtu or await host.underlay_mtu(local.host_ip) - VXLAN_OVERHEAD
        if mtu != self.mtu:
            self.mtu = self.stats.mtu = mtu
            await self.ensure_bridge()
        spec = GatewaySpec(
            ifname=gateway,
            address=local.gateway,
            subnet=local.subnet,
            network=local.config.network,
            service_network=local.config.service_network,
            mac=mac_of(local.gateway),
            mtu=self.mtu,
        )
        restarts = self._plant.switch.restarts
        if findings := await self._ensure_gateway(spec):
            log.info("gateway %s: set to %s", gateway, local.gateway)
        self._drift.gateway(spec, findings, restarts)

    async def _ensure_gateway(self, spec: GatewaySpec) -> tuple[Finding, ...]:
        """What had to be changed. A device that somebody has deleted or renamed is made anew.

        A switch that ends takes its devices with it, and brings them back: only one that is missing while the switch has
        answered (the next synchronisation asks it for its flows first) is somebody's doing.
        """
        host, known = self._plant.host, self._drift.gateway_known(spec)
        try:
            findings = await host.ensure_gateway(spec)
        except LinkError as err:
            if err.errno != ENODEV:
                raise
            self._without_device += 1
            if self._without_device <= (1 if known else PATIENCE):
                raise
        else:
            self._without_device = 0
            return findings
        self._without_device = 0
        await self._plant.switch.remake_gateway(replace(self._options.bridge, mtu=self.mtu or None))
        await host.ensure_gateway(spec)
        return found(Kind.LINK, [f"{spec.ifname}: did not exist"])
