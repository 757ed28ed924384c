"""Bandwidth of pods: which limits apply, what happens to bad ones, and how changes are carried out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from fakes.pods import PodWorld, add_request, check_request, delete_request
from fakes.watching import until
from k8s_ovs.agent import limits as module
from k8s_ovs.agent.limits import EGRESS, INGRESS, LimitKeeper, limits_of
from k8s_ovs.agent.pods import PodNetwork
from k8s_ovs.cni.codes import Code
from k8s_ovs.cni.protocol import Request
from k8s_ovs.errors import (
    CniError,
    KubeNotFound,
    KubeUnavailable,
    LinkError,
    OpenFlowError,
    OvsdbError,
    RecordError,
)
from k8s_ovs.model.types import UNLIMITED, Attachment, AttachmentKey, PodLimits, SandboxId
from k8s_ovs.sources.kube.objects import ObjectMeta, Pod
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Upserted

KEY = AttachmentKey(SandboxId("a"), "eth0")
BOTH = PodLimits(10**7, 2 * 10**7)


class Api:
    """`PodApi` in memory."""

    def __init__(self, *pods: Pod) -> None:
        self.pods = {pod.key: pod for pod in pods}
        self.asked: list[tuple[str, str]] = []
        self.told: list[tuple[str, str, str, str]] = []
        self.trouble: Exception | None = None
        self.silent = asyncio.Event()
        self.silent.set()

    async def pod(self, namespace: str, name: str) -> Pod:
        self.asked.append((namespace, name))
        await self.silent.wait()
        if self.trouble is not None:
            raise self.trouble
        if (namespace, name) not in self.pods:
            raise KubeNotFound(f"GET pod {name}: 404 NotFound", status=404, reason="NotFound")
        return self.pods[(namespace, name)]

    async def warn(self, namespace: str, name: str, uid: str, message: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.told.append((namespace, name, uid, message))


def away() -> KubeUnavailable:
    return KubeUnavailable("GET https://api: no answer", status=0, reason="")


def pod_with(ingress: str | None = None, egress: str | None = None, *, uid: str = "uid-a") -> Pod:
    given = {INGRESS: ingress, EGRESS: egress, "other": "annotation"}
    annotations = {name: text for name, text in given.items() if text is not None}
    return Pod(metadata=ObjectMeta(name="a", namespace="web", uid=uid, annotations=annotations))


def request(ingress: int | None = None, egress: int | None = None) -> Request:
    return replace(add_request("a"), limits=PodLimits(ingress, egress))


async def refused(keeper: LimitKeeper, asked: Request) -> CniError:
    with pytest.raises(CniError) as caught:
        await keeper.wanted(asked)
    return caught.value


@asynccontextmanager
async def running(keeper: LimitKeeper, agent: PodNetwork) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.run(agent.limits))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


# -- annotations -----------------------------------------------------------------------------------------------------


def test_annotations_are_quantities_of_bits_per_second() -> None:
    assert limits_of("web/a", {}) == UNLIMITED
    assert limits_of("web/a", {INGRESS: "10M", EGRESS: "20000k"}) == BOTH
    assert limits_of("web/a", {EGRESS: "1Ki"}) == PodLimits(egress=1024)


@pytest.mark.parametrize("text", ["", "fast", "10Mbit", "999", "0", "-1M", "2P"])
@pytest.mark.parametrize("name", [INGRESS, EGRESS])
def test_a_bad_annotation_is_named_with_its_remedy(name: str, text: str) -> None:
    with pytest.raises(RecordError) as caught:
        limits_of("web/a", {INGRESS: "1M", EGRESS: "1M", name: text})
    assert caught.value.message.startswith(f"pod web/a: annotation {name}: ")
    assert "from 1k to 1P" in caught.value.remedy


# -- at ADD ----------------------------------------------------------------------------------------------------------


async def test_the_api_is_asked_for_a_pod_that_the_watch_has_not_told_yet() -> None:
    keeper = LimitKeeper(api := Api(pod_with("10M", "20M")))
    assert await keeper.wanted(request()) == BOTH
    keeper.take([Upserted(pod_with("10M")), InSync()])
    assert await keeper.wanted(request()) == PodLimits(10**7)
    assert api.asked == [("web", "a")], "the second time it is known"


async def test_a_pod_that_was_made_anew_under_its_name_is_asked_for() -> None:
    keeper = LimitKeeper(Api(pod_with("10M")))
    keeper.take([Upserted(pod_with("1M", uid="former"))])
    assert await keeper.wanted(request()) == PodLimits(10**7)


async def test_annotations_win_and_the_runtime_speaks_for_pods_without() -> None:
    by_runtime = PodLimits(5000, 6000, from_runtime=True)
    for api in (None, Api(), Api(pod_with())):
        assert await LimitKeeper(api).wanted(request(5000, 6000)) == by_runtime
    assert await LimitKeeper(Api(pod_with("10M"))).wanted(request(5000, 6000)) == PodLimits(10**7)
    for api in (None, Api(), Api(pod_with())):
        assert await LimitKeeper(api).wanted(request()) == UNLIMITED


@pytest.mark.parametrize("trouble", [away(), RecordError("pods web/a", "spec is no object")])
async def test_never_an_unlimited_pod_because_the_api_is_away(trouble: Exception) -> None:
    api = Api()
    api.trouble = trouble
    keeper = LimitKeeper(api)
    error = await refused(keeper, request())
    assert error.code == Code.TRY_AGAIN
    assert str(trouble) in error.message
    assert await keeper.wanted(request(5000)) == PodLimits(5000, from_runtime=True)
    keeper.take([Upserted(pod_with("10M"))])
    assert await keeper.wanted(request()) == PodLimits(10**7), "what is known is known"


async def test_an_api_that_says_nothing_does_not_hold_an_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "API_WAIT", 0.01)
    api = Api()
    api.silent.clear()
    error = await refused(LimitKeeper(api), request())
    assert error.code == Code.TRY_AGAIN
    assert "has not answered" in error.message


async def test_a_bad_annotation_refuses_the_pod_and_is_told_once() -> None:
    world = PodWorld()
    keeper = LimitKeeper(api := Api(pod_with("much")))
    async with running(keeper, world.agent()):
        for _ in range(3):
            error = await refused(keeper, request(5000))
            assert error.code == Code.BAD_LIMIT
            assert INGRESS in error.message
            assert "'much'" in error.message
            assert "pod web/a" not in error.message, "PodNetwork puts it in front"
        await until(lambda: bool(api.told), "the Event")
    ((namespace, name, uid, message),) = api.told
    assert (namespace, name, uid) == ("web", "a", "uid-a")
    assert message.endswith("the pod is not attached")


async def test_an_event_that_could_not_be_made_is_made_with_the_next_refusal() -> None:
    keeper = LimitKeeper(api := Api(pod_with("much")))
    keeper.take([Upserted(pod_with("much"))])
    async with running(keeper, PodWorld().agent()):
        api.trouble = away()
        await refused(keeper, request())
        await until(lambda: not keeper._told, "the attempt")
        api.trouble = None
        await refused(keeper, request())
        await until(lambda: bool(api.told), "the Event")
    assert len(api.told) == 1


# -- while the pod runs ----------------------------------------------------------------------------------------------


class Running:
    """One attached pod, and a keeper that follows its annotations."""

    def __init__(self, limits: PodLimits = UNLIMITED) -> None:
        self.world = PodWorld(netns={"/netns/a"}, limits=limits)
        self.agent = self.world.agent()
        self.api = Api()
        self.keeper = LimitKeeper(self.api)

    async def attach(self) -> None:
        self.result = await self.agent.add(add_request("a"))

    @property
    def limits(self) -> PodLimits:
        return self.world.rows[KEY].limits

    @property
    def in_force(self) -> bool:
        """Lease, flows and shaper say the same."""
        return self.world.faults() == []

    async def annotate(self, ingress: str | None = None, egress: str | None = None) -> None:
        self.keeper.take([Upserted(pod_with(ingress, egress))])

    async def becomes(self, limits: PodLimits) -> None:
        await until(lambda: self.limits == limits and self.in_force, f"limits {limits}, not {self.limits}")


@pytest.fixture
async def pod() -> AsyncIterator[Running]:
    pod = Running()
    await pod.attach()
    async with running(pod.keeper, pod.agent):
        yield pod


async def test_limits_come_change_and_go_with_the_annotations(pod: Running) -> None:
    for ingress, egress, limits in (
        ("10M", "20M", BOTH),
        ("10M", None, PodLimits(10**7)),
        (None, "5k", PodLimits(egress=5000)),
        (None, None, UNLIMITED),
    ):
        await pod.annotate(ingress, egress)
        await pod.becomes(limits)
    await pod.agent.check(check_request("a", pod.result))


async def test_what_does_not_change_touches_nothing(pod: Running) -> None:
    await pod.annotate("10M", "20M")
    await pod.becomes(BOTH)
    before = len(pod.world.moments)
    await pod.annotate("10000k", "20M")
    await pod.annotate("10M", "20M")
    fresh = LimitKeeper(pod.api)  # a restarted agent
    async with running(fresh, pod.world.agent()):
        fresh.take([Upserted(pod_with("10M", "20M")), InSync()])
        await until(lambda: "shape" in pod.world.moments[before:], "the round")
        fresh.take([Upserted(pod_with("10000k", "20M"))])
        await until(lambda: not fresh._dirty and not fresh._changed.is_set(), "another round")
    assert pod.world.moments[before:] == ["shape", "shaped"], "which looks, and finds what it shall be"


async def test_a_shaper_that_a_killed_agent_has_not_come_to_is_seen_to_by_the_next(pod: Running) -> None:
    await pod.annotate("10M", "20M")
    await pod.becomes(BOTH)
    row = pod.world.rows[KEY]
    pod.world.rows[KEY] = replace(row, limits=UNLIMITED)  # killed behind the lease
    pod.world.flows[KEY] = pod.world.rows[KEY]
    assert not pod.in_force
    fresh = LimitKeeper(pod.api)
    async with running(fresh, pod.world.agent()):
        fresh.take([Upserted(pod_with()), InSync()])
        await pod.becomes(UNLIMITED)


async def test_a_bad_annotation_leaves_the_former_limit_and_is_told(pod: Running) -> None:
    await pod.annotate("10M", "20M")
    await pod.becomes(BOTH)
    await pod.annotate("10M", "20")
    await until(lambda: bool(pod.api.told), "the Event")
    assert pod.limits == BOTH
    assert pod.in_force
    assert pod.api.told[0][3].endswith("the limits that the pod has stay")
    await pod.annotate("30M", "20M")
    await pod.becomes(PodLimits(3 * 10**7, 2 * 10**7))
    await pod.annotate("30M", "20")
    await until(lambda: len(pod.api.told) == 2, "the Event of a mistake made again")


async def test_the_runtimes_limits_stay_until_there_are_annotations() -> None:
    pod = Running(PodLimits(5000, from_runtime=True))
    await pod.attach()
    async with running(pod.keeper, pod.agent):
        await pod.annotate()
        await until(lambda: not pod.keeper._dirty, "the round")
        assert pod.limits == PodLimits(5000, from_runtime=True)
        await pod.annotate("10M")
        await pod.becomes(PodLimits(10**7))
        await pod.annotate()
        await pod.becomes(UNLIMITED)


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        ("set_limits", OvsdbError("no answer")),
        ("install", OpenFlowError("no answer")),
        ("shape", LinkError("no tbf")),
    ],
)
async def test_what_fails_is_not_the_end(pod: Running, moment: str, error: Exception) -> None:
    """After a failure behind the lease, flows come by the reconciler's own synchronisation; a shaper with the next try."""
    failures = [error]

    async def hook(name: str) -> None:
        await asyncio.sleep(0)
        if name == moment and failures:
            raise failures.pop()

    pod.world.hook = hook
    await pod.annotate("10M", "20M")
    await until(lambda: not failures and pod.limits == BOTH, "the lease")
    await pod.annotate("10M", "30M")
    await pod.becomes(PodLimits(10**7, 3 * 10**7))


