"""How long to wait before the next try: exponential with full jitter.

Used by the reflector. Never waits itself.
"""

from dataclasses import dataclass, field
from random import Random

FLOOR_SECONDS = 0.05
"""Never less than this, so that a run of lucky small numbers is no busy loop."""


@dataclass(slots=True)
class Backoff:
    """Delays in seconds: uniform between FLOOR_SECONDS and `base` x 2^n, at most `cap`.

    Full jitter spreads the agents of a thousand nodes that all lost the same server at the same moment.
    """

    base: float = 0.2
    cap: float = 15.0
    random: Random = field(default_factory=Random)
    failures: int = 0

    def next(self) -> float:
        """The delay after one more failure."""
        top = min(self.cap, self.base * 2 ** min(self.failures, 32))
        self.failures += 1
        return self.random.uniform(min(FLOOR_SECONDS, top), top)

    def reset(self) -> None:
        """Start anew: things went well for a while."""
        self.failures = 0
