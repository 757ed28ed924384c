"""Undo in reverse, whole work under cancellation."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from k8s_ovs.agent.steps import Steps, whole
from k8s_ovs.errors import LinkError


def undo(done: list[str], name: str, error: Exception | None = None) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        done.append(name)
        if error is not None:
            raise error

    return run


async def test_undo_runs_in_reverse_and_past_failures() -> None:
    done: list[str] = []

    async def work() -> None:
        async with Steps("test") as steps:
            for name, error in (("one", None), ("two", ValueError("stuck")), ("three", None)):
                steps.on_failure(name, undo(done, name, error))
            raise LinkError("refused")

    with pytest.raises(LinkError) as caught:
        await work()
    assert done == ["three", "two", "one"]
    assert caught.value.__notes__ == ["could not undo: two: stuck"]


async def test_success_undoes_nothing() -> None:
    done: list[str] = []
    async with Steps("test") as steps:
        steps.on_failure("one", undo(done, "one"))
    assert done == []


async def test_whole_work_ends_before_the_cancellation_comes_out() -> None:
    begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> int:
        begun.set()
        await go.wait()
        ended.set()
        return 1

    task = asyncio.create_task(whole(work()))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_whole_work_gives_its_result_or_error() -> None:
    async def good() -> int:
        return 5

    async def bad() -> int:
        raise LinkError("refused")

    assert await whole(good()) == 5
    with pytest.raises(LinkError):
        await whole(bad())


async def test_whole_work_that_fails_after_a_cancellation_stays_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()
        raise LinkError("refused as well")

    task = asyncio.create_task(whole(work()))
    await begun.wait()
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "refused as well" in caplog.text
