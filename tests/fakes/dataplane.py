"""The dataplane in memory: the protocols of `k8s_ovs.dataplane.bridge` for unit tests.

These fakes judge: they refuse what the real switch, kernel and iptables refuse, and tests/contract/dataplane runs the
same tests against both. `fail_next("add_port", OvsdbError("…"))` makes one call fail; what a call refuses or fails at
has no effect. `hold("commit")` makes calls wait until the event that it returns is set.

    links = FakePodLinks(namespaces={"/run/netns/a"})
    switch = FakeSwitch(links)          # knows the devices that links has made; or FakeSwitch(devices={"veth1"})
    table = FakeFlowTable()
"""

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Set
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TypeVar

from fakes.faulty import Faulty
from fakes.flowtable import FakeFlowTable
from k8s_ovs.dataplane.bridge import (
    GATEWAY_OFPORT,
    LINK_ALIAS_PREFIX,
    BridgeSpec,
    Datapath,
    FirewallSpec,
    GatewaySpec,
    PodLink,
)
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.errors import LinkError, OvsdbError
from k8s_ovs.model.types import Attachment, AttachmentKey, OfPort, PodLimits

__all__ = [
    "FakeFirewall",
    "FakeFlowTable",
    "FakeHostNetwork",
    "FakePodLinks",
    "FakeSwitch",
    "running",
]

S = TypeVar("S", bound=OvsdbSwitch)


class FakeSwitch(Faulty):
    """`bridge.Switch`. A port needs a device: one of `links`, or of `devices` (a set that the test may change)."""

    def __init__(
        self,
        links: "FakePodLinks | None" = None,
        devices: set[str] | None = None,
        offered: Datapath = "netdev",
    ) -> None:
        super().__init__()
        self.spec: BridgeSpec | None = None
        self.restarts = 0
        self.host: FakeHostNetwork | None = None
        """Where the gateway's device is made; None: nobody looks."""
        self.faults: list[str] = []
        """What somebody has changed of the bridge's fixed ports, to be found by the next `ensure_bridge`."""
        self.rows: dict[AttachmentKey, Attachment] = {}
        self.lost_queues: set[AttachmentKey] = set()
        """Ports whose queue somebody has taken away."""
        self._links = links
        self._devices = devices
        self._offered = offered
        self._datapath: Datapath | None = None
        self._listeners: list[asyncio.Event] = []
        self._next_ofport = GATEWAY_OFPORT + 1

    @property
    def datapath(self) -> Datapath:
        if self._datapath is None:
            raise OvsdbError("the datapath is not known before the bridge is made")
        return self._datapath

    async def run(self) -> None:
        """Follow the database: there is none."""
        await self._enter("run")
        await asyncio.Event().wait()

    async def connected(self) -> None:
        await self._enter("connected")

    async def ensure_bridge(self, spec: BridgeSpec) -> tuple[Finding, ...]:
        await self._enter("ensure_bridge")
        missing = [] if self.spec is not None else [f"bridge {spec.name}: was missing"]
        faults, self.faults = self.faults, []
        lost, self.lost_queues = self.lost_queues & self.rows.keys(), set()
        self.spec = spec
        self._datapath = spec.datapath or self._offered
        return (
            *found(Kind.BRIDGE, missing),
            *found(Kind.PORT, faults),
            *found(Kind.QOS, [f"queue of {self.rows[key].host_ifname}: no limit" for key in lost]),
        )

    async def remake_gateway(self, spec: BridgeSpec) -> None:
        await self._enter("remake_gateway")
        self.spec = spec
        if self.host is not None:
            self.host.interfaces.add(spec.gateway)

    async def remove_bridge(self, name: str) -> bool:
        await self._enter("remove_bridge")
        if self.spec is None or self.spec.name != name:
            return False
        self.spec = None
        self.rows.clear()
        return True

    async def add_port(self, attachment: Attachment) -> Attachment:
        await self._enter("add_port")
        name, key = attachment.host_ifname, attachment.key
        if self.spec is None:
            raise OvsdbError(f"port {name}: there is no bridge")
        holder = next((row for row in self.rows.values() if row.host_ifname == name), None)
        if holder is not None and holder.key != key:
            raise OvsdbError(f"port {name}: a port of this name belongs to {holder.key}")
        if key in self.rows and self.rows[key].host_ifname != name:
            raise OvsdbError(
                f"port {name}: sandbox {key.sandbox} holds port {self.rows[key].host_ifname} already"
            )
        if not self._has_device(name):
            self.rows.pop(key, None)
            raise OvsdbError(f"port {name}: could not open network device {name} (No such device)")
        ofport = self.rows[key].ofport if key in self.rows else OfPort(self._next_ofport)
        self._next_ofport += key not in self.rows
        self.rows[key] = replace(attachment, ofport=ofport)
        return self.rows[key]

    async def remove_port(self, key: AttachmentKey) -> None:
        await self._enter("remove_port")
        self.rows.pop(key, None)

    async def set_limits(self, key: AttachmentKey, limits: PodLimits) -> None:
        await self._enter("set_limits")
        if key in self.rows:
            self.rows[key] = replace(self.rows[key], limits=limits)

    async def check_limits(self, key: AttachmentKey) -> None:
        await self._enter("check_limits")
        if key in self.lost_queues:
            raise OvsdbError(f"queue towards sandbox {key.sandbox}/{key.ifname}: no limit")

    def attachments(self) -> list[Attachment]:
        return list(self.rows.values())

    def changes(self) -> AsyncIterator[None]:
        changed = asyncio.Event()
        self._listeners.append(changed)

        async def iterate() -> AsyncIterator[None]:
            while True:
                await changed.wait()
                changed.clear()
                yield

        return iterate()

    def disturb(self) -> None:
        """Something happened behind our back: every listener of `changes` hears of it."""
        for listener in self._listeners:
            listener.set()

    def restart_vswitchd(self) -> None:
        """ovs-vswitchd restarts: every port gets another number. (Clear the flow table yourself.)"""
        for key, row in self.rows.items():
            self.rows[key] = replace(row, ofport=OfPort(self._next_ofport))
            self._next_ofport += 1
        self.restarts += 2
        self.disturb()

    def lose_bridge(self) -> None:
        """Somebody deletes the bridge, and all its ports with it. (Clear the flow table yourself.)"""
        self.spec = None
        self.rows.clear()
        self.restarts += 1
        self.disturb()

    def lose_row(self, key: AttachmentKey) -> None:
        """Somebody deletes a pod's port, and the lease with it."""
        del self.rows[key]
        self.disturb()

    def _has_device(self, name: str) -> bool:
        if self._links is not None and name in self._links.pairs:
            return True
        if self._devices is not None:
            return name in self._devices
        return self._links is None


