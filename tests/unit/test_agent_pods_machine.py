"""Any sequence of requests, crashes, vanished namespaces and reboots: no address twice, nothing leaked."""

import asyncio
from collections.abc import Coroutine, Set
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fakes.pods import Killed, PodWorld, add_request, check_request, delete_request, gc_request
from k8s_ovs.cni.codes import Code
from k8s_ovs.cni.protocol import AddResult, Request
from k8s_ovs.errors import CniError, OvsdbError
from k8s_ovs.model.types import AttachmentKey, SandboxId

T = TypeVar("T")

NAMES = [f"s{n}" for n in range(8)]
sandboxes = st.sampled_from(NAMES)
SUBNET = IPv4Network("172.11.4.0/29")
"""Five pod addresses for eight sandboxes, so that exhaustion happens."""


class Pods(RuleBasedStateMachine):
    """`answers` is what the runtime believes: the result of each ADD that succeeded and was not followed by a DEL."""

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.world = PodWorld(subnet=SUBNET)
        self.agent = self.world.agent()
        self.answers: dict[str, AddResult] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        for name in NAMES:
            self.run(self.agent.delete(delete_request(name)))
        assert self.world.empty
        assert len(self.agent._locks) == 0
        assert self.agent._addresses.reserved == frozenset()
        self.runner.close()

    @rule(name=sandboxes)
    def make_namespace(self, name: str) -> None:
        if f"/netns/{name}" in self.world.unmounted:
            return  # the runtime gives every sandbox another path
        self.world.netns.add(f"/netns/{name}")
        if any(key.sandbox == name for key in self.world.rows):
            # It was lost with the veth in it and comes back empty: the runtime asks anew, as after a lost veth.
            self.add(name)

    @rule(name=sandboxes)
    def lose_namespace(self, name: str) -> None:
        self.world.remove_netns(f"/netns/{name}")

    @rule(name=sandboxes)
    def unmount_namespace(self, name: str) -> None:
        """Its file goes, but somebody is in it: it lives, and so does the veth."""
        path = f"/netns/{name}"
        if any(link.netns == path for link in self.world.links.values()):
            self.world.netns.discard(path)
            self.world.unmounted.add(path)

    @rule(name=sandboxes, lives=st.booleans())
    def tell_of_the_pod(self, name: str, lives: bool) -> None:
        """What the API has; it knows nothing of sandboxes."""
        self.world.pods = self.world.pods | {name} if lives else self.world.pods - {name}

    @rule(name=sandboxes)
    def lose_veth(self, name: str) -> None:
        self.world.unmounted.discard(f"/netns/{name}")
        self.world.links = {n: link for n, link in self.world.links.items() if link.netns != f"/netns/{name}"}
        self.add(name)

    @rule(name=sandboxes)
    def add(self, name: str) -> None:
        self.judge(name, self.run(self.try_add(name)))

    @rule(names=st.lists(sandboxes, min_size=2, max_size=6))
    def add_side_by_side(self, names: list[str]) -> None:
        async def all_of_them() -> list[AddResult | CniError]:
            return list(await asyncio.gather(*(self.try_add(name) for name in names)))

        for name, outcome in zip(names, self.run(all_of_them()), strict=True):
            self.judge(name, outcome)

    async def try_add(self, name: str) -> AddResult | CniError:
        try:
            return await self.agent.add(add_request(name))
        except CniError as err:
            return err

    def judge(self, name: str, outcome: AddResult | CniError) -> None:
        exists = f"/netns/{name}" in self.world.netns
        if isinstance(outcome, AddResult):
            assert exists
            assert self.answers.setdefault(name, outcome) == outcome, "an ADD again gets another answer"
        elif outcome.code == Code.NO_ADDRESS:
            assert exists
            assert len(self.world.rows) == 5
            assert name not in self.answers
        else:
            assert outcome.code == Code.UNKNOWN_CONTAINER
            assert not exists

    @rule(name=sandboxes)
    def delete(self, name: str) -> None:
        self.run(self.agent.delete(delete_request(name)))
        self.answers.pop(name, None)

    @rule(name=sandboxes)
    def add_and_delete_at_once(self, name: str) -> None:
        async def both() -> None:
            await asyncio.gather(self.try_add(name), self.agent.delete(delete_request(name)))

        self.run(both())
        self.answers.pop(name, None)
        assert all(key.sandbox != name for key in self.world.rows)

    @rule(name=sandboxes)
    def check(self, name: str) -> None:
        if name in self.answers:
            request: Request = check_request(name, self.answers[name])
            if request.netns in self.world.netns:
                self.run(self.agent.check(request))
            elif request.netns not in self.world.unmounted:
                self.run(self.refused(request))

    async def refused(self, request: Request) -> None:
        try:
            await self.agent.check(request)
        except CniError as err:
            assert err.code in (Code.CHECK_FAILED, Code.UNKNOWN_CONTAINER)  # noqa: PT017
        else:
            raise AssertionError("CHECK is content without a network namespace")

    @rule(keep=st.sets(sandboxes))
    def collect(self, keep: set[str]) -> None:
        links = {link.netns for link in self.world.links.values()}
        before = {key.sandbox for key in self.world.rows}
        alive = {name for name in before if name in self.world.pods and f"/netns/{name}" in links}
        # What has neither veth nor network namespace goes although the list has it: nobody can use it any more.
        there = {name for name in keep if f"/netns/{name}" in links | self.world.netns | self.world.unmounted}
        self.run(self.agent.gc(gc_request(*keep)))
        self.answers = {name: answer for name, answer in self.answers.items() if name in there | alive}
        after = {key.sandbox for key in self.world.rows}
        assert after <= keep | alive
        assert alive <= after, "the address of a pod that lives went"

    @rule(name=sandboxes, step=st.integers(1, 14), adding=st.booleans())
    def kill_the_agent(self, name: str, step: int, adding: bool) -> None:
        work: Coroutine[Any, Any, object] = self.try_add(name)
        if not adding:
            work.close()
            work = self.agent.delete(delete_request(name))
        self.fail_after(step, Killed())
        with suppress(Killed):
            self.run(work)
        self.agent = self.world.agent()
        self.after_start(name, adding)

    @rule(name=sandboxes, step=st.integers(1, 14), adding=st.booleans())
    def fail_a_step(self, name: str, step: int, adding: bool) -> None:
        work: Coroutine[Any, Any, object] = self.agent.delete(delete_request(name))
        if adding:
            work.close()
            work = self.agent.add(add_request(name))
        self.fail_after(step, OvsdbError("refused"))
        try:
            self.run(work)
        except CniError:
            self.world.hook = lambda _name: asyncio.sleep(0)
            # What a runtime does with a sandbox whose ADD or DEL failed.
            self.run(self.agent.delete(delete_request(name)))
            self.answers.pop(name, None)
        self.world.hook = lambda _name: asyncio.sleep(0)
        self.answers = {n: a for n, a in self.answers.items() if any(k.sandbox == n for k in self.world.rows)}
        self.learn(name)

    def fail_after(self, steps: int, error: BaseException) -> None:
        left = [steps]

        async def hook(_name: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise error

        self.world.hook = hook

    @rule()
    def restart(self) -> None:
        self.agent = self.world.agent()
        self.after_start("", adding=False)

    @rule()
    def reboot(self) -> None:
        for path in self.world.netns | self.world.unmounted:
            self.world.remove_netns(path)
        self.agent = self.world.agent()
        self.after_start("", adding=False)
        assert self.world.empty
        assert not self.answers

    def after_start(self, name: str, adding: bool) -> None:
        """What the agent does when it starts: `recover`, and the reconciler's full synchronisation."""
        self.run(self.agent.recover())
        self.world.flows = dict(self.world.rows)
        leased = {key.sandbox for key in self.world.rows}
        alive = self.world.netns | self.world.unmounted
        lost = {n for n in self.answers if n not in leased and f"/netns/{n}" in alive}
        assert lost <= ({name} if not adding else set()), "a restart has cost a pod its lease"
        self.answers = {n: answer for n, answer in self.answers.items() if n in leased}
        self.learn(name)

    def learn(self, name: str) -> None:
        """An ADD whose answer was lost may have been carried out; the runtime asks again before it uses the pod."""
        row = next((row for row in self.world.rows.values() if row.key.sandbox == name), None)
        if row is not None and name in self.answers and self.answers[name].address.ip != row.address:
            del self.answers[name]
        if row is not None and name not in self.answers and row.netns in self.world.netns:
            self.answers[name] = self.run(self.agent.add(add_request(name)))

    @invariant()
    def nothing_is_shared_or_leaked(self) -> None:
        if hasattr(self, "world"):
            assert self.world.faults() == []
            held = {row.key.sandbox: row.address for row in self.world.rows.values()}
            assert {name: answer.address.ip for name, answer in self.answers.items()}.items() <= held.items()


Pods.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPods = Pods.TestCase


async def test_the_machine_notices_a_shared_address() -> None:
    world = PodWorld(netns={"/netns/a"})
    await world.agent().add(add_request("a"))
    row = next(iter(world.rows.values()))
    world.rows[replace(row.key, ifname="eth1")] = replace(row, host_ifname="veth-other")
    assert "an address is given twice" in world.faults()


async def test_the_machine_notices_an_address_with_traces() -> None:
    world = PodWorld(netns={"/netns/a"})
    world.traces = {IPv4Address("172.11.4.2"): AttachmentKey(SandboxId("old"), "eth0")}

    async def nothing(addresses: Set[IPv4Address]) -> None:
        """The agent before this one knew no better."""

    agent = world.agent()
    agent.cleaner._forget = nothing
    await agent.add(add_request("a"))
    assert "left" in world.faults()[0]
