"""How long the sources of the cluster's state have been silent, for metrics and alerts.

Asked by the metrics and looked at by the agent's health task: an outage counts from the look that met it first. It
decides nothing.
"""

from collections.abc import Callable, Mapping
from time import monotonic


class SourceLag:
    """`troubles` says for each source why nothing is heard of it now, or ""."""

    def __init__(
        self, troubles: Mapping[str, Callable[[], str]], clock: Callable[[], float] = monotonic
    ) -> None:
        self._troubles = troubles
        self._clock = clock
        self._since: dict[str, float] = {}

    def look(self) -> dict[str, float]:
        """Seconds for each source; 0 for one that is heard."""
        now, seconds = self._clock(), {}
        for source, trouble in self._troubles.items():
            if trouble():
                seconds[source] = now - self._since.setdefault(source, now)
            else:
                self._since.pop(source, None)
                seconds[source] = 0.0
        return seconds