async def test_a_change_during_the_add_is_carried_out_after_it() -> None:
    pod = Running()
    keeper = pod.keeper
    keeper.take([Upserted(pod_with())])

    async def hook(name: str) -> None:
        await asyncio.sleep(0)
        if name == "created_link":
            keeper.take([Upserted(pod_with("10M", "20M"))])

    pod.world.hook = hook
    async with running(keeper, pod.agent):
        await pod.attach()
        assert pod.world.attached == [("web", "a")]
        keeper.attached("web", "a")
        await pod.becomes(BOTH)


async def test_a_pod_that_is_going_gets_its_queue_and_no_shaper(pod: Running) -> None:
    pod.world.netns.clear()
    await pod.annotate("10M", "20M")
    await until(lambda: pod.limits == BOTH, "the lease")
    assert "shape" not in pod.world.moments


async def test_a_pod_that_is_gone_is_no_error(pod: Running) -> None:
    await pod.agent.delete(delete_request("a"))
    await pod.annotate("10M", "20M")
    pod.keeper.take([Deleted("web", "a")])
    await until(lambda: not pod.keeper._dirty, "the round")
    assert pod.world.empty
    assert pod.api.told == []
    assert pod.keeper._pods == {}


# -- the attachment --------------------------------------------------------------------------------------------------


