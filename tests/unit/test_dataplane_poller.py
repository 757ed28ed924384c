"""The IDL's poller on asyncio: it wakes for what it was told to wait for, and leaves nothing registered."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from k8s_ovs.dataplane.poller import POLLIN, POLLOUT, AsyncPoller


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


async def test_it_wakes_for_input(pair: tuple[socket.socket, socket.socket]) -> None:
    poller, wake = AsyncPoller(), asyncio.Event()
    poller.fd_wait(pair[0], POLLIN)
    asyncio.get_running_loop().call_soon(pair[1].send, b"x")
    await asyncio.wait_for(poller.block(wake), 5)
    assert pair[0].recv(10) == b"x"
    assert not wake.is_set()
    assert not asyncio.get_running_loop().remove_reader(pair[0])


async def test_it_wakes_for_room_to_write(pair: tuple[socket.socket, socket.socket]) -> None:
    poller = AsyncPoller()
    poller.fd_wait(pair[0].fileno(), POLLOUT)
    await asyncio.wait_for(poller.block(asyncio.Event()), 5)
    assert not asyncio.get_running_loop().remove_writer(pair[0])


async def test_it_wakes_for_the_earliest_timer() -> None:
    poller = AsyncPoller()
    poller.timer_wait(60_000)
    poller.timer_wait_until(int(time.monotonic() * 1000) + 20)
    poller.timer_wait(30_000)
    await asyncio.wait_for(poller.block(asyncio.Event()), 5)


async def test_it_does_not_wait_when_told_so() -> None:
    poller = AsyncPoller()
    poller.timer_wait(60_000)
    poller.immediate_wake()
    await asyncio.wait_for(poller.block(asyncio.Event()), 5)


async def test_it_wakes_for_the_queue(pair: tuple[socket.socket, socket.socket]) -> None:
    poller, wake = AsyncPoller(), asyncio.Event()
    poller.fd_wait(pair[0], POLLIN)
    asyncio.get_running_loop().call_soon(wake.set)
    await asyncio.wait_for(poller.block(wake), 5)
    assert not wake.is_set()


async def test_a_cancelled_wait_leaves_nothing_registered(pair: tuple[socket.socket, socket.socket]) -> None:
    poller = AsyncPoller()
    poller.fd_wait(pair[0], POLLIN)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(poller.block(asyncio.Event()), 0.01)
    assert not asyncio.get_running_loop().remove_reader(pair[0])


def test_what_is_no_descriptor_is_refused() -> None:
    with pytest.raises(TypeError, match="no file descriptor"):
        AsyncPoller().fd_wait("door", POLLIN)
