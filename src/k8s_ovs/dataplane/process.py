"""Runs a command to its end: text in, text out, never longer than allowed, and never left behind.

For `openflow` and `firewall`. It judges no exit status. A command that was started gets the whole of its input or nothing,
also when we are killed meanwhile: half of a bundle would be a bundle too.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

PIPE_OCTETS = 1 << 16
"""What an empty pipe takes in one write(2), whole: pipe(7), "Pipe capacity"."""
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
    with _file_of(stdin) as file:
        process = await _start(argv, file.fileno())
    return await _finish(process, None, deadline)


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
                if self._ready is None or self._ready.returncode is not None:
                    with contextlib.suppress(OSError):  # who uses it tries again, and is told
                        self._ready = await _start(self._argv, asyncio.subprocess.PIPE)
                await self._used.wait()
                await asyncio.sleep(BREATH)
                self._used.clear()
        finally:
            if self._ready is not None:
                await _kill(self._ready)
                self._ready = None

    async def run(self, stdin: str, deadline: float) -> Finished:
        """Like `run` of this module, with the command that is ready. One at a time."""
        data = stdin.encode()
        if self._ready is None or self._ready.returncode is not None or len(data) > PIPE_OCTETS:
            self._used.set()  # one that has ended is replaced
            return await run(self._argv, stdin, deadline)
        process, self._ready = self._ready, None
        try:
            return await _finish(process, data, deadline)
        finally:
            self._used.set()


def _file_of(text: str) -> BinaryIO:
    """A file in memory, to be read from its beginning."""
    file = os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b")
    file.write(text.encode())
    file.seek(0)
    return file


async def _start(argv: Sequence[str], stdin: int) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "LC_ALL": "C"}
    return await asyncio.create_subprocess_exec(*argv, stdin=stdin, stdout=pipe, stderr=pipe, env=environment)


async def _finish(process: asyncio.subprocess.Process, data: bytes | None, deadline: float) -> Finished:
    try:
        async with asyncio.timeout(deadline):
            stdout, stderr = await process.communicate(data)
    finally:
        await _kill(process)
    return Finished(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
