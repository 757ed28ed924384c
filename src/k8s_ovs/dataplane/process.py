"""Runs a command to its end: text in, text out, never longer than allowed, and never left behind.

For `openflow` and `firewall`. It judges no exit status.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

BREATH = 0.02
"""Seconds from the end of one command to the start of the next: whoever waited for it has something to do first."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended: its exit status and what it wrote."""

    status: int
    stdout: str
    stderr: str


async def run(argv: Sequence[str], stdin: str, deadline: float) -> Finished:
    """Run `argv` with `stdin`, without a shell and in the C locale.

    TimeoutError after `deadline` seconds; then, and when cancelled, the command is killed. OSError if it cannot be
    started.
    """
    return await _finish(await _start(argv), stdin, deadline)


class Standby:
    """One command, started before its input is known: to start it takes longer than what it does then.

    Only for a command that does nothing before its input has ended, and nothing if that is empty: so one that nobody
    needed any more does no harm, also when its owner was killed. While nobody awaits `keep`, each use starts its own.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._ready: asyncio.subprocess.Process | None = None
        self._used = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process that is ready; None while there is none."""
        return self._ready.pid if self._ready is not None else None

    async def keep(self) -> None:
        """Have one ready, and another one after each use, until cancelled."""
        try:
            while True:
                if self._ready is None:
                    with contextlib.suppress(OSError):  # who uses it tries again, and is told
                        self._ready = await _start(self._argv)
                await self._used.wait()
                await asyncio.sleep(BREATH)
                self._used.clear()
        finally:
            if self._ready is not None:
                await _kill(self._ready)
                self._ready = None

    async def run(self, stdin: str, deadline: float) -> Finished:
        """Like `run` of this module, with the command that is ready. One at a time."""
        process, self._ready = self._ready, None
        try:
            if process is None or process.returncode is not None:
                process = await _start(self._argv)
            return await _finish(process, stdin, deadline)
        finally:
            self._used.set()


async def _start(argv: Sequence[str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "LC_ALL": "C"}
    return await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


async def _finish(process: asyncio.subprocess.Process, stdin: str, deadline: float) -> Finished:
    try:
        async with asyncio.timeout(deadline):
            stdout, stderr = await process.communicate(stdin.encode())
    finally:
        await _kill(process)
    return Finished(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
