"""How long to wait before trying again: exponential backoff with full jitter.

For the retry loops of the agent and the controller. It computes delays; it never sleeps. `sources` has its
own, because layers that stand side by side do not import each other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

_MAX_DOUBLINGS = 62
"""Enough for any cap; keeps the exponent from growing without end."""


@dataclass(slots=True)
class Backoff:
    """Delays that grow from `base` to `cap` seconds, each drawn evenly between 0 and the present limit.

    Full jitter spreads the attempts of many clients that failed at the same moment better than a fixed or a
    partly random delay does (Brooker, "Exponential Backoff And Jitter", 2015). `uniform` returns a number in
    [0, 1); tests inject their own. `floor` is the least delay: 0 would let one client spin when it draws
    small numbers.
    """

    base: float = 0.1
    cap: float = 30.0
    floor: float = 0.0
    uniform: Callable[[], float] = field(default=random.random, repr=False)
    failures: int = field(default=0, init=False)

    def next(self) -> float:
        """Count one more failure and return the seconds to wait before the next attempt."""
        limit = min(self.cap, self.base * 2.0 ** min(self.failures, _MAX_DOUBLINGS))
        self.failures += 1
        return max(self.floor, limit * self.uniform())

    def reset(self) -> None:
        """Forget the failures, after an attempt that succeeded."""
        self.failures = 0
