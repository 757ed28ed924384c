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
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from k8s_ovs.dataplane.bridge import (
    GATEWAY_OFPORT,
    LINK_ALIAS_PREFIX,
    BridgeSpec,
    Datapath,
    FlowStats,
    GatewaySpec,
    PodLink,
    SyncResult,
)
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.errors import LinkError, OpenFlowError, OvsdbError
from k8s_ovs.flows.diff import Item, Mod
from k8s_ovs.model.types import Attachment, AttachmentKey, OfPort

S = TypeVar("S", bound=OvsdbSwitch)


class Faulty:
    """Failure injection: each method passes `_enter` first."""

    def __init__(self) -> None:
        self._faults: defaultdict[str, deque[Exception]] = defaultdict(deque)
        self._gates: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []

    def fail_next(self, method: str, error: Exception, times: int = 1) -> None:
        """Let the next `times` calls of `method` raise `error`."""
        assert callable(getattr(self, method)), method
        self._faults[method].extend([error] * times)

    def hold(self, method: str) -> asyncio.Event:
        """Let calls of `method` wait until the event is set."""
        assert callable(getattr(self, method)), method
        return self._gates.setdefault(method, asyncio.Event())

    def heal(self) -> None:
        """Forget the failures that have not happened yet."""
        self._faults.clear()

    async def _enter(self, method: str) -> None:
        await asyncio.sleep(0)
        self.calls.append(method)
        if method in self._gates:
            await self._gates[method].wait()
        if self._faults[method]:
            raise self._faults[method].popleft()


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
        self.rows: dict[AttachmentKey, Attachment] = {}
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

    async def ensure_bridge(self, spec: BridgeSpec) -> None:
        await self._enter("ensure_bridge")
        self.spec = spec
        self._datapath = spec.datapath or self._offered

    async def remove_bridge(self, name: str) -> None:
        await self._enter("remove_bridge")
        if self.spec is not None and self.spec.name == name:
            self.spec = None
            self.rows.clear()

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
        self.disturb()

    def _has_device(self, name: str) -> bool:
        if self._links is not None and name in self._links.pairs:
            return True
        if self._devices is not None:
            return name in self._devices
        return self._links is None


_KEYS = """
in_port tun_id tunnel_id tun_src tun_dst dl_src dl_dst eth_src eth_dst dl_type eth_type dl_vlan
vlan_tci nw_src nw_dst ip_src ip_dst nw_proto ip_proto nw_tos nw_ttl nw_frag ip_frag icmp_type
icmp_code tp_src tp_dst tcp_src tcp_dst udp_src udp_dst arp_op arp_spa arp_tpa arp_sha arp_tha
ct_state ct_zone ct_mark ct_label ct_nw_src ct_nw_dst ct_nw_proto ct_tp_src ct_tp_dst metadata
pkt_mark actset_output tcp_flags ipv6_src ipv6_dst table priority cookie importance idle_timeout
hard_timeout
"""
KEY_FIELDS = frozenset(_KEYS.split())
_WORDS = """
ip arp tcp udp icmp ipv6 tcp6 udp6 icmp6 sctp send_flow_rem reset_counts
"""
WORDS = frozenset(_WORDS.split())
REGISTER = re.compile(r"x?x?reg\d+")
_ACTIONS = """
drop output goto_table resubmit set_field load move mod_dl_src mod_dl_dst in_port ct ct_clear group
meter normal local controller write_metadata learn note dec_ttl push_vlan pop_vlan strip_vlan
clear_actions conjunction
"""
ACTIONS = frozenset(_ACTIONS.split())


