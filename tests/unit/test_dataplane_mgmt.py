"""The watch on ovs-vswitchd, against a switch that says what the test wants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from k8s_ovs.dataplane.mgmt import watch_switch
from k8s_ovs.dataplane.openflow_wire import ECHO_REPLY, ECHO_REQUEST, HEADER, HELLO


class ScriptedSwitch:
    """A management socket that says hello; the test speaks through `writers`."""

    def __init__(self, mgmt: Path) -> None:
        self.mgmt = mgmt
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEADER.pack(6, HELLO, HEADER.size, 1))
            await self.accepted.put((reader, writer))

        async with await asyncio.start_unix_server(accept, self.mgmt):
            yield
        self.mgmt.unlink()


@pytest.fixture
def switch(tmp_path: Path) -> ScriptedSwitch:
    return ScriptedSwitch(tmp_path / "br0.mgmt")


async def test_coming_going_and_coming_back_are_told(switch: ScriptedSwitch) -> None:
    told: asyncio.Queue[None] = asyncio.Queue()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        watch = group.create_task(watch_switch(switch.mgmt, lambda: told.put_nowait(None)), name="watch")
        for _ in range(2):
            async with switch.serving():
                _, writer = await switch.accepted.get()
                await told.get()
                writer.close()
                await told.get()
        watch.cancel()
    assert told.empty()


async def test_echo_requests_are_answered(switch: ScriptedSwitch) -> None:
    async with asyncio.timeout(10), switch.serving(), asyncio.TaskGroup() as group:
        watch = group.create_task(watch_switch(switch.mgmt, lambda: None), name="watch")
        reader, writer = await switch.accepted.get()
        assert HEADER.unpack(await reader.readexactly(8)) == (6, HELLO, 8, 1)
        writer.write(HEADER.pack(6, ECHO_REQUEST, 12, 77) + b"ping")
        assert HEADER.unpack(await reader.readexactly(8)) == (6, ECHO_REPLY, 12, 77)
        assert await reader.readexactly(4) == b"ping"
        watch.cancel()
        writer.close()
