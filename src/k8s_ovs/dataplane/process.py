"""Runs a command to its end: text in, text out, never longer than allowed, and never left behind.

For `openflow` and `firewall`. It judges no exit status.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass


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
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "LC_ALL": "C"}
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    )
    try:
        async with asyncio.timeout(deadline):
            stdout, stderr = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return Finished(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
