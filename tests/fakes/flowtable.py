"""The bridge's flows, groups and meters in memory: `bridge.FlowTable` for unit tests.

It judges what the real switch refuses: unknown words, a group or meter that does not exist, tables that go back. Like the
real one it deletes the flows of a group or meter that is deleted. tests/contract/dataplane runs the same tests on both.
"""

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from fakes.faulty import Faulty
from k8s_ovs.dataplane.bridge import FlowStats, SyncResult
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.dataplane.openflow_compare import LEARNED, CookieMask
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.diff import Item, Mod, Op
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.group import MAX_BUCKETS, Group, Meter

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
BETWEEN_ACTIONS = re.compile(r",(?![^()]*(?:\([^()]*\)[^()]*)*\))")
"""A comma outside of parentheses, which may hold one pair of their own: ct(commit,nat(dst=...),table=70)."""
_REFERS = re.compile(r"\b(group|meter):(\d+)")


@dataclass
class Content:
    """What a bridge holds. Groups and meters by id, as their text for ovs-ofctl."""

    flows: dict[tuple[int, str], FlowStats] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    meters: dict[int, str] = field(default_factory=dict)

    def copy(self) -> "Content":
        """The same, to be changed."""
        return Content(dict(self.flows), dict(self.groups), dict(self.meters))

    def add(self, item: Item) -> None:
        """Add or replace `item`. Raises OpenFlowError if the switch would refuse it."""
        match item:
            case Flow():
                flow = read_flow(item.to_ofctl())
                self._judge_references(flow.actions, f"the flow {item.to_ofctl()!r}")
                self.flows[_identity(flow)] = flow
            case Group():
                if len({bucket.id for bucket in item.buckets}) < len(item.buckets):
                    raise OpenFlowError(f"OFPGMFC_BUCKET_EXISTS for the group {item.to_ofctl()!r}")
                if len(item.buckets) > MAX_BUCKETS:
                    raise OpenFlowError(
                        f"group {item.id} has {len(item.buckets)} buckets: too long a message"
                    )
                self._judge_references(item.to_ofctl(), f"the group {item.to_ofctl()!r}")
                self.groups[item.id] = item.to_ofctl()
            case Meter():
                self.meters[item.id] = item.to_ofctl()

    def delete(self, item: Item) -> None:
        """Delete what has the identity of `item`, with the flows that use it; nothing to delete is no error."""
        match item:
            case Flow():
                self.flows.pop(_identity(read_flow(f"{item.selector()},actions=drop")), None)
            case Group():
                self.groups.pop(item.id, None)
                self._delete_users("group", item.id)
            case Meter():
                self.meters.pop(item.id, None)
                self._delete_users("meter", item.id)

    def _delete_users(self, kind: str, number: int) -> None:
        gone = (kind, str(number))
        self.flows = {
            identity: flow
            for identity, flow in self.flows.items()
            if gone not in _REFERS.findall(flow.actions)
        }

    def _judge_references(self, actions: str, user: str) -> None:
        for kind, number in _REFERS.findall(actions):
            if kind == "group" and int(number) not in self.groups:
                raise OpenFlowError(f"OFPBAC_BAD_OUT_GROUP for {user}: group {number}")
            if kind == "meter" and int(number) not in self.meters:
                raise OpenFlowError(f"OFPMMFC_INVALID_METER for {user}: meter {number}")


