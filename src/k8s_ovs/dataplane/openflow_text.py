"""The language of ovs-ofctl, without running it: modifications as lines for it, and what it prints as values.

For `openflow`, and for nobody else. Spelling: ovs-ofctl(8), "Bundle Files", and what ovs-ofctl 3.1 prints.
"""

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from ipaddress import IPv4Address

from k8s_ovs.dataplane.bridge import FlowStats
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.diff import Mod, Op
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.group import Group

DEFAULT_PRIORITY = 32768

_LINE = re.compile(r"(?:-|/dev/stdin):(\d+): (.*)")
_REFUSED = re.compile(r"Error (OFP\w+) for: OFPT_(FLOW|GROUP)_MOD .*?:\s*(.*)")
_STATISTIC = re.compile(r"\b(cookie|table|n_packets|n_bytes)=(\w+)")
_PRIORITY = re.compile(r"(?:^|,)priority=(\d+)")
_NO_MATCH = re.compile(
    r"(?:^|[, ])(?:\w+_age|n_bytes|\w+_timeout|importance)=\d+[^,]*$|(?:^|[ ,])(?:send_flow_rem|reset_counts)$"
)
_GROUP = re.compile(r"^ ?(group_id=(\d+),.*)$", re.MULTILINE)
_ONE_FIELD = re.compile(r",fields\((\w+)\),")
_CLIENT = re.compile(r"\bnw_src=([0-9.]+)\b")
_LOADED = re.compile(r"\b0x([0-9a-f]+)->")
_METER = re.compile(r"^(meter=(\d+)\b.*\n(?:type=.*\n?)*)", re.MULTILINE)


def bundle_lines(mods: Iterable[Mod]) -> list[str]:
    """The flows and groups among `mods` as lines for `ovs-ofctl bundle`; meters have no place in a bundle.

    `add_or_mod` of a group changes it in place, so that the flows which refer to it stay.
    """
    lines: list[str] = []
    for mod in mods:
        match mod.op, mod.item:
            case Op.ADD, Flow() as flow:
                lines.append(f"flow add {flow.to_ofctl()}")
            case Op.DELETE, Flow() as flow:
                lines.append(f"flow delete_strict {flow.selector()}")
            case Op.ADD, Group() as group:
                lines.append(f"group add_or_mod {group.to_ofctl()}")
            case Op.DELETE, Group() as group:
                lines.append(f"group delete group_id={group.id}")
    return lines


def explain(stderr: str, lines: Sequence[str]) -> str:
    """What ovs-ofctl complains of, with the flow or group that it complains of.

    A syntax error names a line of the input; a refusal by the switch shows the thing itself.
    """
    if found := _REFUSED.search(stderr):
        return f"{found[1]} for the {found[2].lower()} {found[3].strip()!r}"
    if found := _LINE.search(stderr):
        position = int(found[1]) - 1
        line = lines[position] if position < len(lines) else "?"
        return f"{found[2]} in line {found[1]}: {line!r}"
    said = [line for line in stderr.strip().splitlines() if line.startswith("ovs-ofctl: ")]
    return (said or stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ovs-ofctl: ")


@dataclass(frozen=True, slots=True)
class PrintedFlow:
    """A flow as `diff-flows` prints it. `selector` is table, priority and match; `text` is all of it, to be read again."""

    selector: str
    cookie: int
    text: str


def parse_difference(printed: str) -> tuple[list[PrintedFlow], list[PrintedFlow]]:
    """The output of `diff-flows`: flows that the switch has and should not, and flows that it should have.

    A flow that is to be changed is in both, with the same selector.
    """
    have: list[PrintedFlow] = []
    want: list[PrintedFlow] = []
    for line in printed.splitlines():
        if line.startswith(("-", "+")):
            (have if line[0] == "-" else want).append(_printed_flow(line[1:]))
    return have, want


def _printed_flow(line: str) -> PrintedFlow:
    """One line without its sign: `[table=N ]MATCH [cookie=C] [other words] actions=A`."""
    head, found, actions = line.partition(" actions=")
    if not found:
        raise OpenFlowError(f"comparison of the flows: not a flow: {line!r}")
    words = head.split(" ")
    table = words.pop(0) if words[0].startswith("table=") else "table=0"
    match, *rest = words
    selector = f"{table},{match}".rstrip(",")
    cookie = next((int(word[7:], 16) for word in rest if word.startswith("cookie=")), 0)
    return PrintedFlow(selector, cookie, ",".join((selector, *rest, f"actions={actions}")))


def parse_groups(printed: str) -> dict[int, str]:
    """The output of `dump-groups`: each group by its id, in the spelling of `group_text`."""
    return {int(found[2]): found[1].rstrip() for found in _GROUP.finditer(printed)}


def group_text(group: Group) -> str:
    """The group as `dump-groups` prints it: `fields=A` if one field is hashed, `fields(A,B)` if two are."""
    return _ONE_FIELD.sub(r",fields=\1,", group.to_ofctl(), count=1)


def parse_meters(printed: str) -> dict[int, str]:
    """The output of `dump-meters`: each meter by its id, in the spelling of `Meter.to_ofctl`."""
    return {
        int(found[2]): ",".join(found[1].split()).replace("bands=,", "bands=")
        for found in _METER.finditer(printed)
    }


def parse_flow(line: str) -> FlowStats:
    """One line of `dump-flows`. Raises OpenFlowError if it is not one."""
    head, _, actions = line.strip().partition(" actions=")
    numbers = dict(_STATISTIC.findall(head))
    if not numbers.keys() >= {"cookie", "table", "n_packets", "n_bytes"}:
        raise OpenFlowError(f"dump of the flows: not a flow: {line.strip()!r}")
    head = head.rstrip(", ")
    match = "" if _NO_MATCH.search(head) else head.rpartition(", ")[2].rpartition(" ")[2]
    priority = _PRIORITY.search(match)
    return FlowStats(
        table=int(numbers["table"]),
        priority=int(priority[1]) if priority else DEFAULT_PRIORITY,
        cookie=int(numbers["cookie"], 16),
        packets=int(numbers["n_packets"]),
        octets=int(numbers["n_bytes"]),
        match=_PRIORITY.sub("", match).lstrip(","),
        actions=actions,
    )


def learned_about(addresses: Set[IPv4Address], printed: str) -> list[str]:
    """Of learned flows that `dump-flows` has printed, those that are of a client, or lead to an endpoint, with one of these.

    As lines for `ovs-ofctl bundle` that delete them.
    """
    names = {str(address) for address in addresses}
    numbers = {f"{int(address):x}" for address in addresses}
    lines: list[str] = []
    for line in printed.splitlines():
        match, found, actions = line.partition(" actions=")
        if found and not (
            names.isdisjoint(_CLIENT.findall(match)) and numbers.isdisjoint(_LOADED.findall(actions))
        ):
            flow = parse_flow(line)
            lines.append(f"flow delete_strict table={flow.table},priority={flow.priority},{flow.match}")
    return lines
