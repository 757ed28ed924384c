"""Flows of the switch as people read them: names of stages, registers and zones instead of numbers.

For `k8s-ovs flows` and `k8s-ovs trace`. It rewrites what Open vSwitch prints (ovs-ofctl(8), ovs-fields(7)); what it has no
name for stays as it is. It never asks a switch.
"""

import re
from collections.abc import Iterator

from k8s_ovs.flows.fields import CT_ZONES, METADATA, ORIGIN, Bits, Origin
from k8s_ovs.flows.tables import TABLES, table_name

_REGISTER = re.compile(r"\b(reg\d+)=(0x[0-9a-f]+|\d+)(?:/(0x[0-9a-f]+))?")
_SET = re.compile(r"\bset_field:(0x[0-9a-f]+|\d+)(?:/(0x[0-9a-f]+))?->(reg\d+)\b")
_NXM = re.compile(r"NXM_NX_REG\d+\[[0-9.]*\]")
_GOTO = re.compile(r"\bgoto_table:(\d+)")
_RESUBMIT = re.compile(r"\bresubmit\((\w*),(\d+)\)")
_TABLE = re.compile(r"\btable=(\d+)")
_ZONE = re.compile(r"\bzone=(\d+)")
_ZONES = {number: name for name, number in CT_ZONES.items()}
_BY_NXM = {bits.nxm: bits.name for bits in METADATA}
_NUMBERS = {table.name: table.number for table in TABLES.values()}
_FULL = 0xFFFFFFFF


def table_number(name: str) -> int | None:
    """The number of a table by the name that people see; None if there is none."""
    return _NUMBERS.get(name)


def match_text(match: str) -> str:
    """A match, with the bits of registers by name: `reg0=0xa/0xffffff` is `source VNI=10`."""
    return _REGISTER.sub(lambda found: ",".join(_named(found[1], found[2], found[3], "=")), match)


def actions_text(actions: str) -> str:
    """Actions, with registers, tables and conntrack zones by name."""
    text = _SET.sub(lambda found: ",".join(_named(found[3], found[1], found[2], ":=")), actions)
    text = _NXM.sub(lambda found: _BY_NXM.get(found[0], found[0]), text)
    text = _GOTO.sub(lambda found: f"goto {table_name(int(found[1]))}", text)
    text = _RESUBMIT.sub(lambda found: f"ask {table_name(int(found[2]))}", text)
    text = _TABLE.sub(lambda found: f"table={table_name(int(found[1]))}", text)
    return _ZONE.sub(lambda found: f"zone={_ZONES.get(int(found[1]), found[1])}", text)


def _named(register: str, value: str, mask: str | None, sign: str) -> Iterator[str]:
    """The parts of a register that the mask covers, each with its name."""
    number, covered = int(value, 0), int(mask, 0) if mask else _FULL
    for bits in METADATA:
        if bits.field.name == register and bits.mask & covered:
            yield f"{bits.name}{sign}{_value(bits, (number & bits.mask) >> bits.start)}"
            covered &= ~bits.mask
    # A whole register has bits without a name; only what is set there means anything.
    if number & covered:
        yield f"{register}{sign}{number & covered:#x}"


def _value(bits: Bits, number: int) -> str:
    if bits is ORIGIN and number in list(Origin):
        return Origin(number).name.lower()
    return str(number)