class FakeFlowTable(Faulty):
    """`bridge.FlowTable`. Reads the ofctl text of each flow, as the real one does."""

    def __init__(self, kept: CookieMask = LEARNED) -> None:
        super().__init__()
        self.bundles: list[list[str]] = []
        """The commits that were taken: "add" or "delete" and the item as text for ovs-ofctl."""
        self.replaced: list[SyncResult] = []
        self.forgotten: list[tuple[IPv4Address, int, int]] = []
        self.forgotten_addresses: set[IPv4Address] = set()
        self.settled = 0
        """How many commits had been taken when `settle` last returned."""
        self._kept = kept
        self._held = Content()

    @property
    def groups(self) -> dict[int, str]:
        """The groups that exist."""
        return self._held.groups

    @property
    def meters(self) -> dict[int, str]:
        """The meters that exist."""
        return self._held.meters

    async def commit(self, mods: Sequence[Mod]) -> None:
        await self._enter("commit")
        held = self._held.copy()
        for mod in mods:
            if mod.op is Op.ADD:
                held.add(mod.item)
            else:
                held.delete(mod.item)
        self._held = held
        self.bundles.append([str(mod) for mod in mods])

    async def replace(self, items: Iterable[Item]) -> SyncResult:
        await self._enter("replace")
        self.replaced.append(self.load(items))
        return self.replaced[-1]

    async def settle(self) -> None:
        await self._enter("settle")
        self.settled = len(self.bundles)

    async def forget(self, endpoints: Iterable[tuple[IPv4Address, int, int]]) -> None:
        await self._enter("forget")
        self.forgotten += endpoints

    async def forget_addresses(self, addresses: Set[IPv4Address]) -> None:
        await self._enter("forget_addresses")
        self.forgotten_addresses |= addresses

    def load(self, items: Iterable[Item]) -> SyncResult:
        """Hold exactly `items` (and the learned flows) from now on, without anybody's call."""
        wanted = Content()
        for item in sorted(items, key=_rank):
            wanted.add(item)
        held, (cookie, mask) = self._held, self._kept
        learned = {key: flow for key, flow in held.flows.items() if flow.cookie & mask == cookie & mask}
        same = {
            key: held.flows[key]
            for key, flow in wanted.flows.items()
            if key in held.flows and _meaning(held.flows[key]) == _meaning(flow)
        }
        stale_flows = held.flows.keys() - wanted.flows.keys() - learned.keys()
        added = len(wanted.flows) - len(same)
        added += len(wanted.groups.items() - held.groups.items())
        added += len(wanted.meters.items() - held.meters.items())
        deleted = len(stale_flows) + len(held.groups.keys() - wanted.groups.keys())
        deleted += len(held.meters.keys() - wanted.meters.keys())
        self._held = replace(wanted, flows={**learned, **wanted.flows, **same})
        return SyncResult(
            added, deleted, _findings(held, wanted, stale_flows, wanted.flows.keys() - same.keys())
        )

    async def dump(self, cookie: int = 0, mask: int = 0) -> list[FlowStats]:
        await self._enter("dump")
        return [flow for flow in self._held.flows.values() if flow.cookie & mask == cookie & mask]

    async def dump_groups(self) -> dict[int, str]:
        await self._enter("dump_groups")
        return dict(self._held.groups)

    def content(self) -> dict[tuple[int, str], tuple[int, str]]:
        """What the tables hold, without the counters: (table, priority and match) to (cookie, actions)."""
        return {key: _meaning(flow) for key, flow in self._held.flows.items()}

    def clear(self) -> None:
        """The switch has lost everything, as it does when ovs-vswitchd restarts."""
        self._held = Content()

    def count(self, packets: int) -> None:
        """Each flow has seen this many packets more."""
        flows = self._held.flows
        self._held.flows = {key: replace(flow, packets=flow.packets + packets) for key, flow in flows.items()}


def _findings(
    held: Content, wanted: Content, stale: Iterable[tuple[int, str]], new: Iterable[tuple[int, str]]
) -> tuple[Finding, ...]:
    """What differed, by kind."""

    def differing(have: dict[int, str], want: dict[int, str]) -> set[int]:
        return {number for number, _ in have.items() ^ want.items()}

    return (
        *found(Kind.METER, [f"meter {each}" for each in differing(held.meters, wanted.meters)]),
        *found(Kind.GROUP, [f"group {each}" for each in differing(held.groups, wanted.groups)]),
        *found(Kind.FLOW, [f"table {table}, {match}" for table, match in sorted({*stale, *new})]),
    )


def read_flow(line: str) -> FlowStats:
    """A flow from its text. Raises OpenFlowError if ovs-ofctl or the switch would refuse it."""
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
    _judge_actions(table, actions, line)
    priority, cookie = int(values.pop("priority", "32768")), int(values.pop("cookie", "0"), 0)
    match = ",".join(f"{name}={value}" if value else name for name, value in sorted(values.items()))
    return FlowStats(table, priority, cookie, 0, 0, match, actions)


def _judge_actions(table: int, actions: str, line: str) -> None:
    for action in BETWEEN_ACTIONS.split(actions):
        name = re.split(r"[:=(]", action.strip(), maxsplit=1)[0].lower()
        if name not in ACTIONS and not name.isdigit():
            raise OpenFlowError(f"unknown action {name} in {line!r}")
        if name == "goto_table" and not table < int(action.strip()[len(name) + 1 :]) <= 254:
            raise OpenFlowError(f"OFPBRC_BAD_TABLE_ID: goto_table must go forward in {line!r}")


def _rank(item: Item) -> tuple[int, int]:
    """What flows refer to comes first; groups that others refer to have the higher ids."""
    match item:
        case Meter():
            return (0, 0)
        case Group():
            return (1, -item.id)
        case _:
            return (2, 0)


def _identity(flow: FlowStats) -> tuple[int, str]:
    return flow.table, f"{flow.priority},{flow.match}"


def _meaning(flow: FlowStats) -> tuple[int, str]:
    return flow.cookie, flow.actions
