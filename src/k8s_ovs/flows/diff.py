"""The difference between two sets of flows, groups and meters, as modifications.

Used by `flows.pipeline` for what changed, and sent by the dataplane: flows and groups as one bundle, meters before or
after it, because OpenFlow has no bundle for them. Never talks to a switch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from k8s_ovs.flows.flow import Flow, Identity
from k8s_ovs.flows.group import Group, Meter

Item = Flow | Group | Meter
"""What a bridge holds."""
ItemIdentity = Identity | tuple[str, int]


class Op(StrEnum):
    """What to do with an item."""

    ADD = "add"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Mod:
    """Add `item` (replacing the one with the same identity), or delete the item that has its identity."""

    op: Op
    item: Item

    def to_ofctl(self) -> str:
        """A line for `ovs-ofctl bundle`; for a meter, which no bundle takes, the argument of add-meter or del-meters."""
        match self.op, self.item:
            case Op.ADD, Flow():
                return f"flow add {self.item.to_ofctl()}"
            case Op.DELETE, Flow():
                return f"flow delete_strict {self.item.selector()}"
            case Op.ADD, Group():
                return f"group add_or_mod {self.item.to_ofctl()}"
            case Op.DELETE, Group(id=number):
                return f"group delete group_id={number}"
            case Op.DELETE, Meter(id=meter):
                return f"meter={meter}"
            case _:
                return self.item.to_ofctl()

    def __str__(self) -> str:
        return self.to_ofctl()


def add(item: Item) -> Mod:
    """The modification that adds or replaces `item`."""
    return Mod(Op.ADD, item)


def delete(item: Item) -> Mod:
    """The modification that deletes the item with the identity of `item`."""
    return Mod(Op.DELETE, item)


def in_order(mods: Iterable[Mod]) -> list[Mod]:
    """The order that the switch needs, whatever refers to what.

    What flows refer to comes before them and goes after them; among flows, deletes come first. Groups that others refer
    to have the higher ids, so that they come first and go last.
    """
    return sorted(mods, key=_rank)


def _rank(mod: Mod) -> tuple[int, int]:
    match mod.op, mod.item:
        case Op.ADD, Meter():
            return (0, 0)
        case Op.ADD, Group(id=number):
            return (1, -number)
        case Op.DELETE, Flow():
            return (2, 0)
        case Op.ADD, Flow():
            return (3, 0)
        case Op.DELETE, Group(id=number):
            return (4, number)
        case _:
            return (5, 0)


def difference(have: Iterable[Item], want: Iterable[Item]) -> list[Mod]:
    """What turns `have` into `want`, in order. Each identity occurs once."""
    old: dict[ItemIdentity, Item] = {item.identity: item for item in have}
    new: dict[ItemIdentity, Item] = {item.identity: item for item in want}
    mods = [delete(item) for identity, item in old.items() if identity not in new]
    mods += [add(item) for identity, item in new.items() if old.get(identity) != item]
    return in_order(mods)
