"""What has to be sent so that the bridge holds what it should: the comparison behind `FlowTable.replace`.

For `openflow`. Pure: it reads what ovs-ofctl printed and sends nothing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from k8s_ovs.dataplane.bridge import SyncResult
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.dataplane.openflow_text import (
    PrintedFlow,
    bundle_lines,
    group_text,
    parse_difference,
    parse_groups,
    parse_meters,
)
from k8s_ovs.flows.diff import Item, add, in_order
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.group import Group, Meter, MeterId
from k8s_ovs.flows.names import (
    DROP_BIT,
    MAGIC_SHIFT,
    STAGE_MASK,
    STAGE_SHIFT,
    StageId,
    cookie_of,
    describe,
)
from k8s_ovs.flows.tables import table_name

CookieMask = tuple[int, int]
"""A cookie, and the bits of it that count."""

LEARNED: CookieMask = (
    cookie_of(StageId.AFFINITY),
    0xFFFF << MAGIC_SHIFT | DROP_BIT | STAGE_MASK << STAGE_SHIFT,
)
"""The cookie of flows that the switch has learned by itself or lets go by itself: session affinity."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the bridge should hold, by kind. `flows` are lines for ovs-ofctl."""

    flows: list[str]
    groups: Mapping[int, Group]
    meters: Mapping[int, Meter]

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Wanted":
        """Sort `items` by kind."""
        flows: list[str] = []
        groups: dict[int, Group] = {}
        meters: dict[int, Meter] = {}
        for item in items:
            match item:
                case Flow():
                    flows.append(item.to_ofctl())
                case Group():
                    groups[item.id] = item
                case Meter():
                    meters[item.id] = item
        return cls(flows, groups, meters)


@dataclass(frozen=True, slots=True)
class Repair:
    """What to send, in this order: meters to make or change, lines of one bundle, meters to delete."""

    meters: list[Meter]
    lines: list[str]
    stale_meters: list[MeterId]
    result: SyncResult

    @classmethod
    def of(cls, wanted: Wanted, flows: str, groups: str, meters: str, kept: CookieMask) -> "Repair":
        """Compare `wanted` with the output of diff-flows, dump-groups and dump-meters; flows with `kept` stay."""
        held_groups, held_meters = parse_groups(groups), parse_meters(meters)
        changed_meters = [
            meter for meter in wanted.meters.values() if held_meters.get(meter.id) != meter.to_ofctl()
        ]
        changed_groups = [
            group for group in wanted.groups.values() if held_groups.get(group.id) != group_text(group)
        ]
        stale_meters = [MeterId(number) for number in held_meters.keys() - wanted.meters.keys()]
        stale_groups = sorted(held_groups.keys() - wanted.groups.keys())
        stale_flows, new_flows, held_flows = _flows(flows, kept)
        lines = bundle_lines(in_order(add(group) for group in changed_groups))
        lines += [f"flow delete_strict {flow.selector}" for flow in stale_flows]
        lines += [f"flow add {flow.text}" for flow in new_flows]
        lines += [f"group delete group_id={number}" for number in stale_groups]
        added = len(changed_meters) + len(changed_groups) + len(new_flows)
        deleted = len(stale_meters) + len(stale_groups) + len(stale_flows)
        findings = (
            *_about(Kind.METER, held_meters.keys(), [meter.id for meter in changed_meters], stale_meters),
            *_about(Kind.GROUP, held_groups.keys(), [group.id for group in changed_groups], stale_groups),
            *_about_flows(stale_flows, new_flows, held_flows),
        )
        return cls(changed_meters, lines, stale_meters, SyncResult(added, deleted, findings))


def _flows(printed: str, kept: CookieMask) -> tuple[list[PrintedFlow], list[PrintedFlow], Collection[str]]:
    """The flows to delete, those to add, and the selectors of those that are to be changed.

    One that is to be changed is only added, which replaces it.
    """
    have, want = parse_difference(printed)
    selectors = {flow.selector for flow in want}
    cookie, mask = kept
    stale = [flow for flow in have if flow.selector not in selectors and flow.cookie & mask != cookie & mask]
    return stale, want, selectors & {flow.selector for flow in have}


def _about(
    kind: Kind, held: Collection[int], changed: Sequence[int], stale: Sequence[int]
) -> tuple[Finding, ...]:
    """Groups or meters, by their ids."""
    names = [f"{kind} {each}: {'was changed' if each in held else 'was missing'}" for each in changed]
    return found(kind, [*names, *(f"{kind} {each}: is not ours" for each in stale)])


def _about_flows(
    stale: Sequence[PrintedFlow], new: Sequence[PrintedFlow], changed: Collection[str]
) -> tuple[Finding, ...]:
    """Flows by table, match and what their cookie says. A switch that lost all has 100,000 of them: a few are named."""

    def names() -> Iterator[str]:
        for flow in new:
            yield f"{flow_name(flow)}: {'was changed' if flow.selector in changed else 'was missing'}"
        for flow in stale:
            yield f"{flow_name(flow)}: is not ours"

    return found(Kind.FLOW, names(), len(stale) + len(new))


def flow_name(flow: PrintedFlow) -> str:
    """What people know a flow by: its table's name, what it matches, and what it is about."""
    table, _, match = flow.selector.removeprefix("table=").partition(",")
    meaning = describe(flow.cookie)
    return f"table {table_name(int(table))}, {match or 'any packet'}" + (f" ({meaning})" if meaning else "")
