"""Processes that the lab keeps running: start, record, start again with backoff.

Called by the supervisor, one `Supervised` for each command. Who it is, is recorded (`processid`).
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from k8s_ovs.lab.commands import Command
from k8s_ovs.lab.processid import ProcessId

HEALTHY_AFTER = 10.0
"""Seconds after which an end is an accident and not a failure to start: the next start comes at once."""
KILLED_AFTER = 0.2
"""Seconds that a killed process must have lived for its next start to come at once: no hot loop, whatever happens."""
_FIRST_DELAY = 0.1
_MAX_DELAY = 5.0


def restart_delay(failures: int) -> float:
    """Seconds to wait before the next start, after so many short lives in a row: none for the first."""
    return 0.0 if failures <= 1 else min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** min(failures - 2, 10))


class Supervised:
    """One command, kept running until `run` is cancelled; then it is killed.

    `on_change` is called after each start and end. While `stopped` says so it is not started; `look` makes it ask again.
    With `grace` it is asked to end (SIGTERM) and has so many seconds before it is killed.
    """

    def __init__(
        self,
        command: Command,
        *,
        on_change: Callable[[], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.command = command
        self.process_id: ProcessId | None = None
        self.restarts = -1
        self.last_exit: int | None = None
        self.grace = 0.0
        self._on_change = on_change
        self._stopped = stopped
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Start the process, and again whenever it ends."""
        failures = 0
        while True:
            while self._stopped():
                self._look.clear()
                await self._look.wait()
                failures = 0
            begun = time.monotonic()
            await self._once()
            lived = time.monotonic() - begun
            failures = 0 if lived > HEALTHY_AFTER or self._killed(lived) else failures + 1
            await asyncio.sleep(restart_delay(failures))

    def look(self) -> None:
        """It may be wanted again."""
        self._look.set()

    def _killed(self, lived: float) -> bool:
        """Whether somebody killed it, as tests do: that says nothing of its health, and no delay is due."""
        return self.last_exit == -signal.SIGKILL and lived > KILLED_AFTER

    async def _once(self) -> None:
        with self.command.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.command.full_argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.command.env},
                start_new_session=True,
            )
        self.process_id = ProcessId.of(process.pid)
        self.restarts += 1
        self._on_change()
        try:
            self.last_exit = await process.wait()
        except asyncio.CancelledError:
            await self._end(process)
            raise
        finally:
            self.process_id = None
            self._on_change()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        try:
            if self.grace:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                async with asyncio.timeout(self.grace):
                    await process.wait()
        except TimeoutError:
            pass  # killed below
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def log_tail(path: Path, lines: int = 8) -> str:
    """The last lines of a log file, for error messages."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
