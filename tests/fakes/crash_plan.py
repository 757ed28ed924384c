"""What the daemons of a lab shall do at their points: be killed at one, or write down those that they pass.

For `fakes.crashing`. It writes the files that `fakes.crashpoints` reads in every daemon.
"""

import asyncio
import json
import time
from pathlib import Path

from fakes import crashpoints

GRACE = 2.0
"""Seconds until a point that was not passed is given up."""
QUIET = 0.5
"""Seconds without a point after which an operation is over."""


class Plan:
    """The file that the daemons look at."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def record(self) -> None:
        """Have the points that are passed from now on written down."""
        (self._place / crashpoints.LOG).write_text("")
        self._write("")

    async def quiet(self) -> None:
        """Return once no more points are passed: some of an operation's effects come after its answer."""
        log, size, since = self._place / crashpoints.LOG, -1, time.monotonic()
        while time.monotonic() - since < QUIET:
            await asyncio.sleep(0.02)
            if (now := log.stat().st_size) != size:
                size, since = now, time.monotonic()

    def recorded(self) -> list[str]:
        """What was passed since; each once."""
        self.clear()
        return list(dict.fromkeys((self._place / crashpoints.LOG).read_text().splitlines()))

    def kill_at(self, point: str) -> None:
        """Let the next daemon die that comes there."""
        (self._place / crashpoints.FIRED).unlink(missing_ok=True)
        self._write(point)

    @property
    def fired(self) -> bool:
        return (self._place / crashpoints.FIRED).exists()

    async def awaited(self) -> bool:
        """Whether a daemon has died: what comes after an answer comes a little later than the answer."""
        deadline = time.monotonic() + GRACE
        while not self.fired and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return self.fired

    def clear(self) -> None:
        (self._place / crashpoints.PLAN).unlink(missing_ok=True)

    def _write(self, point: str) -> None:
        draft = self._place / "draft"
        draft.write_text(json.dumps({"point": point}))
        draft.rename(self._place / crashpoints.PLAN)