class FakePodLinks(Faulty):
    """`bridge.PodLinks`. `namespaces` are those that exist; `foreign` holds interfaces of others, (netns, ifname)."""

    def __init__(self, namespaces: Iterable[str] = ()) -> None:
        super().__init__()
        self.namespaces = set(namespaces)
        self.foreign: set[tuple[str, str]] = set()
        self.pairs: dict[str, PodLink] = {}
        self.notes: dict[str, IPv4Address] = {}
        self.down: set[str] = set()
        """Host ends that somebody has set down."""

    async def create(self, link: PodLink) -> None:
        await self._enter("create")
        self._must_have(link.netns)
        taken = {
            (other.netns, other.ifname) for name, other in self.pairs.items() if name != link.host_ifname
        }
        if (link.netns, link.ifname) in taken | self.foreign:
            raise LinkError(f"{link.netns} has another interface {link.ifname} already", errno=errno.EEXIST)
        self.pairs[link.host_ifname] = link

    async def shape(self, link: PodLink) -> None:
        await self._enter("shape")
        self._must_have(link.netns)
        found = self.pairs.get(link.host_ifname)
        if found is None:
            raise LinkError(f"interface {link.host_ifname}: does not exist", errno=errno.ENODEV)
        self.pairs[link.host_ifname] = replace(found, egress=link.egress)

    async def check(self, link: PodLink) -> None:
        await self._enter("check")
        self._must_have(link.netns)
        found = self.pairs.get(link.host_ifname)
        if found is None:
            raise LinkError(f"interface {link.host_ifname}: does not exist", errno=errno.ENODEV)
        if replace(found, checksum_offload=link.checksum_offload) != link:
            raise LinkError(f"interface {link.host_ifname}: {found} is not {link}", errno=errno.ENOENT)

    async def delete(self, host_ifname: str) -> None:
        await self._enter("delete")
        self.pairs.pop(host_ifname, None)
        self.notes.pop(host_ifname, None)

    async def vouch(self, host_ifname: str, address: IPv4Address | None) -> None:
        await self._enter("vouch")
        self.notes.pop(host_ifname, None)
        if host_ifname in self.pairs and address is not None:
            self.notes[host_ifname] = address

    async def vouched(self) -> dict[str, IPv4Address]:
        await self._enter("vouched")
        return {name: address for name, address in self.notes.items() if name in self.pairs}

    async def keep_up(self) -> tuple[Finding, ...]:
        await self._enter("keep_up")
        down, self.down = self.down & self.notes.keys(), set()
        return found(Kind.LINK, [f"{name}: was down" for name in sorted(down)])

    async def leftovers(self) -> list[str]:
        await self._enter("leftovers")
        return [name for name, link in self.pairs.items() if link.alias.startswith(LINK_ALIAS_PREFIX)]

    def lose_namespace(self, netns: str) -> None:
        """The runtime removes the namespace; the pairs in it go with it."""
        self.namespaces.discard(netns)
        self.pairs = {name: link for name, link in self.pairs.items() if link.netns != netns}

    def _must_have(self, netns: str) -> None:
        if netns not in self.namespaces:
            raise LinkError(f"network namespace {netns}: No such file or directory", errno=errno.ENOENT)


