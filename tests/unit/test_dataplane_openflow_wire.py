"""Meters and the modification that modifies nothing, against a switch that answers what the test wants."""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fakes.dataplane_examples import meter
from k8s_ovs.dataplane import openflow_wire as wire
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.group import MeterId

ADD, MODIFY, DELETE = 0, 1, 2
EXISTS, TOO_MANY, UNKNOWN = (12, 1), (12, 10), (12, 3)
Request = tuple[int, int]
"""Command and number of a METER_MOD."""


@asynccontextmanager
async def switch(path: Path, errors: Mapping[Request, tuple[int, int]]) -> AsyncIterator[list[Request]]:
    """A switch that refuses some METER_MODs, and asks for an echo before each barrier; yields what it got."""
    got: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.message(wire.HELLO, 1))
        try:
            while True:
                kind, xid, body = await wire.read_message(reader)
                if kind == wire.METER_MOD:
                    command, _, number = struct.unpack_from("!HHI", body)
                    got.append((command, number))
                    if error := errors.get((command, number)):
                        writer.write(wire.message(wire.ERROR, xid, struct.pack("!HH", *error)))
                elif kind == wire.BARRIER_REQUEST:
                    writer.write(wire.message(wire.ECHO_REQUEST, 99, b"alive?"))
                    assert await wire.read_message(reader) == (wire.ECHO_REPLY, 99, b"alive?")
                    writer.write(wire.message(wire.BARRIER_REPLY, xid))
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield got


async def test_a_meter_that_exists_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "br0.mgmt"
    async with switch(path, {(ADD, 4): EXISTS}) as got, wire.connect(path, 5, "making meters") as session:
        await session.add_meters([meter(3), meter(4), meter(5)])
    assert got == [(ADD, 3), (ADD, 4), (ADD, 5), (MODIFY, 4)]


@pytest.mark.parametrize("errors", [{(ADD, 4): TOO_MANY}, {(ADD, 4): EXISTS, (MODIFY, 4): TOO_MANY}])
async def test_a_refused_meter_is_quoted(tmp_path: Path, errors: dict[Request, tuple[int, int]]) -> None:
    path = tmp_path / "br0.mgmt"
    async with switch(path, errors):
        with pytest.raises(OpenFlowError, match=r"'meter=4,.*refused with error 12/10 no more meters"):
            async with wire.connect(path, 5, "making meters") as session:
                await session.add_meters([meter(3), meter(4)])


async def test_deleting_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "br0.mgmt"
    errors = {(DELETE, 7): UNKNOWN, (DELETE, 8): (1, 5)}
    async with switch(path, errors) as got, wire.connect(path, 5, "deleting meters") as session:
        await session.delete_meters([MeterId(7)])
        with pytest.raises(OpenFlowError, match=r"deleting 1 meters: refused with error \(1, 5\)"):
            await session.delete_meters([MeterId(8)])
    assert got == [(DELETE, 7), (DELETE, 8)]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "making meters: .*br0.mgmt: [Cc]onnection .*: check that ovs-vswitchd runs"),
        (wire.message(wire.HELLO, 1), "making meters: .*[Cc]onnection "),
        (wire.message(wire.ERROR, 1, b"\0\0\0\0"), "br0.mgmt does not speak OpenFlow 1.5"),
    ],
)
async def test_a_switch_that_hangs_up(tmp_path: Path, said: bytes, error: str) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "br0.mgmt"):
        with pytest.raises(OpenFlowError, match=error):
            async with wire.connect(tmp_path / "br0.mgmt", 5, "making meters") as session:
                await session.touch()
