"""Locks by key: order, independence, and that none is left behind."""

import asyncio

import pytest

from k8s_ovs.cni.locks import KeyedLocks


async def test_one_key_is_served_in_the_order_of_asking_others_at_once() -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    order: list[str] = []
    go = asyncio.Event()

    async def work(key: str, name: str) -> None:
        async with locks.hold(key):
            order.append(name)
            if name == "a1":
                await go.wait()

    async with asyncio.TaskGroup() as tasks:
        for key, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")):
            tasks.create_task(work(key, name))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["a1", "b1"]
        assert "a" in locks
        go.set()
    assert order == ["a1", "b1", "a2", "a3"]
    assert len(locks) == 0


async def test_cancelled_and_failed_holders_and_waiters_leave_no_lock() -> None:
    locks: KeyedLocks[int] = KeyedLocks()

    async def hold_forever() -> None:
        async with locks.hold(1):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hold_forever()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[0].cancel()
    await asyncio.wait(tasks[:2])
    assert len(locks) == 1
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert 1 not in locks

    async def fail() -> None:
        async with locks.hold(2):
            raise ValueError("bad luck")

    with pytest.raises(ValueError, match="bad luck"):
        await fail()
    assert len(locks) == 0