class FakeHostNetwork(Faulty):
    """`bridge.HostNetwork`. `mtus` are the MTUs by address, `interfaces` those that exist."""

    def __init__(
        self, mtus: dict[IPv4Address, int] | None = None, interfaces: Iterable[str] = ("tun0",)
    ) -> None:
        super().__init__()
        self.mtus = mtus or {}
        self.interfaces = set(interfaces)
        self.gateway: GatewaySpec | None = None
        self.forgotten: set[IPv4Address] = set()
        self._listeners: list[asyncio.Event] = []

    async def ensure_gateway(self, spec: GatewaySpec) -> tuple[Finding, ...]:
        await self._enter("ensure_gateway")
        if spec.ifname not in self.interfaces:
            raise LinkError(f"gateway interface {spec.ifname}: does not exist", errno=errno.ENODEV)
        before, self.gateway = self.gateway, spec
        if before == spec:
            return ()
        self._tell()
        address = f"{spec.address} of {spec.ifname}: was missing"
        return found(Kind.ADDRESS if before is None or before.mtu == spec.mtu else Kind.LINK, [address])

    def changes(self, ifname: str) -> AsyncGenerator[None, None]:
        del ifname
        changed = asyncio.Event()
        self._listeners.append(changed)

        async def iterate() -> AsyncGenerator[None, None]:
            while True:
                await changed.wait()
                changed.clear()
                yield

        return iterate()

    def lose_address(self) -> None:
        """Somebody takes the gateway's address away, and the kernel tells."""
        self.gateway = None
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def underlay_mtu(self, host_ip: IPv4Address) -> int:
        await self._enter("underlay_mtu")
        if host_ip not in self.mtus:
            raise LinkError(f"address {host_ip}: no interface of this host has it", errno=errno.EADDRNOTAVAIL)
        return self.mtus[host_ip]

    async def forget_addresses(self, addresses: Set[IPv4Address]) -> int:
        await self._enter("forget_addresses")
        self.forgotten |= addresses
        return 0


class FakeFirewall(Faulty):
    """`bridge.Firewall`. `rules` is what it has been told to keep; None when there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: FirewallSpec | None = None

    async def ensure(self, spec: FirewallSpec) -> tuple[Finding, ...]:
        await self._enter("ensure")
        before, self.rules = self.rules, spec
        return (
            ()
            if before == spec
            else found(Kind.FIREWALL, ["chain K8S-OVS-FORWARD of table filter: was empty"])
        )

    async def remove(self) -> bool:
        await self._enter("remove")
        existed, self.rules = self.rules is not None, None
        return existed


@asynccontextmanager
async def running(switch: S) -> AsyncIterator[S]:
    """A real switch whose task runs, and whose database has been read."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(switch.run(), name="switch")
        await asyncio.wait_for(switch.connected(), 20)
        try:
            yield switch
        finally:
            task.cancel()
