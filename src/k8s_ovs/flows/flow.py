"""One OpenFlow flow as a value: match, actions, cookie; and its spelling for ovs-ofctl.

Made by the tables (`flows.tables`), which check it against their declaration; compared by `flows.diff`; sent by the
dataplane. Never talks to a switch. Spelling: ovs-fields(7), ovs-actions(7), "Flow Syntax" of ovs-ofctl(8).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from operator import attrgetter
from typing import NamedTuple

from k8s_ovs.errors import PipelineError
from k8s_ovs.flows.fields import ETH_TYPE, IP_PROTO, Bits, Field


class FieldTest(NamedTuple):
    """One field of a match: the packet's `field & mask` equals `value`. Value and mask are numbers, host order.

    A tuple, because what flows there are is looked up by their matches, thousands at a time.
    """

    field: Field
    value: int
    mask: int

    @property
    def exact(self) -> bool:
        """Every bit of the field is compared."""
        return self.mask == self.field.full


Match = tuple[FieldTest, ...]
"""Tests of different fields, in the order of `Field.order`: equal matches are equal tuples."""


def match_of(wanted: Iterable[tuple[Bits, int]]) -> Match:
    """A match from pairs of bits and value; bits of the same field are joined. Raises PipelineError on a contradiction."""
    tests: dict[Field, FieldTest] = {}
    for bits, value in wanted:
        test = FieldTest(bits.field, bits.place(value), bits.mask)
        other = tests.get(test.field)
        tests[test.field] = test if other is None else _joined(other, test)
    return tuple(sorted(tests.values(), key=_position))


def _joined(one: FieldTest, other: FieldTest) -> FieldTest:
    """Both tests of a field in one."""
    overlap = one.mask & other.mask
    if one.value & overlap != other.value & overlap:
        raise PipelineError(
            f"match tests {one.field.name} for two values: {one.value:#x} and {other.value:#x}"
        )
    return FieldTest(one.field, one.value | other.value, one.mask | other.mask)


_position = attrgetter("field.order")


@dataclass(frozen=True, slots=True)
class SetField:
    """Write `value` into `bits`."""

    bits: Bits
    value: int

    def __str__(self) -> str:
        field = self.bits.field
        if self.bits.mask == field.full:
            return f"set_field:{field.show(self.value)}->{field.written}"
        value = field.show(self.bits.place(self.value))
        return f"set_field:{value}{field.show_mask(self.bits.mask)}->{field.written}"


@dataclass(frozen=True, slots=True)
class Move:
    """Copy `source` into `target`, which has the same width."""

    source: Bits
    target: Bits

    def __str__(self) -> str:
        return f"move:{self.source.nxm}->{self.target.nxm}"


@dataclass(frozen=True, slots=True)
class Output:
    """Send the packet out of the port whose number is in `bits`; nothing happens if that is the port it came from."""

    bits: Bits

    def __str__(self) -> str:
        return f"output:{self.bits.nxm}"


@dataclass(frozen=True, slots=True)
class OutputInPort:
    """Send the packet back out of the port that it came from."""

    def __str__(self) -> str:
        return "IN_PORT"


@dataclass(frozen=True, slots=True)
class Goto:
    """Go on in the table with this number, which is higher than the flow's own."""

    table: int

    def __str__(self) -> str:
        return f"goto_table:{self.table}"


@dataclass(frozen=True, slots=True)
class Nat:
    """Translate the destination, or (`source`) the source, to `address` and, unless 0, `port`."""

    address: IPv4Address
    port: int = 0
    source: bool = False

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"nat({'src' if self.source else 'dst'}={self.address}{port})"


@dataclass(frozen=True, slots=True)
class Ct:
    """Pass through conntrack in `zone`, and go on in `table` with what it says; a later table or an earlier one.

    With `nat`, a new connection is committed with that translation; without, the translation of a known connection is
    applied, in its direction, and a new connection stays unknown. See ovs-actions(7), "ct".
    """

    zone: int
    table: int
    nat: Nat | None = None

    def __str__(self) -> str:
        commit, nat = ("commit,", str(self.nat)) if self.nat is not None else ("", "nat")
        return f"ct({commit}table={self.table},zone={self.zone},{nat})"


