"""Ages as kubectl shows them: "47s", "3m12s", "5d".

Called by the tables. Source: apimachinery's duration.HumanDuration.
"""

from datetime import UTC, datetime
from typing import Any

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 86400 * 365
_STEPS: tuple[tuple[int, int, str, int, str], ...] = (
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
)
"""Below this many seconds: the unit, its letter, the second unit and its letter."""


def human(seconds: float) -> str:
    """A duration in one or two units; what is negative is 0s."""
    total = max(int(seconds), 0)
    for below, unit, letter, second, second_letter in _STEPS:
        if total < below:
            head, rest = divmod(total, unit)
            tail = rest // second if second else 0
            return f"{head}{letter}" + (f"{tail}{second_letter}" if tail else "")
    return f"{total // _YEAR}y"


def age(timestamp: Any) -> str:
    """Time since a `metav1.Time`; "<unknown>" when there is none."""
    if not isinstance(timestamp, str) or not timestamp:
        return "<unknown>"
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<unknown>"
    return human((datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds())
