"""How often an etcd that is away, or dies young, is asked: bounds and spread of the pauses, on a clock that jumps."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import islice

import pytest

from fakes.virtual_time import virtual_time
from k8s_ovs.errors import EtcdUnavailable
from k8s_ovs.sources.etcd import following
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.connection import Connection
from k8s_ovs.sources.etcd.following import RETRY_FIRST, RETRY_MOST, Following, retry_pauses
from k8s_ovs.sources.etcd.rangewatch import Batch, Listing
from k8s_ovs.sources.etcd.settings import EtcdSettings


def test_pauses_double_up_to_their_most_and_no_two_clients_agree() -> None:
    clients = [list(islice(retry_pauses(), 12)) for _ in range(200)]
    for number, pauses in enumerate(zip(*clients, strict=True)):
        top = min(RETRY_MOST, RETRY_FIRST * 2**number)
        assert 0.5 * top <= min(pauses) < max(pauses) <= top
        assert max(pauses) - min(pauses) > 0.4 * top, "spread"


@dataclass
class DyingClient(EtcdClient):
    """Every connection tells for `lives` seconds, then fails; None: there is none."""

    lives: float | None
    attempts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(EtcdSettings(), probe="/config")

    async def connection(self) -> Connection:
        self.attempts.append(asyncio.get_running_loop().time())
        if self.lives is None:
            raise EtcdUnavailable("no endpoint answers")
        return Connection(self.settings, self.settings.parsed()[0])

    @property
    def pauses(self) -> list[float]:
        return [
            later - sooner - (self.lives or 0)
            for sooner, later in zip(self.attempts, self.attempts[1:], strict=False)
        ]


class DyingWatch:
    def __init__(self, client: DyingClient, prefix: str) -> None:
        self._client = client

    async def follow(self, connection: Connection) -> AsyncIterator[Listing | Batch]:
        yield Listing({})
        await asyncio.sleep(self._client.lives or 0)
        raise EtcdUnavailable("the connection broke")


async def attempts(client: DyingClient, seconds: float) -> None:
    async def root() -> str:
        return "/p/"

    async def listen(news: AsyncGenerator[Listing | Batch, None]) -> None:
        async with aclosing(news) as source:
            async for _ in source:
                pass

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await listen(Following(client, root).news())


@virtual_time
async def test_an_etcd_that_stays_away_is_asked_for_ever_and_seldom() -> None:
    client = DyingClient(None)
    await attempts(client, 3600)
    assert 1800 <= len(client.attempts) <= 3600 + 10
    assert all(0.5 * RETRY_MOST <= pause <= RETRY_MOST for pause in client.pauses[10:])


@pytest.fixture
def _dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RangeWatch", DyingWatch)


@pytest.mark.usefixtures("_dying")
@pytest.mark.parametrize(("lives", "most"), [(0.0, RETRY_MOST), (1.0, RETRY_MOST), (6.0, RETRY_FIRST)])
def test_one_that_answers_and_dies_young_is_not_hammered(lives: float, most: float) -> None:
    """A proxy that allows no streams, a server that crashes at each watch: every attempt costs it a whole listing."""
    client = DyingClient(lives)
    virtual_time(attempts)(client, 600)
    assert all(0.5 * most - 1e-6 <= pause <= most + 1e-6 for pause in client.pauses[10:])
    assert len(client.pauses) > 50
