"""The Lease election on a strict store and hand-moved clocks: nothing here waits in real time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from fakes.kube_script import LeaseStore, ManualClock, settle
from k8s_ovs.errors import ConfigError
from k8s_ovs.sources.kube.clock import Clock
from k8s_ovs.sources.kube.election import LeaseElection, LeaseTiming, unique_identity
from k8s_ovs.sources.kube.lease import micro_time
from k8s_ovs.sources.kube.objects import Lease

NAMESPACE, NAME = "kube-system", "k8s-ovs-controller"


class Candidate:
    """A candidate, its clock, and a record of when it led."""

    def __init__(
        self, store: LeaseStore, identity: str, clock: Clock, timing: LeaseTiming | None = None
    ) -> None:
        self.election = LeaseElection(store, NAMESPACE, NAME, identity, timing or LeaseTiming(), clock)
        self.leading = False
        self.reigns = 0
        self.cleaned = asyncio.Event()
        self.cleaned.set()

    async def lead(self) -> None:
        self.leading = True
        self.reigns += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.leading = False
            await self.cleaned.wait()


@asynccontextmanager
async def running(*candidates: Candidate) -> AsyncIterator[list["asyncio.Task[None]"]]:
    tasks = [asyncio.ensure_future(each.election.run(each.lead)) for each in candidates]
    try:
        await settle()
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for candidate in candidates:
            candidate.cleaned.set()
        await asyncio.gather(*tasks, return_exceptions=True)


def lease(store: LeaseStore) -> Lease:
    return store.read(NAMESPACE, NAME)


async def test_the_first_candidate_creates_the_lease_and_leads() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    assert not a.election.is_leader
    async with running(a):
        assert a.leading
        assert a.election.is_leader
        assert a.election.holder == "a"
        spec = lease(store).spec
        assert (spec.holder_identity, spec.lease_duration_seconds, spec.lease_transitions) == ("a", 15, 0)
        assert spec.acquire_time == spec.renew_time == "2024-05-06T07:08:09.123456Z"
        await clock.advance(60)
        assert a.leading
        assert a.reigns == 1
        spec = lease(store).spec
        assert spec.acquire_time == "2024-05-06T07:08:09.123456Z"
        assert spec.renew_time == "2024-05-06T07:09:09.123456Z"
        assert len(store.writes) == 31


async def test_of_two_candidates_one_leads_and_the_other_follows_its_release() -> None:
    store, clock = LeaseStore(), ManualClock()
    a, b = Candidate(store, "a", clock), Candidate(store, "b", clock)
    async with running(a, b) as tasks:
        assert [a.leading, b.leading].count(True) == 1
        first, second = (a, b) if a.leading else (b, a)
        await clock.advance(300)
        assert (first.leading, second.leading) == (True, False)
        assert second.election.holder == first.election._identity
        tasks[[a, b].index(first)].cancel()
        await settle()
        assert lease(store).spec.holder_identity == ""
        assert not first.election.is_leader
        await clock.advance(2.4)
        assert second.leading
        assert lease(store).spec.lease_transitions == 1


async def test_a_silent_holder_is_replaced_after_its_lease_duration_as_seen_here() -> None:
    store, dead, alive = LeaseStore(), ManualClock(), ManualClock()
    a, b = Candidate(store, "a", dead), Candidate(store, "b", alive)
    async with running(a):
        async with running(b):
            # The clock of a stands still: as far as anybody can see it is dead.
            await alive.advance(14.9)
            assert not b.leading
            await alive.advance(0.1 + 2.4)
            assert b.leading
            # a comes back to life, sees it at its first renewal, and stops at once.
            assert a.leading
            await dead.advance(2)
            assert not a.leading
            assert not a.election.is_leader
            assert a.election.holder == "b"
        assert lease(store).spec.holder_identity == ""


@pytest.mark.parametrize("skew", [timedelta(days=-9000), timedelta(days=9000)])
async def test_wrong_calendars_change_nothing(skew: timedelta) -> None:
    store, wrong, right = LeaseStore(), ManualClock(skew), ManualClock()
    a, b = Candidate(store, "a", wrong), Candidate(store, "b", right)
    async with running(a), running(b):
        for _ in range(60):
            await wrong.advance(1)
            await right.advance(1)
        assert (a.leading, b.leading) == (True, False)
        await right.advance(17.5)
        assert b.leading


async def test_who_stands_by_says_while_the_api_is_away() -> None:
    store, clock = LeaseStore(), ManualClock()
    a, b = Candidate(store, "a", clock), Candidate(store, "b", clock)
    async with running(a, b):
        assert (a.election.trouble, b.election.trouble) == ("", "")
        store.down = True
        await clock.advance(12)
        assert (a.leading, b.leading) == (False, False)
        for each in (a, b):
            assert "lease kube-system/k8s-ovs-controller" in each.election.trouble
        store.down = False
        await clock.advance(20)
        assert (a.election.trouble, b.election.trouble) == ("", "")


async def test_clocks_that_jump_change_nothing() -> None:
    """Somebody sets the calendars of both machines, there and back, again and again: the lease stays where it is."""
    store, one, other = LeaseStore(), ManualClock(), ManualClock()
    a, b = Candidate(store, "a", one), Candidate(store, "b", other)
    async with running(a), running(b):
        for number in range(120):
            one.skew = timedelta(days=(-1) ** number * 4000)
            other.skew = timedelta(days=(number % 7) * -100)
            await one.advance(1)
            await other.advance(1)
            assert (a.leading, b.leading) == (True, False)
        assert (a.reigns, b.reigns) == (1, 0)


async def test_no_renewal_within_the_deadline_cancels_the_leader_at_once() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a):
        store.down = True
        await clock.advance(9.9)
        assert a.leading
        assert a.election.is_leader
        await clock.advance(0.1)
        assert not a.leading
        assert not a.election.is_leader
        store.down = False
        await clock.advance(2.4)
        assert a.leading
        assert a.reigns == 2


async def test_a_hung_api_does_not_stretch_the_deadline() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a):
        await clock.advance(2)
        store.hang = True
        await clock.advance(9.9)
        assert a.leading
        await clock.advance(0.1)
        assert not a.leading


async def test_one_hung_request_leaves_time_for_another() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a):
        store.hang = True
        await clock.advance(3)
        store.hang = False
        await clock.advance(60)
        assert a.leading
        assert a.reigns == 1


async def test_nobody_else_leads_before_the_leader_has_given_up() -> None:
    """With the API gone for one side only: at every moment at most one leads."""
    store, clock = LeaseStore(), ManualClock()
    reachable = LeaseStore()
    reachable.leases = store.leases
    reachable.version = 1000
    a, b = Candidate(store, "a", clock), Candidate(reachable, "b", clock)
    async with running(a), running(b):
        await clock.advance(7)
        store.down = True
        for _ in range(400):
            await clock.advance(0.1)
            assert not (a.leading and b.leading)
        assert b.leading


async def test_is_leader_ends_by_the_clock_even_if_nothing_runs() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a):
        clock.elapsed += 10.0
        assert not a.election.is_leader


async def test_a_lease_that_somebody_deleted_is_lost() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a):
        store.leases.clear()
        await clock.advance(2)
        # Stopped, and as nobody was faster, elected anew.
        assert a.reigns == 2
        assert lease(store).spec.lease_transitions == 0


async def test_a_foreign_change_of_the_lease_is_no_loss() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a):
        current = lease(store)
        meta = msgspec.structs.replace(current.metadata, annotations={"note": "mine"})
        store.replace(msgspec.structs.replace(current, metadata=meta))
        await clock.advance(30)
        assert a.leading
        assert a.reigns == 1
        assert lease(store).metadata.annotations == {"note": "mine"}


async def test_a_stolen_lease_is_lost_at_the_next_renewal() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a):
        current = lease(store)
        store.replace(
            msgspec.structs.replace(
                current, spec=msgspec.structs.replace(current.spec, holder_identity="thief")
            )
        )
        await clock.advance(2)
        assert not a.leading
        assert a.election.holder == "thief"
        assert lease(store).spec.holder_identity == "thief"


async def test_losing_the_race_for_a_free_lease_is_no_error() -> None:
    store, clock = LeaseStore(), ManualClock()
    a, b = Candidate(store, "a", clock), Candidate(store, "b", clock)
    async with running(b) as tasks:
        tasks[0].cancel()
        await settle()
        current = lease(store)
        spec = msgspec.structs.replace(current.spec, holder_identity="faster", lease_duration_seconds=15)
        store.before_write = lambda: _set(store, msgspec.structs.replace(current, spec=spec))
        async with running(a):
            assert not a.leading
            await clock.advance(14)
            assert not a.leading
            assert a.election.holder == "faster"
            await clock.advance(6)
            assert a.leading


def _set(store: LeaseStore, changed: Lease) -> None:
    store.replace(changed)


async def test_the_lease_is_released_only_after_the_leader_has_cleaned_up() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    a.cleaned.clear()
    async with running(a) as tasks:
        tasks[0].cancel()
        await settle()
        assert not a.leading
        assert lease(store).spec.holder_identity == "a"
        a.cleaned.set()
        await settle()
        assert tasks[0].cancelled()
        spec = lease(store).spec
        assert (spec.holder_identity, spec.lease_duration_seconds) == ("", 1)


async def test_release_survives_a_renewal_whose_answer_was_lost() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a) as tasks:
        store.replace(lease(store))
        tasks[0].cancel()
        await settle()
        assert tasks[0].cancelled()
        assert lease(store).spec.holder_identity == ""


async def test_shutdown_does_not_wait_for_a_hung_api() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    async with running(a) as tasks:
        store.hang = True
        tasks[0].cancel()
        await clock.advance(0.5)
        assert tasks[0].cancelled()


async def test_loss_and_shutdown_in_one_moment_still_shuts_down() -> None:
    store, clock = LeaseStore(), ManualClock()
    a = Candidate(store, "a", clock)
    a.cleaned.clear()
    async with running(a) as tasks:
        store.leases.clear()
        await clock.advance(2)
        assert not a.leading
        tasks[0].cancel()
        await settle()
        a.cleaned.set()
        await clock.advance(10)
        assert tasks[0].cancelled()
        assert a.reigns == 1


async def _fail() -> None:
    raise LookupError("a bug in the controller")


async def _finish() -> None:
    return


@pytest.mark.parametrize("lead", [_fail, _finish])
async def test_the_end_of_lead_releases_and_comes_out_as_it_is(lead: Callable[[], Awaitable[None]]) -> None:
    store = LeaseStore()
    election = LeaseElection(store, NAMESPACE, NAME, "a", LeaseTiming(), ManualClock())
    task = asyncio.ensure_future(election.run(lead))
    await settle()
    assert task.done()
    assert isinstance(task.exception(), LookupError) == (lead is _fail)
    assert lease(store).spec.holder_identity == ""
    assert not election.is_leader


async def test_an_api_that_comes_late_is_waited_for() -> None:
    store, clock = LeaseStore(), ManualClock()
    store.down = True
    a = Candidate(store, "a", clock)
    async with running(a):
        await clock.advance(60)
        assert not a.leading
        store.down = False
        await clock.advance(2.4)
        assert a.leading


@pytest.mark.parametrize("timing", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_a_timing_that_lets_two_lead_is_refused(timing: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="lease duration > renew deadline"):
        LeaseTiming(*timing)


def test_identities_of_one_host_differ() -> None:
    identities = {unique_identity("node1") for _ in range(100)}
    assert len(identities) == 100
    assert all(identity.startswith("node1_") for identity in identities)


def test_times_are_written_in_utc() -> None:
    moment = datetime(2024, 5, 6, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=8)))
    assert micro_time(moment) == "2024-05-05T17:02:03.000004Z"
