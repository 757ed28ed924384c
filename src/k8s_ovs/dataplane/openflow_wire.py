"""An OpenFlow connection to the bridge's management socket for the few messages that ovs-ofctl is no good for.

For `openflow` and `mgmt`. Meters, because ovs-ofctl needs one process for each; and a modification that changes nothing,
because it has to be sent twice while `openflow_settle` waits. Flows and groups go through ovs-ofctl, which knows how to
spell them. OpenFlow 1.5.1 (ONF TS-025).
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.group import Meter, MeterId

VERSION = 6
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY = 0, 1, 2, 3
FLOW_MOD, BARRIER_REQUEST, BARRIER_REPLY, METER_MOD = 14, 20, 21, 29
HEADER = struct.Struct("!BBHI")
"""version, type, length with this header, transaction id"""

REMEDY = "check that ovs-vswitchd runs and that --ovs-rundir names its folder"

_ERROR = struct.Struct("!HH")
_METER = struct.Struct("!HHI")
_BAND = struct.Struct("!HHII4x")
_ADD, _MODIFY, _DELETE = 0, 1, 2
_KBPS, _BURST, _STATS = 1, 4, 8
_DROP_BAND = 1
_METER_FAILED = 12
_METER_EXISTS = (_METER_FAILED, 1)
_UNKNOWN_METER = (_METER_FAILED, 3)
_METER_ERRORS = {
    2: "invalid meter",
    6: "rate not supported",
    7: "burst not supported",
    10: "no more meters available",
}

_NOTHING = struct.pack(
    "!QQBBHHHIIIHHHH4x", 0, 0, 253, 4, 0, 0, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 1, 4
)
"""The body of a FLOW_MOD that deletes, strictly, a flow of table 253 that never was (7.3.4.2)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The switch refused a message: its transaction id, type and code (OpenFlow 1.5.1, 7.5.4)."""

    xid: int
    error: tuple[int, int]


async def read_message(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """The next message: type, transaction id, body."""
    _, kind, length, xid = HEADER.unpack(await reader.readexactly(HEADER.size))
    return kind, xid, await reader.readexactly(max(0, length - HEADER.size))


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    """A message, ready to be written."""
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


class Session:
    """A connection on which messages are sent and confirmed; made by `connect`. One task uses it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._xid = 1

    async def send(self, messages: Iterable[tuple[int, bytes]] = ()) -> list[Refusal]:
        """Send `messages` (type and body) and return what was refused once the switch has handled all of them."""
        first = self._xid + 1
        for kind, body in messages:
            self._xid += 1
            self._writer.write(message(kind, self._xid, body))
        self._xid += 1
        self._writer.write(message(BARRIER_REQUEST, self._xid))
        await self._writer.drain()
        refused: list[Refusal] = []
        while True:
            kind, xid, body = await read_message(self._reader)
            if kind == ECHO_REQUEST:
                self._writer.write(message(ECHO_REPLY, xid, body))
            elif kind == ERROR:
                refused.append(Refusal(xid - first, _ERROR.unpack_from(body)))
            elif kind == BARRIER_REPLY and xid == self._xid:
                return refused

    async def touch(self) -> None:
        """Let the switch look at its datapath flows again, as after every modification; nothing is modified."""
        if refused := await self.send([(FLOW_MOD, _NOTHING)]):
            raise OpenFlowError(f"deleting a flow that does not exist: refused with error {refused[0].error}")

    async def add_meters(self, meters: Iterable[Meter]) -> None:
        """Make each meter, or change the one that exists. Raises OpenFlowError; those before the refused one stay."""
        wanted = list(meters)
        refused = await self.send((METER_MOD, _meter_body(_ADD, meter)) for meter in wanted)
        exist = [wanted[one.xid] for one in refused if one.error == _METER_EXISTS]
        _complain(wanted, [one for one in refused if one.error != _METER_EXISTS])
        if exist:
            _complain(exist, await self.send((METER_MOD, _meter_body(_MODIFY, meter)) for meter in exist))

    async def delete_meters(self, ids: Iterable[MeterId]) -> None:
        """Delete the meters, and with them the flows that use them; those that do not exist are no error."""
        bodies = [_METER.pack(_DELETE, 0, number) for number in ids]
        refused = await self.send((METER_MOD, body) for body in bodies)
        if hard := [one for one in refused if one.error != _UNKNOWN_METER]:
            raise OpenFlowError(f"deleting {len(bodies)} meters: refused with error {hard[0].error}")


@contextlib.asynccontextmanager
async def connect(socket: Path, deadline: float, what: str) -> AsyncIterator[Session]:
    """A session with the bridge whose management socket this is; `what` says in errors what was tried.

    Everything done with it has to end within `deadline` seconds. OpenFlowError if it does not, or the switch goes away.
    """
    try:
        async with asyncio.timeout(deadline):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(message(HELLO, 1))
                kind, _, _ = await read_message(reader)
                if kind != HELLO:
                    raise OpenFlowError(f"{what}: {socket} does not speak OpenFlow 1.5 (message type {kind})")
                yield Session(reader, writer)
            finally:
                writer.close()
    except TimeoutError:
        raise OpenFlowError(f"{what}: no answer from {socket} within {deadline:g} s", remedy=REMEDY) from None
    except (OSError, asyncio.IncompleteReadError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "connection closed"
        raise OpenFlowError(f"{what}: {socket}: {reason}", remedy=REMEDY) from error


def _meter_body(command: int, meter: Meter) -> bytes:
    head = _METER.pack(command, _KBPS | _BURST | _STATS, meter.id)
    return head + _BAND.pack(_DROP_BAND, _BAND.size, meter.rate, meter.burst)


def _complain(meters: list[Meter], refused: list[Refusal]) -> None:
    if not refused:
        return
    kind, code = refused[0].error
    reason = _METER_ERRORS.get(code, "") if kind == _METER_FAILED else ""
    raise OpenFlowError(
        f"meter {meters[refused[0].xid].to_ofctl()!r} was refused with error {kind}/{code} {reason}".rstrip()
    )
