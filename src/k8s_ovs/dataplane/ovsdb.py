"""The bridge's configuration: `OvsdbSwitch` implements `bridge.Switch` on a running ovsdb-server and ovs-vswitchd.

For the agent, which puts `run` into its task group. The rows are in `ovsdb_rows`, the connection in `ovsdb_client`.
It never touches flows, and of the database nothing but our bridge and its ports.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from ovs.db.idl import Transaction

from k8s_ovs.dataplane import ovsdb_rows as rows
from k8s_ovs.dataplane.bridge import BridgeSpec, Datapath
from k8s_ovs.dataplane.feed import ChangeFeed
from k8s_ovs.dataplane.findings import Finding
from k8s_ovs.dataplane.mgmt import watch_switch
from k8s_ovs.dataplane.netlink import kernel_has_openvswitch
from k8s_ovs.dataplane.ovsdb_bridge import bridge_faults
from k8s_ovs.dataplane.ovsdb_client import REMEDY, OvsdbClient, Replica
from k8s_ovs.errors import OvsdbError
from k8s_ovs.model.types import Attachment, AttachmentKey, PodLimits

DEADLINE = 10.0
"""Seconds that one step of a call waits for ovsdb-server or ovs-vswitchd; a container runtime waits longer."""
LOOK_AT_VSWITCHD = "check that ovs-vswitchd runs, and its log"

_log = logging.getLogger(__name__)


class OvsdbSwitch:
    """See `bridge.Switch`. `rundir` holds `db.sock` and the bridges' `.mgmt` sockets.

    `run` must run while anything else is called. No call waits longer than a few times `deadline` seconds: when the
    switch has not answered by then, it raises OvsdbError.
    """

    def __init__(self, rundir: Path, *, deadline: float = DEADLINE) -> None:
        self._rundir = rundir
        self._deadline = deadline
        self._feed = ChangeFeed(rows.COLUMNS)
        self._client = OvsdbClient(rundir / "db.sock", rows.COLUMNS, self._feed.observe)
        self._bridge: asyncio.Future[str] | None = None
        self._datapath: Datapath | None = None
        self._restarts = 0

    async def run(self) -> None:
        """Follow the database and the switch, reconnecting as often as needed; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._client.run(), name="ovsdb")
            group.create_task(self._watch(), name="vswitchd")

    async def connected(self) -> None:
        """Return once the database has been read (at once while it is followed)."""
        await self._client.connected()

    @property
    def datapath(self) -> Datapath:
        """See `bridge.Switch`. Raises OvsdbError before `ensure_bridge` has returned."""
        if self._datapath is None:
            raise OvsdbError("the datapath is not known before the bridge is made")
        return self._datapath

    @property
    def restarts(self) -> int:
        """See `bridge.Switch`."""
        return self._restarts

    async def ensure_bridge(self, spec: BridgeSpec) -> tuple[Finding, ...]:
        """See `bridge.Switch`. Returns once ovs-vswitchd has given both fixed ports their numbers."""
        what = f"bridge {spec.name}"
        datapath = await _detect(await self._ready(what), spec)
        findings: tuple[Finding, ...] = ()

        def edit(replica: Replica, transaction: Transaction) -> None:
            nonlocal findings
            # An edit that is tried again is looked at anew.
            findings = bridge_faults(replica, spec, datapath)
            rows.put_bridge(replica, transaction, spec, datapath)

        with self._feed.quiet(spec.name, spec.vxlan, spec.gateway):
            configuration = await self._client.transact(what, None, edit, self._deadline)
            for port in rows.fixed_ports(spec):
                number = await self._ofport(
                    port.name, configuration, f"port {port.name} of bridge {spec.name}"
                )
                if number != port.ofport and self._client.replica is not None:
                    raise rows.wrong_ofport(self._client.replica, spec, port, number)
        self._datapath = datapath
        if not self._name.done():
            self._name.set_result(spec.name)
        return findings

    async def remake_gateway(self, spec: BridgeSpec) -> None:
        """See `bridge.Switch`. ovs-vswitchd makes a device only for a port that is new to it."""
        what = f"port {spec.gateway} of bridge {spec.name}"

        def edit(replica: Replica, transaction: Transaction) -> None:
            if (row := replica.named("Interface", spec.gateway)) is not None:
                rows.drop_interface(replica, transaction, row)

        with self._feed.quiet(spec.gateway):
            configuration = await self._client.transact(f"{what}: removal", None, edit, self._deadline)
            await self._until_acted(configuration, f"{what}: removal")
            await self.ensure_bridge(spec)

    async def remove_bridge(self, name: str) -> bool:
        """See `bridge.Switch`. Waits for ovs-vswitchd too, but does not insist: uninstalling must work without it."""
        existed = False

        def edit(replica: Replica, transaction: Transaction) -> None:
            nonlocal existed
            existed = replica.named("Bridge", name) is not None
            rows.drop_bridge(replica, transaction, name)

        configuration = await self._client.transact(f"bridge {name}: removal", None, edit, self._deadline)
        try:
            await self._client.until(lambda: self._acted(configuration), self._deadline)
        except TimeoutError:
            _log.warning("bridge %s: removed from OVSDB, but ovs-vswitchd does not confirm it", name)
        return existed

    async def add_port(self, attachment: Attachment) -> Attachment:
        """See `bridge.Switch`. Returns once ovs-vswitchd has given an ofport; when it cannot, no row is left."""
        name, key = attachment.host_ifname, attachment.key
        if not self._name.done():
            raise OvsdbError(f"port {name}: the bridge is not made yet")
        what = f"port {name} of pod {attachment.namespace}/{attachment.pod}"
        written = existed = False

        def edit(replica: Replica, transaction: Transaction) -> None:
            nonlocal written, existed
            existed = replica.named("Interface", name) is not None
            rows.put_attachment(replica, transaction, self._name.result(), attachment)
            written = True

        with self._feed.quiet(name):
            try:
                configuration = await self._client.transact(what, key, edit, self._deadline)
                number = await self._ofport(name, configuration, what)
            except OvsdbError:
                if written:
                    await asyncio.wait({self._withdraw(key)}, timeout=self._deadline)
                raise
            except asyncio.CancelledError:
                if written and not existed:
                    self._withdraw(key)
                raise
        return rows.with_ofport(attachment, number)

    async def remove_port(self, key: AttachmentKey) -> None:
        """See `bridge.Switch`. Returns once the rows are gone; ovs-vswitchd follows by itself."""
        what = f"port of sandbox {key.sandbox}/{key.ifname}: removal"
        with contextlib.ExitStack() as quiet:

            def edit(replica: Replica, transaction: Transaction) -> None:
                if (row := rows.interface_of(replica, key)) is not None:
                    quiet.enter_context(self._feed.quiet(rows.text(row, "name")))
                    rows.drop_interface(replica, transaction, row)

            await self._client.transact(what, key, edit, self._deadline)

    async def set_limits(self, key: AttachmentKey, limits: PodLimits) -> None:
        """See `bridge.Switch`."""
        what = f"limits of sandbox {key.sandbox}/{key.ifname}"
        with contextlib.ExitStack() as quiet:

            def edit(replica: Replica, transaction: Transaction) -> None:
                if (row := rows.interface_of(replica, key)) is not None:
                    quiet.enter_context(self._feed.quiet(rows.text(row, "name")))
                    rows.put_limits(replica, transaction, row, limits)

            configuration = await self._client.transact(what, key, edit, self._deadline)
            await self._until_acted(configuration, what)

    async def check_limits(self, key: AttachmentKey) -> None:
        """See `bridge.Switch`."""
        what = f"queue towards sandbox {key.sandbox}/{key.ifname}"
        if fault := rows.queue_fault(await self._ready(what), key):
            raise OvsdbError(f"{what}: {fault}")

    def attachments(self) -> list[Attachment]:
        """See `bridge.Switch`. Raises OvsdbError before the database has been read for the first time."""
        if self._client.replica is None:
            raise OvsdbError(f"the leases are not known: {self._rundir}/db.sock has not been read yet")
        return list(rows.read_attachments(self._client.replica))

    def changes(self) -> AsyncIterator[None]:
        """See `bridge.Switch`. What this object writes itself is no change; several at once are one."""
        return self._feed.listen()

    @property
    def _name(self) -> "asyncio.Future[str]":
        """The bridge's name, once it is made."""
        if self._bridge is None:
            self._bridge = asyncio.get_running_loop().create_future()
        return self._bridge

    async def _watch(self) -> None:
        name = await asyncio.shield(self._name)

        def restarted() -> None:
            self._restarts += 1
            self._feed.changed()

        await watch_switch(self._rundir / f"{name}.mgmt", restarted)

    async def _ready(self, what: str) -> Replica:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline):
                await self._client.connected()
        if self._client.replica is None:
            message = f"{what}: ovsdb-server at {self._rundir}/db.sock cannot be reached within {self._deadline:g} s"
            raise OvsdbError(message, remedy=REMEDY)
        return self._client.replica

    def _acted(self, configuration: int | None) -> Literal[True] | None:
        """True once ovs-vswitchd has acted on `configuration`."""
        replica = self._client.replica
        return True if replica is not None and rows.configured(replica, configuration) else None

    async def _until_acted(self, configuration: int | None, what: str) -> None:
        """Return once ovs-vswitchd has acted on `configuration`; OvsdbError if it does not."""
        try:
            await self._client.until(lambda: self._acted(configuration), self._deadline)
        except TimeoutError:
            message = f"{what}: ovs-vswitchd has not acted on it within {self._deadline:g} s"
            raise OvsdbError(message, remedy=LOOK_AT_VSWITCHD) from None

    async def _ofport(self, name: str, configuration: int | None, what: str) -> int:
        """Wait for the number that the switch gives; OvsdbError if it cannot, or says nothing."""

        def probe() -> int | None:
            replica = self._client.replica
            if replica is None:
                return None
            if (row := replica.named("Interface", name)) is None:
                raise OvsdbError(f"{what}: removed from OVSDB by somebody else while it was added")
            if not rows.configured(replica, configuration):
                return None
            number = rows.ofport(row)
            if number == -1:
                reason = rows.interface_error(row) or "no reason given"
                raise OvsdbError(f"{what}: ovs-vswitchd cannot use it: {reason}")
            return number

        try:
            return await self._client.until(probe, self._deadline)
        except TimeoutError:
            message = f"{what}: ovs-vswitchd has given no port number within {self._deadline:g} s"
            raise OvsdbError(message, remedy=LOOK_AT_VSWITCHD) from None

    def _withdraw(self, key: AttachmentKey) -> "asyncio.Future[int | None]":
        """Queue the removal of a port that could not be added; it happens even if nobody waits for it."""

        def edit(replica: Replica, transaction: Transaction) -> None:
            if (row := rows.interface_of(replica, key)) is not None:
                rows.drop_interface(replica, transaction, row)

        def report(done: "asyncio.Future[int | None]") -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                _log.error("port of sandbox %s/%s: not withdrawn: %s", key.sandbox, key.ifname, error)

        done = self._client.post(f"port of sandbox {key.sandbox}: withdrawal", key, edit)
        done.add_done_callback(report)
        return done


async def _detect(replica: Replica, spec: BridgeSpec) -> Datapath:
    """The datapath to use: the one asked for, the bridge's own, or what kernel and switch offer.

    The column datapath_types is no proof: it lists "system" on a kernel without the module too.
    """
    offered = rows.datapath_types(replica)
    bridge = replica.named("Bridge", spec.name)
    if spec.datapath is not None and offered and spec.datapath not in offered:
        raise OvsdbError(f"datapath {spec.datapath}: this switch offers only {', '.join(offered)}")
    if spec.datapath == "netdev":
        return "netdev"
    if spec.datapath is None and bridge is not None and rows.text(bridge, "datapath_type") == "netdev":
        return "netdev"
    if await asyncio.to_thread(kernel_has_openvswitch) and "system" in (offered or ["system"]):
        return "system"
    if spec.datapath == "system":
        message = "datapath system: this kernel has no Open vSwitch module"
        raise OvsdbError(message, remedy="modprobe openvswitch, or choose --datapath netdev")
    return "netdev"
