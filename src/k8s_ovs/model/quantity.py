"""Kubernetes quantities, exactly, and the bandwidth limits that are written with them.

Used by the agent for the annotations of pods. The syntax is that of `resource.Quantity` (k8s.io/apimachinery,
pkg/api/resource): a decimal number with at most one suffix. Pure; knows nothing of pods.
"""

import re
from fractions import Fraction
from math import ceil

MIN_LIMIT, MAX_LIMIT = 10**3, 10**15
"""Bits per second that a bandwidth limit may have, both included: what the kubelet takes (1k and 1P)."""

_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([A-Za-z]*)([+-]?[0-9]+)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_MAX_DIGITS = 64
"""No quantity of a sensible size is longer; a bound keeps a hostile one from costing time."""
_MAX_EXPONENT = 64


def parse_quantity(text: str) -> Fraction:
    """The number that `text` stands for. Raises ValueError, saying why, if it stands for none.

    An exponent beyond what any resource can have is refused too; Kubernetes takes its value to be the largest there is.
    """
    found = _NUMBER.fullmatch(text) if len(text) <= _MAX_DIGITS else None
    if found is None or not (found[2] or found[3]):
        raise ValueError(f"{text[:_MAX_DIGITS]!r} is no quantity")
    sign, whole, fraction, suffix, exponent = found.groups(default="")
    digits = int(whole + fraction)
    value = Fraction(-digits if sign == "-" else digits, 10 ** len(fraction))
    if exponent:
        return value * _power_of_ten(text, suffix, int(exponent))
    if suffix in _DECIMAL:
        return value * Fraction(10) ** _DECIMAL[suffix]
    if suffix in _BINARY:
        return value * (1 << _BINARY[suffix])
    raise ValueError(f"{text!r} is no quantity: {suffix!r} is no unit")


def parse_limit(text: str) -> int:
    """A bandwidth limit in bits per second, rounded up as the kubelet does. Raises ValueError, saying why."""
    limit = ceil(parse_quantity(text))
    check_limit(limit, text)
    return limit


def check_limit(limit: int, text: str = "") -> None:
    """Raise ValueError if `limit`, in bits per second, is out of bounds; `text` is how it was written."""
    if not MIN_LIMIT <= limit <= MAX_LIMIT:
        raise ValueError(f"{text or limit} is not between 1k and 1P bits per second")


def _power_of_ten(text: str, suffix: str, exponent: int) -> Fraction:
    if suffix not in ("e", "E"):
        raise ValueError(f"{text!r} is no quantity: {suffix!r} is no unit")
    if abs(exponent) > _MAX_EXPONENT:
        raise ValueError(f"{text!r} has an exponent out of all bounds")
    return Fraction(10) ** exponent