@dataclass(frozen=True, slots=True)
class GroupAction:
    """Let the group with this id choose what happens."""

    group: int

    def __str__(self) -> str:
        return f"group:{self.group}"


@dataclass(frozen=True, slots=True)
class MeterAction:
    """Let the meter with this id drop the packet if it exceeds the meter's rate; what comes behind is not done then."""

    meter: int

    def __str__(self) -> str:
        return f"meter:{self.meter}"


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Apply the flow of `table` that matches, and go on behind this action."""

    table: int

    def __str__(self) -> str:
        return f"resubmit(,{self.table})"


@dataclass(frozen=True, slots=True)
class Learn:
    """Let the switch itself add a flow to `table`, for `seconds` from now on, also if it is there already.

    It matches the packets whose `matches` are as this packet's, of the IP protocol `protocol`, and copies to them the
    `loads` that this packet has. See ovs-actions(7), "learn".
    """

    table: int
    seconds: int
    priority: int
    cookie: int
    protocol: int
    matches: tuple[Bits, ...]
    loads: tuple[Bits, ...]

    def __str__(self) -> str:
        words = [f"table={self.table}", f"hard_timeout={self.seconds}", f"priority={self.priority}"]
        words += [f"cookie={self.cookie:#x}", "eth_type=0x800", f"nw_proto={self.protocol}"]
        words += [bits.nxm for bits in self.matches]
        words += [f"load:{bits.nxm}->{bits.nxm}" for bits in self.loads]
        return f"learn({','.join(words)})"


Action = SetField | Move | Output | OutputInPort | Goto | Ct | GroupAction | MeterAction | Resubmit | Learn

Identity = tuple[int, int, Match]
"""Table, priority and match."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow. No actions means: drop. `cookie` is laid out in `flows.names`.

    With `idle` the switch removes it by itself once no packet has met it for that many seconds.
    """

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...]
    cookie: int = 0
    idle: int = 0

    @property
    def identity(self) -> Identity:
        """What makes two flows the same flow for OpenFlow: adding one replaces the other."""
        return (self.table, self.priority, self.match)

    def match_text(self) -> str:
        """The match as ovs-ofctl prints it, without the priority; empty if everything matches."""
        return ",".join(_match_words(self.match))

    def actions_text(self) -> str:
        """The actions for ovs-ofctl."""
        return ",".join(map(str, self.actions)) or "drop"

    def selector(self) -> str:
        """Table, priority and match for ovs-ofctl: what `delete_strict` needs."""
        words = [f"table={self.table}", f"priority={self.priority}", *_match_words(self.match)]
        return ",".join(words)

    def to_ofctl(self) -> str:
        """One line that `ovs-ofctl add-flow` and `replace-flows` read."""
        idle = f"idle_timeout={self.idle}," if self.idle else ""
        return f"cookie={self.cookie:#x},{idle}{self.selector()},actions={self.actions_text()}"

    def __str__(self) -> str:
        return self.to_ofctl()


_PROTOCOL_WORDS = {0x0806: "arp", 0x86DD: "ipv6", 0x0800: "ip"}
_TRANSPORT_WORDS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}
_BEFORE_PROTOCOL = 8
"""Fields of a lower order come before the word for the protocol."""


def _match_words(match: Match) -> list[str]:
    by_field = {test.field: test for test in match}
    words = [_test_word(test) for test in match if test.field.order < _BEFORE_PROTOCOL]
    shown: set[Field] = set()
    kind = by_field.get(ETH_TYPE)
    if kind is not None and kind.value in _PROTOCOL_WORDS:
        words.append(_PROTOCOL_WORDS[kind.value])
        shown.add(ETH_TYPE)
        proto = by_field.get(IP_PROTO)
        if kind.value == 0x0800 and proto is not None and proto.value in _TRANSPORT_WORDS:
            words[-1] = _TRANSPORT_WORDS[proto.value]
            shown.add(IP_PROTO)
    for test in match:
        if test.field not in shown and test.field.order >= _BEFORE_PROTOCOL:
            words.append(_test_word(test))
    return words


def _test_word(test: FieldTest) -> str:
    field = test.field
    if field.show_flags is not None:
        return f"{field.name}={field.show_flags(test.value, test.mask)}"
    mask = "" if test.exact else field.show_mask(test.mask)
    return f"{field.name}={field.show(test.value)}{mask}"
