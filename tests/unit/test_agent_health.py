"""What an agent tells of how it fares, and how rarely. The clock is the test's own."""

import asyncio
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.agent import World, running
from fakes.node import HOST_IP, OTHER
from fakes.watching import until
from k8s_ovs import __version__
from k8s_ovs.agent.health import DROPS, PERIOD, REPAIRS, Condition, HealthKeeper
from k8s_ovs.agent.lag import SourceLag
from k8s_ovs.errors import DataplaneError, EtcdUnavailable
from k8s_ovs.model.types import AgentHealth, AgentReport

REPORT = AgentReport("node1", IPv4Address("192.0.2.1"))
NOTHING = Condition()
DROP = "pod-in/pod-spoofed-ip"


class Keeper:
    """A HealthKeeper, what it told, and the time of day as a test sets it."""

    def __init__(self) -> None:
        self.told: list[AgentHealth] = []
        self.keeper = HealthKeeper(self._tell, lambda: datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC))

    def _tell(self, report: AgentReport) -> None:
        assert report.health is not None
        assert report == REPORT
        self.told.append(report.health)

    def take(self, now: float, seen: Condition = NOTHING) -> int:
        """How often something was told by this look."""
        before = len(self.told)
        self.keeper.take(seen, now)
        return len(self.told) - before


@pytest.fixture
async def agent() -> Keeper:
    return Keeper()


async def test_nothing_is_told_before_the_first_report(agent: Keeper) -> None:
    assert agent.take(0, Condition(pods=1)) == 0
    agent.keeper.report(REPORT)
    (health,) = agent.told
    assert (health.version, health.since, health.pods) == (__version__, "2026-01-31T12:00:00Z", 1)


async def test_what_changes_nothing_is_told_once(agent: Keeper) -> None:
    agent.keeper.report(REPORT)
    told = [agent.take(now) for now in range(1, 1000)]
    assert sum(told) == 0


async def test_figures_wait_and_readiness_does_not(agent: Keeper) -> None:
    agent.keeper.report(REPORT)
    now = asyncio.get_running_loop().time()
    assert agent.take(now + 1, Condition(pods=1)) == 0
    assert agent.take(now + 2, Condition(pods=2, trouble="no flows")) == 1
    assert agent.take(now + 3, Condition(pods=2)) == 1
    assert sum(agent.take(now + 3 + step, Condition(pods=3)) for step in range(1, int(PERIOD))) == 0
    assert agent.take(now + 3 + PERIOD, Condition(pods=3)) == 1
    assert agent.told[-1].pods == 3


async def test_the_last_error_stays_when_it_is_over(agent: Keeper) -> None:
    agent.keeper.report(REPORT)
    agent.take(0, Condition(trouble="waiting for config"))
    agent.take(1)
    assert agent.told[-1].last_error == "", "what it waits for at its start is no error"
    agent.take(2, Condition(trouble="ovsdb-server does not answer"))
    agent.take(3)
    health = agent.told[-1]
    assert (health.trouble, health.last_error) == ("", "ovsdb-server does not answer")
    assert health.last_error_at == "2026-01-31T12:00:00Z"


async def test_drops_are_counted_once_a_minute_and_told_only_if_they_rise(agent: Keeper) -> None:
    agent.keeper.report(REPORT)
    now = asyncio.get_running_loop().time() + PERIOD
    assert agent.take(now) == 0
    assert agent.take(now + 1, Condition(drops={DROP: 5})) == 1
    assert (agent.told[-1].drops, agent.told[-1].dropping) == ({DROP: 5}, {})
    assert (
        sum(agent.take(now + 1 + step, Condition(drops={DROP: 5 + step})) for step in range(1, int(DROPS)))
        == 0
    )
    assert agent.take(now + 1 + DROPS, Condition(drops={DROP: 65})) == 1
    assert (agent.told[-1].drops, agent.told[-1].dropping) == ({DROP: 65}, {DROP: 60})
    assert agent.take(now + 1 + 2 * DROPS, Condition(drops={DROP: 65})) == 1
    assert agent.told[-1].dropping == {}
    assert agent.take(now + 1 + 3 * DROPS, Condition(drops={DROP: 65})) == 0


async def test_repairs_count_for_ten_minutes(agent: Keeper) -> None:
    agent.keeper.report(REPORT)
    now = asyncio.get_running_loop().time() + PERIOD
    agent.take(now)
    agent.take(now + PERIOD, Condition(repairs={"flow": 2}))
    assert agent.told[-1].repairs == {"flow": 2}
    agent.take(now + 2 * PERIOD, Condition(repairs={"flow": 3, "rule": 1}))
    assert agent.told[-1].repairs == {"flow": 3, "rule": 1}
    agent.take(now + REPAIRS + PERIOD + 1, Condition(repairs={"flow": 3, "rule": 1}))
    assert agent.told[-1].repairs == {"flow": 1, "rule": 1}
    agent.take(now + REPAIRS + 3 * PERIOD, Condition(repairs={"flow": 3, "rule": 1}))
    assert agent.told[-1].repairs == {}


async def test_a_revision_counts_once_its_commit_is_through_or_a_synchronisation_has_followed(
    agent: Keeper,
) -> None:
    loop = asyncio.get_running_loop()
    first, second, third = (loop.create_future() for _ in range(3))
    agent.keeper.follow(7, first)
    assert agent.keeper.applied == 0
    first.set_result(None)
    await asyncio.sleep(0)
    assert agent.keeper.applied == 7
    agent.keeper.follow(9, second)
    second.set_exception(DataplaneError("refused"))
    await asyncio.sleep(0)
    agent.take(1, Condition(trouble="refused"))
    assert agent.keeper.applied == 7
    agent.take(2)
    assert agent.keeper.applied == 9
    agent.keeper.follow(10, third)
    third.cancel()
    await asyncio.sleep(0)
    assert agent.keeper.applied == 9


async def test_a_real_agent_tells_its_pods_and_the_revision_that_it_has_applied(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fill()
    await world.attach(1)
    async with running(world):
        await world.serving()
        world.store.put(OTHER)

        def applied() -> bool:
            return world.metric("k8s_ovs_applied_revision") == world.store.told > 0

        await until(applied, "the newest record is on the switch")
        assert world.metric("k8s_ovs_store_revision") == world.store.told
        assert world.metric("k8s_ovs_mtu_bytes") == 1450
        assert world.metric("k8s_ovs_free_addresses") + world.metric("k8s_ovs_pods") == 1021
        assert world.metric("k8s_ovs_tenants") == 1
        tables = [
            world.registry.get_sample_value("k8s_ovs_pipeline_flows", {"table": name})
            for name in ("pod-in", "tenant")
        ]
        assert all(tables)
        assert world.registry.get_sample_value("k8s_ovs_news_lag_seconds", {"source": "etcd"}) == 0
        snapshot = await world.store.snapshot()
        health = snapshot.reports[HOST_IP].health
        assert health is not None
        assert health.version == __version__
        assert snapshot.newest <= world.store.told


def test_a_source_is_silent_from_the_look_that_met_it() -> None:
    now, outage = 100.0, [""]
    lag = SourceLag({"etcd": lambda: outage[0], "kubernetes": lambda: ""}, lambda: now)
    assert lag.look() == {"etcd": 0, "kubernetes": 0}
    outage[0] = str(EtcdUnavailable("gone"))
    assert lag.look()["etcd"] == 0
    now = 130.0
    assert lag.look() == {"etcd": 30, "kubernetes": 0}
    outage[0] = ""
    assert lag.look()["etcd"] == 0
