"""The agent's pods and its reconciler together, killed or cancelled at every effect of a life: the next life puts all right.

The fast form of tests/e2e/test_e2e_crash_points.py. The world (rows, veths, flows, meters) outlives the agent; a killed one
has no effect on it any more. Hypothesis makes the lives.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.dataplane import FakePodLinks, FakeSwitch
from fakes.node import NAME, RECORDS, SYNCED, FakeNode
from fakes.pods import Killed, add_request, delete_request
from k8s_ovs.agent.pods import PodNetwork, PodParts
from k8s_ovs.agent.reconcile import Plant, Reconciler
from k8s_ovs.cni.protocol import AddResult, Request
from k8s_ovs.errors import CniError
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import AttachmentSet, Event, TenantSet
from k8s_ovs.model.types import PodLimits, Tenant, TenantChange, TenantStep, Vni
from k8s_ovs.model.view import NodeView

PODS = "abc"
LIMITS = PodLimits(10_000_000, 20_000_000)
CHANGE = TenantChange("0123abcd", TenantStep.ACCEPT, Vni(10), Vni(12))
TENANTS = [
    *(Tenant("web", Vni(10), replace(CHANGE, step=step)) for step in TenantStep),
    Tenant("web", Vni(12)),
]
"""The steps of a change, and its end."""


@dataclass
class Life:
    """One process. At its step number `end` it is killed; or `at_end` is called there, and it lives on."""

    end: int = 0
    at_end: Callable[[], None] | None = None
    steps: list[str] = field(default_factory=list)
    dead: bool = False

    async def step(self, name: str) -> None:
        await asyncio.sleep(0)
        if not self.dead:
            self.steps.append(name)
            if len(self.steps) == self.end and self.at_end is not None:
                self.at_end()
            elif len(self.steps) == self.end:
                self.dead = True
        if self.dead:
            raise Killed


class Mortal:
    """A part of the world in the hands of a life: a step before and after each of its effects."""

    def __init__(self, part: object, life: Life) -> None:
        self._part = part
        self._life = life

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._part, name)
        if not inspect.iscoroutinefunction(member):
            return member

        async def call(*args: Any) -> Any:
            await self._life.step(f"before {name}")
            result = await member(*args)
            await self._life.step(f"after {name}")
            return result

        return call


class Limited:
    """Every pod has limits, so that there are meters and queues."""

    async def wanted(self, request: Request) -> PodLimits:
        return LIMITS

    def attached(self, namespace: str, name: str) -> None:
        pass


class World(FakeNode):
    """A node that outlives its agents. `tenant` is what the records say last, `answers` what the runtime was told."""

    def __init__(self) -> None:
        super().__init__()
        self.links = FakePodLinks(f"/netns/{name}" for name in PODS)
        self.switch = FakeSwitch(self.links)
        self.tenant: Tenant | None = None
        self.answers: dict[str, AddResult] = {}

    @property
    def records(self) -> tuple[Event, ...]:
        return (*RECORDS, *([TenantSet(self.tenant)] if self.tenant else []))

    async def live(self, life: Life, work: "Callable[[Agent], Awaitable[None]]") -> None:
        """An agent starts, does `work` and is gone; Killed ends all of it."""
        parts: list[Any] = [Mortal(part, life) for part in (self.switch, self.flows, self.host, self.links)]
        switch, flows, host, links = parts
        reconciler = Reconciler(NAME, Plant(switch, flows, host), self.options)
        exists = self.links.namespaces.__contains__
        pods = PodNetwork(PodParts(switch, links, reconciler, Limited(), exists, tenant_wait=1))
        try:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(reconciler.run())
                await reconciler.submit(*self.records, *SYNCED)
                await pods.recover()
                await work(Agent(self, reconciler, pods))
                task.cancel()
        except* Killed:
            assert life.dead

    def faults(self, *, told: bool = True) -> list[str]:
        """What is not as records and leases want it, and (`told`) the leases as the runtime knows them."""
        rows = self.switch.rows.values()
        view, desired = NodeView(NAME), DesiredFlows()
        for event in (*self.records, *map(AttachmentSet, rows)):
            view.apply(event)
        desired.update(view)
        wanted = type(self.flows)()
        wanted.load(desired.all())
        held = {str(row.key.sandbox): row.address for row in rows}
        answered = {name: answer.address.ip for name, answer in self.answers.items()}
        pairs = {
            "flows": (self.flows.content(), wanted.content()),
            "groups": (self.flows.groups, wanted.groups),
            "meters": (self.flows.meters, wanted.meters),
            "veths": (set(self.links.pairs), {row.host_ifname for row in rows}),
            "leases": (held, answered if told else held),
            "addresses": (len(set(held.values())), len(held)),
        }
        return [f"{name}: {are} instead of {want}" for name, (are, want) in pairs.items() if are != want]


@dataclass
class Agent:
    """A running agent, and what runtime and controller want of it."""

    world: World
    reconciler: Reconciler
    pods: PodNetwork

    async def add(self, name: str) -> None:
        answer = await self.pods.add(add_request(name))
        assert self.world.answers.setdefault(name, answer) == answer, "another answer for the same sandbox"

    async def delete(self, name: str) -> None:
        await self.pods.delete(delete_request(name))
        self.world.answers.pop(name, None)

    async def change(self, tenant: Tenant) -> None:
        self.world.tenant = tenant
        await self.reconciler.submit(TenantSet(tenant))

    async def do(self, action: "Action") -> None:
        match action:
            case Tenant():
                await self.change(action)
            case ("add", name):
                await self.add(name)
            case (_, name):
                await self.delete(name)


Action = tuple[str, str] | Tenant
actions = st.one_of(
    st.tuples(st.sampled_from(["add", "del"]), st.sampled_from(PODS)), st.sampled_from(TENANTS)
)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def killed(world: World, past: list[Action], last: Action, end: int) -> Life:
    """A life that ends at step `end` of `last`, or with it; one in which nobody asks for anything; one that repeats it."""

    async def before(agent: Agent) -> None:
        for action in past:
            await agent.do(action)

    await world.live(Life(), before)
    life = Life(end)
    await world.live(life, lambda agent: agent.do(last))
    await world.live(Life(), lambda agent: asyncio.sleep(0))
    assert world.faults(told=False) == [], life.steps
    await world.live(Life(), lambda agent: agent.do(last))
    return life


@settings(max_examples=30, deadline=None)
@given(past=st.lists(actions, max_size=4), last=actions, end=st.integers(1, 60))
def test_a_life_that_ends_at_any_step_is_put_right_by_the_next(
    past: list[Action], last: Action, end: int
) -> None:
    world = World()
    run(killed(world, past, last, end))
    assert world.faults() == []


@pytest.mark.parametrize("last", [("add", "b"), ("del", "a"), TENANTS[0]], ids=["ADD", "DEL", "tenant"])
def test_every_step_of_a_life_is_survived(last: Action) -> None:
    """Synchronisation and one request, from the first step to the last."""
    end, life = 0, Life(dead=True)
    while life.dead:
        end += 1
        world = World()

        async def work(world: World = world, end: int = end) -> None:
            nonlocal life
            life = await killed(world, [("add", "a"), ("add", "c")], last, end)

        run(work())
        assert world.faults() == [], life.steps
    assert end > 15


@settings(max_examples=30, deadline=None)
@given(past=st.lists(actions, max_size=3), last=actions, end=st.integers(1, 40), times=st.integers(1, 3))
def test_a_request_that_is_cancelled_at_any_step_is_put_right_by_the_runtime(
    past: list[Action], last: Action, end: int, times: int
) -> None:
    """The agent lives on. The runtime removes the sandbox of an ADD that it has given up."""
    world, life = World(), Life()

    async def work(agent: Agent) -> None:
        for action in past:
            await agent.do(action)
        request = asyncio.create_task(agent.do(last))
        life.end, life.at_end = len(life.steps) + end, lambda: cancel(request, times)
        with suppress(asyncio.CancelledError, CniError):
            await request
        await agent.reconciler.submit()
        if isinstance(last, Tenant) or last[0] == "add":
            assert world.faults(told=False) == [], life.steps
        if not isinstance(last, Tenant):
            await agent.delete(last[1])

    run(world.live(life, work))
    assert world.faults() == []


def cancel(request: asyncio.Task[None], times: int) -> None:
    for _ in range(times):
        request.cancel()
