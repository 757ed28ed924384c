"""Commands that are run to their end, and one that is started before it is needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from k8s_ovs.dataplane.process import PIPE_OCTETS, Standby, run

SHOW = ("sh", "-c", 'read -r line; echo "$$ $line"')
"""Waits for a line, and says it after its own process id."""


@asynccontextmanager
async def kept(standby: Standby) -> AsyncIterator[None]:
    """While `keep` runs."""
    task = asyncio.create_task(standby.keep(), name="stand-by")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def children() -> set[int]:
    """The processes that this one has started and not seen the end of."""
    return {int(pid) for pid in Path("/proc/self/task").glob("*/children") for pid in pid.read_text().split()}


async def ready(standby: Standby) -> int:
    """The process that waits, once there is one."""
    async with asyncio.timeout(10):
        while standby.pid is None:
            await asyncio.sleep(0.001)
    return standby.pid


async def test_what_was_started_before_takes_the_input_and_another_one_follows() -> None:
    before, standby = children(), Standby(SHOW)
    async with kept(standby):
        for word in ("one", "two"):
            waiting = await ready(standby)
            done = await standby.run(f"{word}\n", 10)
            assert (done.status, done.stdout) == (0, f"{waiting} {word}\n")
        await ready(standby)
    assert children() == before, "nothing is left waiting"


async def test_without_keep_each_use_starts_its_own() -> None:
    before = children()
    done = await Standby(SHOW).run("alone\n", 10)
    assert done.stdout.split()[1:] == ["alone"]
    assert children() == before


async def test_a_use_while_the_next_one_is_being_started_leaves_nobody_waiting() -> None:
    before, standby = children(), Standby(SHOW)
    async with kept(standby):
        await asyncio.sleep(0)  # `keep` has begun to start one
        assert (await standby.run("early\n", 10)).stdout.endswith(" early\n")
        await ready(standby)
    assert children() == before


async def test_one_that_died_while_it_waited_is_replaced() -> None:
    before, standby = children(), Standby(("sh", "-c", "exit 3"))
    async with kept(standby):
        await ready(standby)
        async with asyncio.timeout(10):
            while children() - before:
                await asyncio.sleep(0.001)
        assert (await standby.run("", 10)).status == 3
    assert children() == before


async def test_a_command_that_does_not_exist_is_told_to_who_uses_it() -> None:
    standby = Standby(("/nowhere/at-all",))
    async with kept(standby):
        await asyncio.sleep(0)
        with pytest.raises(FileNotFoundError):
            await standby.run("", 10)


MEASURE = ("stat", "-L", "-c", "%s", "/dev/stdin")
"""Says how much input there is before it has read any; of a pipe, nothing."""


async def test_the_whole_input_is_there_before_the_command_starts() -> None:
    """So that killing us cannot leave it with a part of it."""
    for size in (0, 7, 3 * PIPE_OCTETS):
        assert (await run(MEASURE, "x" * size, 10)).stdout == f"{size}\n"
    done = await run(("cat",), "é" * PIPE_OCTETS, 10)
    assert done.stdout == "é" * PIPE_OCTETS


async def test_what_does_not_go_into_a_pipe_at_once_goes_to_a_command_of_its_own() -> None:
    before, standby = children(), Standby(("sh", "-c", "stat -L -c '%F %s' /dev/stdin; cat >/dev/null"))
    async with kept(standby):
        waiting = await ready(standby)
        done = await standby.run("x" * (PIPE_OCTETS + 1), 10)
        assert done.stdout == f"regular file {PIPE_OCTETS + 1}\n"
        assert standby.pid == waiting, "the one that waits is for the next"
        assert (await standby.run("x" * PIPE_OCTETS, 10)).stdout.startswith("fifo")
    assert children() == before
