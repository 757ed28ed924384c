"""What every Store promises of agents' reports, on the fake and on a real etcd."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address

from fakes.storeworld import World
from k8s_ovs.model.types import AgentHealth, AgentReport
from k8s_ovs.sources.store import Presence, Store

IP1, IP2 = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
DEADLINE = 30.0


def report(applied: str = "", ip: IPv4Address = IP1) -> AgentReport:
    return AgentReport("node1", ip, {"red": applied} if applied else {})


@asynccontextmanager
async def running(presence: Presence) -> AsyncIterator[asyncio.Task[None]]:
    """The agent's process: cancelled at the end, as kill -9 would end it for the store."""
    task = asyncio.create_task(presence.run(), name="presence")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


class Reports:
    """The reports of a store, looked at whenever the store says that they changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wakes = store.watch_reports()

    async def __aenter__(self) -> "Reports":
        async with asyncio.timeout(DEADLINE):
            await anext(self._wakes)
        return self

    async def __aexit__(self, *_: object) -> None:
        close: Callable[[], Awaitable[None]] = getattr(self._wakes, "aclose")  # noqa: B009 - an async generator
        await close()

    async def next(self) -> None:
        await anext(self._wakes)

    async def until(self, *expected: AgentReport) -> None:
        wanted = {each.host_ip: each for each in expected}
        try:
            async with asyncio.timeout(DEADLINE):
                while (found := (await self._store.snapshot()).reports) != wanted:
                    await anext(self._wakes)
        except TimeoutError:
            raise AssertionError(f"not within {DEADLINE} s: {wanted}; there is {found}") from None


async def test_what_an_agent_tells_is_in_the_snapshot_and_vanishes_with_it(world: World) -> None:
    presence = world.store.presence()
    async with Reports(world.store) as reports:
        async with running(presence):
            presence.tell(report())
            await reports.until(report())
            presence.tell(report("1f/accept"))
            await reports.until(report("1f/accept"))
            presence.tell(report("1f/send"))
            presence.tell(report("1f/close"))
            await reports.until(report("1f/close"))
        await reports.until()


async def test_what_was_told_before_it_runs_counts_and_nothing_is_told_of_itself(world: World) -> None:
    presence, silent = world.store.presence(), world.store.presence()
    presence.tell(report())
    async with Reports(world.store) as reports, running(silent), running(presence):
        await reports.until(report())


async def test_the_reports_of_two_hosts_are_apart(world: World) -> None:
    one, two = world.store.presence(), world.store.presence()
    async with Reports(world.store) as reports, running(one):
        async with running(two):
            one.tell(report("1f/send"))
            two.tell(report("1f/accept", IP2))
            await reports.until(report("1f/send"), report("1f/accept", IP2))
        await reports.until(report("1f/send"))


async def test_of_two_instances_of_one_host_the_later_is_heard_until_it_is_gone(world: World) -> None:
    old, new = world.store.presence(), world.store.presence()
    async with Reports(world.store) as reports, running(old):
        old.tell(report("1f/accept"))
        await reports.until(report("1f/accept"))
        async with running(new):
            new.tell(report("1f/send"))
            await reports.until(report("1f/send"))
            old.tell(report("1f/close"))
            new.tell(report("2e/accept"))
            await reports.until(report("2e/accept"))
        await reports.until(report("1f/close"))


async def test_reports_wake_no_watch_of_records(world: World) -> None:
    presence = world.store.presence()
    watch = world.store.watch()
    async with asyncio.timeout(DEADLINE):
        assert await anext(watch)
        async with Reports(world.store) as reports, running(presence):
            presence.tell(report("1f/accept"))
            await reports.until(report("1f/accept"))
            news = asyncio.ensure_future(anext(watch))
            world.put(world.keys.namespace("red"), '{"NetName":"red"}')
            assert await news == [], "the record, and nothing before it"


async def test_a_malformed_report_is_a_problem_and_no_report(world: World) -> None:
    key = world.keys.report(IP1)
    world.put(key, '{"Host":"node1","HostIP":"192.0.2.1","Applied":{"red":7}}')
    now = await world.store.snapshot()
    assert now.reports == {}
    assert "Applied says 7" in str(now.problems[key])
    world.delete(key)
    assert (await world.store.snapshot()).problems == {}


async def test_health_is_in_the_snapshot_and_makes_nobody_look_again(world: World) -> None:
    presence = world.store.presence()
    async with Reports(world.store) as reports, running(presence):
        presence.tell(report())
        await reports.until(report())
        wake = asyncio.create_task(reports.next(), name="wake")
        presence.tell(replace(report(), health=AgentHealth(pods=3)))
        async with asyncio.timeout(DEADLINE):
            while (await world.store.snapshot()).reports[IP1].health != AgentHealth(pods=3):
                await asyncio.sleep(0)
        presence.tell(replace(report("1f/accept"), health=AgentHealth(pods=4)))
        async with asyncio.timeout(DEADLINE):
            await wake
        found = (await world.store.snapshot()).reports[IP1]
        assert found.health == AgentHealth(pods=4), (
            "the first that woke somebody is the one that applied something"
        )
