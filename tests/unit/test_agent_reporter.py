"""What an agent reports of tenants that change, and when. Time is virtual."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fakes.node import HOST_IP, NAME, OTHER, OWN, RECORDS, SYNCED, FakeNode, elsewhere, running
from fakes.virtual_time import VirtualLoop, virtual_time, within
from k8s_ovs.agent.reporter import TenantReporter
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.model.events import HostSubnetSet, TenantSet
from k8s_ovs.model.types import AgentReport, Tenant, TenantChange, TenantStep, Vni

REFUSED = OpenFlowError("the switch does not answer")
STEPS = tuple(TenantStep)


def step(number: int, name: str = "web", change: str = "0123abcd") -> TenantSet:
    """The Namespace goes from VNI 10 to 20 and is at this step, from 0; 3 is complete."""
    if number == len(STEPS):
        return TenantSet(Tenant(name, Vni(20)))
    return TenantSet(Tenant(name, Vni(10), TenantChange(change, STEPS[number], Vni(10), Vni(20))))


def applied(node: FakeNode) -> list[dict[str, str]]:
    """What was reported, one after another."""
    assert {(report.host, report.host_ip) for report in node.reports} <= {(NAME, HOST_IP)}
    return [dict(report.applied) for report in node.reports]


async def a_second() -> None:
    await asyncio.sleep(1)


@virtual_time
async def test_the_first_report_follows_the_first_full_synchronisation() -> None:
    node = FakeNode()
    gate = node.flows.hold("replace")
    async with running(node):
        node.reconciler.post(*RECORDS, *SYNCED)
        await a_second()
        assert node.reports == []
        gate.set()
        await a_second()
        assert applied(node) == [{}]
        await asyncio.sleep(200)
        assert applied(node) == [{}]
        assert node.flows.calls.count("settle") == 1, (
            "at the start; then nothing changes, nothing has to settle"
        )


@virtual_time
async def test_a_step_is_reported_once_its_flows_are_confirmed_and_nothing_older_is_in_use() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        node.flows.calls.clear()
        for number, token in enumerate(("0123abcd/accept", "0123abcd/send", "0123abcd/close")):
            commit = node.flows.hold("commit")
            settle = node.flows.hold("settle")
            commit.clear()
            settle.clear()
            node.reports.clear()
            node.reconciler.post(step(number))
            await a_second()
            assert "settle" not in node.flows.calls
            commit.set()
            await a_second()
            assert node.flows.calls[-1] == "settle"
            assert node.reports == []
            settle.set()
            await a_second()
            assert applied(node) == [{"web": token}]
            assert node.as_wanted(step(number))
            node.flows.calls.clear()
        await node.reconciler.submit(step(3))
        await a_second()
        assert applied(node)[-1] == {}
        assert "settle" not in node.flows.calls


@virtual_time
async def test_pods_come_while_the_switch_settles() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        settle = node.flows.hold("settle")
        await node.reconciler.submit(step(0))
        await a_second()
        for number in range(2, 5):
            await within(0.1, node.attach(number))
        assert applied(node) == [{}]
        settle.set()
        await a_second()
        assert applied(node) == [{}, {"web": "0123abcd/accept"}]
        assert node.flows.calls.count("settle") == 2


@virtual_time
async def test_a_namespace_without_a_pod_here_is_reported_without_waiting_for_anything() -> None:
    async with running(FakeNode()) as node:
        await node.know(step(0, "db"))
        await a_second()
        assert applied(node)[-1] == {"db": "0123abcd/accept"}
        settled = node.flows.calls.count("settle")
        for number in (1, 2):
            await node.reconciler.submit(step(number, "db"))
            await a_second()
            assert applied(node)[-1] == {"db": f"0123abcd/{STEPS[number]}"}
        assert node.flows.calls.count("settle") == settled


@virtual_time
async def test_changes_side_by_side_are_one_report() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        await node.reconciler.submit(step(1), step(0, "db", "ffff0000"))
        await a_second()
        assert applied(node) == [{}, {"web": "0123abcd/send", "db": "ffff0000/accept"}]


@virtual_time
async def test_a_commit_that_failed_is_reported_only_after_a_full_synchronisation() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        await node.reconciler.submit(step(0))
        await a_second()
        assert applied(node)[-1] == {"web": "0123abcd/accept"}
        node.flows.fail_next("commit", REFUSED)
        node.flows.fail_next("replace", REFUSED, times=3)
        with pytest.raises(OpenFlowError):
            await node.reconciler.submit(step(1))
        assert applied(node)[-1] == {}, "nobody knows what the bridge holds"
        while node.flows.calls[-1] != "settle":
            assert applied(node)[-1] == {}
            await asyncio.sleep(0.01)
        await a_second()
        assert applied(node)[-1] == {"web": "0123abcd/send"}
        assert node.as_wanted(step(1))


@virtual_time
async def test_a_switch_that_was_restarted_is_reported_again_once_it_has_its_flows() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        await node.reconciler.submit(step(0))
        await a_second()
        before = node.flows.calls.count("settle")
        gate = node.flows.hold("replace")
        node.flows.clear()
        node.switch.disturb()
        await a_second()
        assert applied(node)[-1] == {}
        gate.set()
        await a_second()
        assert applied(node)[-1] == {"web": "0123abcd/accept"}
        assert node.flows.calls.count("settle") == before + 1


@virtual_time
async def test_a_restart_while_the_switch_settles_is_not_missed() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        settle, replace = node.flows.hold("settle"), node.flows.hold("replace")
        await node.reconciler.submit(step(0))
        await a_second()
        node.flows.clear()
        node.switch.disturb()
        await a_second()
        settle.set()
        await a_second()
        assert applied(node) == [{}]
        replace.set()
        await a_second()
        assert applied(node) == [{}, {"web": "0123abcd/accept"}]
        assert node.flows.calls.count("settle") == 3


@virtual_time
async def test_a_switch_that_cannot_settle_is_asked_again() -> None:
    async with running(FakeNode()) as node:
        await node.know()
        await node.attach(1)
        node.flows.fail_next("settle", REFUSED, times=3)
        await node.reconciler.submit(step(0))
        await asyncio.sleep(0.1)
        assert applied(node) == [{}]
        await asyncio.sleep(10)
        assert applied(node) == [{}, {"web": "0123abcd/accept"}]
        assert node.flows.calls.count("settle") == 5


@virtual_time
async def test_an_agent_that_starts_in_the_middle_reports_after_its_own_synchronisation() -> None:
    node = FakeNode()
    async with running(node):
        await node.know()
        await node.attach(1)
        await node.reconciler.submit(step(1))
        await a_second()
    node.reports.clear()
    node.agent()
    gate, settle = node.flows.hold("replace"), node.flows.hold("settle")
    async with running(node):
        node.reconciler.post(*RECORDS, step(1), *SYNCED)
        await a_second()
        assert node.reports == []
        gate.set()
        await a_second()
        assert node.reports == []
        settle.set()
        await a_second()
        assert applied(node) == [{"web": "0123abcd/send"}]


@virtual_time
async def test_a_node_that_loses_its_subnet_or_its_address_reports_what_is_true() -> None:
    async with running(FakeNode()) as node:
        await node.know(step(0))
        await a_second()
        assert applied(node) == [{"web": "0123abcd/accept"}]
        node.reconciler.post(HostSubnetSet(elsewhere(OWN, "10.0.0.0/22")))
        await a_second()
        assert applied(node)[-1] == {}
        await node.reconciler.submit(HostSubnetSet(OWN), HostSubnetSet(OTHER))
        await a_second()
        assert applied(node)[-1] == {"web": "0123abcd/accept"}


# -- the reporter alone, in every order of things ----------------------------------------------------------------------


@dataclass
class Settling:
    """One call of `settle`: what was confirmed when it began, and whether a doubt came since."""

    confirmed: AgentReport
    end: asyncio.Future[None]
    doubtful: bool = False


@dataclass
class Bridge:
    """What a judge knows."""

    confirmed: AgentReport | None = None
    revision: int = 0
    settling: list[Settling] = field(default_factory=list)
    told: list[AgentReport] = field(default_factory=list)


class Reporting(RuleBasedStateMachine):
    """Confirmations, doubts, and a switch that settles or fails when it likes."""

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.bridge = Bridge()
        self.reporter: TenantReporter
        self.runner.run(self._start())

    async def _start(self) -> None:
        self.reporter = TenantReporter(self._settle, self.bridge.told.append)
        self.task = asyncio.ensure_future(self.reporter.run())

    async def _settle(self) -> None:
        assert self.bridge.confirmed is not None
        call = Settling(self.bridge.confirmed, asyncio.get_running_loop().create_future())
        self.bridge.settling.append(call)
        await call.end

    @rule(
        tokens=st.dictionaries(st.sampled_from(["red", "blue"]), st.integers(0, 2).map(str)),
        send=st.booleans(),
    )
    def confirm(self, tokens: dict[str, str], send: bool) -> None:
        self.runner.run(self._confirm(tokens, send))

    async def _confirm(self, tokens: dict[str, str], send: bool) -> None:
        doubtful = self.bridge.confirmed is None
        self.bridge.revision += send or doubtful
        self.bridge.confirmed = AgentReport(NAME, HOST_IP, tokens)
        self.reporter.confirm(self.bridge.confirmed, self.bridge.revision)
        await asyncio.sleep(0)

    @rule()
    def doubt(self) -> None:
        self.runner.run(self._doubt())

    async def _doubt(self) -> None:
        self.bridge.confirmed = None
        for call in self.bridge.settling:
            call.doubtful = True
        self.reporter.doubt()
        await asyncio.sleep(0)

    @precondition(lambda self: self.bridge.settling)
    @rule(works=st.booleans())
    def settles(self, works: bool) -> None:
        self.runner.run(self._end(works))

    async def _end(self, works: bool) -> None:
        [call] = self.bridge.settling
        self.bridge.settling.clear()
        before = len(self.bridge.told)
        if works:
            call.end.set_result(None)
        else:
            call.end.set_exception(REFUSED)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if call.doubtful or not works:
            # What was reported before and is confirmed still needs no settling: it may be told again at any time.
            known = self.bridge.told[before - 1].applied if before else {}
            assert all(report.applied.items() <= known.items() for report in self.bridge.told[before:])

    @rule()
    def in_the_end_it_is_told(self) -> None:
        """With a switch that works and no further doubt, what is confirmed is what was told last."""
        self.runner.run(self._until_told())

    async def _until_told(self) -> None:
        for _ in range(100):
            await asyncio.sleep(0.1)
            if self.bridge.settling:
                await self._end(True)
        if self.bridge.confirmed is not None:
            assert self.bridge.told[-1] == self.bridge.confirmed
        elif self.bridge.told:
            assert self.bridge.told[-1].applied == {}

    @invariant()
    def one_settling_at_a_time(self) -> None:
        assert len(self.bridge.settling) <= 1
        assert not self.task.done()

    @invariant()
    def nothing_is_claimed_in_doubt(self) -> None:
        if self.bridge.confirmed is None and self.bridge.told:
            assert self.bridge.told[-1].applied == {}

    def teardown(self) -> None:
        self.runner.run(self._stop())
        self.runner.close()

    async def _stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


TestReporting = Reporting.TestCase
TestReporting.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
