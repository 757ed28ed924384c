"""A `CniHandler` that records what it is asked, and waits or fails as a test says."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface

from k8s_ovs.cni.protocol import AddResult, Request
from k8s_ovs.model.types import Mac


async def _at_once(_request: Request) -> None:
    return


class RecordingHandler:
    """`act` is awaited in each call; `log` holds ("ADD", sandbox) at the begin and ("added", sandbox) at the end."""

    def __init__(self) -> None:
        self.act: Callable[[Request], Awaitable[None]] = _at_once
        self.log: list[tuple[str, str]] = []
        self.requests: list[Request] = []
        self.changed = asyncio.Condition()

    async def until(self, number: int) -> None:
        """Wait until so many entries are in the log."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.log) >= number)

    async def _note(self, what: str, request: Request) -> None:
        self.log.append((what, request.sandbox))
        async with self.changed:
            self.changed.notify_all()

    async def _serve(self, request: Request) -> None:
        self.requests.append(request)
        await self._note(request.command, request)
        try:
            await self.act(request)
        except asyncio.CancelledError:
            self.log.append(("undone", request.sandbox))
            raise
        await self._note("done", request)

    async def add(self, request: Request) -> AddResult:
        await self._serve(request)
        return AddResult(
            host_ifname="veth0123",
            ifname=request.ifname,
            netns=request.netns,
            mac=Mac("0a:58:ac:0b:04:02"),
            address=IPv4Interface("172.11.4.2/22"),
            gateway=IPv4Address("172.11.4.1"),
            mtu=1450,
        )

    async def delete(self, request: Request) -> None:
        await self._serve(request)

    async def check(self, request: Request) -> None:
        await self._serve(request)

    async def gc(self, request: Request) -> None:
        await self._serve(request)

    async def status(self, request: Request) -> None:
        await self._serve(request)
