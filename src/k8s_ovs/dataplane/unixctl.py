"""Commands to ovs-vswitchd itself, as ovs-appctl gives them: JSON-RPC on its control socket.

For `openflow`, which asks when the datapath has caught up with the tables. It interprets no answers. The socket is
RUNDIR/ovs-vswitchd.PID.ctl, and the process id is in RUNDIR/ovs-vswitchd.pid (ovs-appctl(8)).
"""

import asyncio
import json
from pathlib import Path

from k8s_ovs.errors import OpenFlowError

REMEDY = "check that ovs-vswitchd runs and that --ovs-rundir names its folder"
DAEMON = "ovs-vswitchd"


class UnixctlConnection:
    """One connection to ovs-vswitchd; an async context manager. Calls come one after another."""

    def __init__(self, rundir: Path, deadline: float) -> None:
        """`deadline` in seconds holds for each call."""
        self._rundir = rundir
        self._deadline = deadline
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._number = 0

    async def __aenter__(self) -> "UnixctlConnection":
        pidfile = self._rundir / f"{DAEMON}.pid"
        try:
            pid = int(pidfile.read_text())
            path = self._rundir / f"{DAEMON}.{pid}.ctl"
            self._streams = await asyncio.open_unix_connection(str(path))
        except (OSError, ValueError) as error:
            raise OpenFlowError(f"{DAEMON} named by {pidfile}: {error}", remedy=REMEDY) from error
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def call(self, method: str, *arguments: str) -> str:
        """The command's output. Raises OpenFlowError with what ovs-vswitchd says, or if it does not answer."""
        if self._streams is None:
            raise OpenFlowError(f"{method}: not connected to {DAEMON}", remedy=REMEDY)
        reader, writer = self._streams
        self._number += 1
        writer.write(
            json.dumps({"id": self._number, "method": method, "params": list(arguments)}).encode()
        )
        try:
            async with asyncio.timeout(self._deadline):
                await writer.drain()
                answer = await _read_object(reader)
        except TimeoutError:
            raise OpenFlowError(f"{method}: no answer from {DAEMON} within {self._deadline:g} s") from None
        except (OSError, EOFError) as error:
            raise OpenFlowError(f"{method}: {DAEMON} went away ({error})", remedy=REMEDY) from error
        if answer.get("error") is not None:
            raise OpenFlowError(f"{method}: {DAEMON} says: {str(answer['error']).strip()}")
        return str(answer.get("result") or "")


async def _read_object(reader: asyncio.StreamReader) -> dict[str, object]:
    """The next JSON object; the protocol has no frames, so that an object ends where it can be read."""
    text = ""
    while True:
        chunk = await reader.read(65536)
        if not chunk:
            raise EOFError("end of file")
        text += chunk.decode()
        try:
            answer = json.loads(text)
        except ValueError:
            continue
        return answer if isinstance(answer, dict) else {}