class FakeFlowTable(Faulty):
    """`bridge.FlowTable`. Reads the ofctl text of each flow, as the real one does; `groups` are those that exist."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: set[int] = set()
        self.bundles: list[list[str]] = []
        """The commits that were taken, as lines for ovs-ofctl."""
        self.replaced: list[SyncResult] = []
        self._flows: dict[tuple[int, str], FlowStats] = {}

    async def commit(self, mods: Sequence[Mod]) -> None:
        await self._enter("commit")
        flows = dict(self._flows)
        for mod in mods:
            kind, command, line = mod.to_ofctl().split(" ", 2)
            if kind != "flow":
                raise OpenFlowError(f"bundle: {kind!r} in {mod.to_ofctl()!r} is not known here")
            if command == "add":
                flow = self._read(line)
                flows[_identity(flow)] = flow
            elif command == "delete_strict":
                flows.pop(_identity(self._read(f"{line},actions=drop")), None)
            else:
                raise OpenFlowError(f"bundle: unknown command {command!r} in {mod.to_ofctl()!r}")
        self._flows = flows
        self.bundles.append([mod.to_ofctl() for mod in mods])

    async def replace(self, items: Iterable[Item]) -> SyncResult:
        await self._enter("replace")
        self.replaced.append(self.load(items))
        return self.replaced[-1]

    def load(self, items: Iterable[Item]) -> SyncResult:
        """Hold exactly `items` from now on, without anybody's call."""
        wanted = {_identity(flow): flow for flow in map(self._read, (item.to_ofctl() for item in items))}
        changed = {
            identity: flow
            for identity, flow in wanted.items()
            if identity not in self._flows or _meaning(self._flows[identity]) != _meaning(flow)
        }
        deleted = self._flows.keys() - wanted.keys()
        kept = {identity: flow for identity, flow in self._flows.items() if identity in wanted}
        self._flows = {**kept, **changed}
        return SyncResult(added=len(changed), deleted=len(deleted))

    async def dump(self, cookie: int = 0, mask: int = 0) -> list[FlowStats]:
        await self._enter("dump")
        return [flow for flow in self._flows.values() if flow.cookie & mask == cookie & mask]

    async def settle(self) -> None:
        await self._enter("settle")

    def content(self) -> dict[tuple[int, str], tuple[int, str]]:
        """What the tables hold, without the counters: (table, priority and match) to (cookie, actions)."""
        return {identity: _meaning(flow) for identity, flow in self._flows.items()}

    def clear(self) -> None:
        """The switch has lost its flows, as it does when ovs-vswitchd restarts."""
        self._flows = {}

    def count(self, packets: int) -> None:
        """Each flow has seen this many packets more."""
        self._flows = {
            identity: replace(flow, packets=flow.packets + packets) for identity, flow in self._flows.items()
        }

    def _read(self, line: str) -> FlowStats:
        head, has_actions, actions = line.partition("actions=")
        if not has_actions or not actions:
            raise OpenFlowError(f"must specify an action in {line!r}")
        values: dict[str, str] = {}
        for word in filter(None, re.split(r"[,\s]+", head)):
            name, equals, value = word.partition("=")
            known = (name in KEY_FIELDS or REGISTER.fullmatch(name)) if equals else name in WORDS
            if not known:
                raise OpenFlowError(f"unknown keyword {name} in {line!r}")
            values[name] = value
        table = int(values.pop("table", "0"))
        if not 0 <= table <= 254:
            raise OpenFlowError(f"table {table} is outside the supported range in {line!r}")
        self._judge_actions(table, actions, line)
        priority, cookie = int(values.pop("priority", "32768")), int(values.pop("cookie", "0"), 0)
        match = ",".join(f"{name}={value}" if value else name for name, value in sorted(values.items()))
        return FlowStats(table, priority, cookie, 0, 0, match, actions)

    def _judge_actions(self, table: int, actions: str, line: str) -> None:
        for action in re.split(r",(?![^(]*\))", actions):
            name = re.split(r"[:=(]", action.strip(), maxsplit=1)[0].lower()
            if name not in ACTIONS and not name.isdigit():
                raise OpenFlowError(f"unknown action {name} in {line!r}")
            argument = action.strip()[len(name) + 1 :]
            if name == "goto_table" and not table < int(argument) <= 254:
                raise OpenFlowError(f"OFPBRC_BAD_TABLE_ID: goto_table must go forward in {line!r}")
            if name == "group" and int(argument) not in self.groups:
                raise OpenFlowError(f"OFPBAC_BAD_OUT_GROUP for the flow {line!r}")


def _identity(flow: FlowStats) -> tuple[int, str]:
    return flow.table, f"{flow.priority},{flow.match}"


def _meaning(flow: FlowStats) -> tuple[int, str]:
    return flow.cookie, flow.actions


class FakePodLinks(Faulty):
    """`bridge.PodLinks`. `namespaces` are those that exist; `foreign` holds interfaces of others, (netns, ifname)."""

    def __init__(self, namespaces: Iterable[str] = ()) -> None:
        super().__init__()
        self.namespaces = set(namespaces)
        self.foreign: set[tuple[str, str]] = set()
        self.pairs: dict[str, PodLink] = {}

    async def create(self, link: PodLink) -> None:
        await self._enter("create")
        self._must_have(link.netns)
        taken = {
            (other.netns, other.ifname) for name, other in self.pairs.items() if name != link.host_ifname
        }
        if (link.netns, link.ifname) in taken | self.foreign:
            raise LinkError(f"{link.netns} has another interface {link.ifname} already", errno=errno.EEXIST)
        self.pairs[link.host_ifname] = link

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

    async def ensure_gateway(self, spec: GatewaySpec) -> bool:
        await self._enter("ensure_gateway")
        if spec.ifname not in self.interfaces:
            raise LinkError(f"gateway interface {spec.ifname}: does not exist", errno=errno.ENODEV)
        changed = self.gateway != spec
        self.gateway = spec
        return changed

    async def underlay_mtu(self, host_ip: IPv4Address) -> int:
        await self._enter("underlay_mtu")
        if host_ip not in self.mtus:
            raise LinkError(f"address {host_ip}: no interface of this host has it", errno=errno.EADDRNOTAVAIL)
        return self.mtus[host_ip]


class FakeFirewall(Faulty):
    """`bridge.Firewall`. `rules` is what it has been told to keep; None when there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: tuple[IPv4Network, str] | None = None

    async def ensure(self, network: IPv4Network, gateway: str) -> bool:
        await self._enter("ensure")
        changed = self.rules != (network, gateway)
        self.rules = (network, gateway)
        return changed

    async def remove(self) -> None:
        await self._enter("remove")
        self.rules = None


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
