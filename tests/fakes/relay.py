"""A TCP relay between a program and a server, so that a test can cut, freeze and count the connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Relays to `target` on 127.0.0.1; made by `relay`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0
        self.delay = 0.0
        """Seconds that every piece of data takes on its way."""
        self.connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._running = asyncio.Event()
        self._running.set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """Accept connections (again)."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            for writer in list(self.connections):
                writer.transport.abort()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            self._server = None

    def freeze(self) -> None:
        """Keep the connections, and take new ones, but let no octet through."""
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        self.accepted += 1
        self.connections.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
            finally:
                far_writer.transport.abort()
        except OSError:
            pass  # the server is down: the program sees its connection closed
        finally:
            self.connections.discard(writer)
            self._pumps.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._running.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """A relay to a loopback port, accepting."""
    made = Relay(target)
    await made.restore()
    try:
        yield made
    finally:
        made.thaw()
        with suppress(OSError):
            await made.cut()