async def test_add_gives_the_limits_and_refuses_without() -> None:
    world = PodWorld(netns={"/netns/a"}, limits=CniError(Code.BAD_LIMIT, "annotation"))
    agent = world.agent()
    with pytest.raises(CniError, match=r"pod web/a: annotation") as caught:
        await agent.add(add_request("a"))
    assert caught.value.code == Code.BAD_LIMIT
    assert world.empty
    world.limits = BOTH
    await agent.add(add_request("a"))
    assert world.rows[KEY].limits == BOTH
    assert world.faults() == []


async def test_add_again_brings_other_limits_without_making_anything_anew() -> None:
    world = PodWorld(netns={"/netns/a"}, limits=BOTH)
    agent = world.agent()
    first = await agent.add(add_request("a"))
    world.links = {
        name: replace(link, egress=None) for name, link in world.links.items()
    }  # the pod was at it
    world.limits = PodLimits(10**8)
    assert await agent.add(add_request("a")) == first
    assert world.rows[KEY].limits == PodLimits(10**8)
    assert world.faults() == []
    assert world.moments.count("create_link") == 1


def test_a_pod_lives_if_the_api_has_it_or_has_not_told_yet() -> None:
    lease = Attachment(KEY, IPv4Address("172.11.4.2"), "web", "a", "uid-a", "/netns/a", "kovs0")
    assert not LimitKeeper(None).pod_lives(lease)
    keeper = LimitKeeper(Api())
    assert keeper.pod_lives(lease)
    keeper.take([Upserted(pod_with()), InSync()])
    assert keeper.pod_lives(lease)
    assert not keeper.pod_lives(replace(lease, uid="another of the same name"))
    keeper.take([Deleted("web", "a")])
    assert not keeper.pod_lives(lease)


async def test_check_sees_a_lost_queue_and_a_lost_shaper() -> None:
    world = PodWorld(netns={"/netns/a"}, limits=BOTH)
    agent = world.agent()
    result = await agent.add(add_request("a"))
    await agent.check(check_request("a", result))
    world.lost_queues.add(KEY)
    with pytest.raises(CniError, match="no limit") as caught:
        await agent.check(check_request("a", result))
    assert caught.value.code == Code.CHECK_FAILED
    world.lost_queues.clear()
    world.links = {name: replace(link, egress=None) for name, link in world.links.items()}
    with pytest.raises(CniError) as caught:
        await agent.check(check_request("a", result))
    assert caught.value.code == Code.CHECK_FAILED
