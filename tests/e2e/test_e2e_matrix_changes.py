"""Four tenants that change at random: the full matrix equals the oracle before, during and after every change.

Pods on three nodes, a Service of each tenant for TCP and UDP, one with an endpoint that is written by hand into another
tenant; one tenant is global at first, two are joined. The changes are asked for with etcdctl, every third with
`k8s-ovs tenant`. A run prints its seed; K8S_OVS_TEST_SEED=… makes the same changes again, and K8S_OVS_TEST_CHANGES=… more
or fewer of them (`make soak`: 50).
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from fakes.lab_services import ServiceLab, namespace
from fakes.labs import Lab, eventually, running_lab
from fakes.matrix_truth import Pair, Truth, both, truth
from fakes.tenant_admin import Administrator, administrator, may_talk, windows
from fakes.traffic import UDP_PORT, Probe, Traffic, traffic
from fakes.traffic_log import Gap, StreamLog
from k8s_ovs.model.preview import after_global, after_isolate, after_join
from k8s_ovs.model.types import GLOBAL_VNI, Vni

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(900)]

CHANGES = int(os.environ.get("K8S_OVS_TEST_CHANGES", "9"))
SEED = "K8S_OVS_TEST_SEED"
NODES = ("node1", "node2", "node3")
TENANTS = ("red", "blue", "green", "gold")
ACTIONS = ("join", "join", "isolate", "global")
PERIOD = 0.02
SERVED = ({"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"})
STEADY = {"name": "steady", "port": UDP_PORT, "protocol": "UDP"}


@dataclass(frozen=True)
class Request:
    """One change."""

    namespace: str
    action: str
    other: str = ""

    def applied_to(self, vnis: Mapping[str, Vni]) -> dict[str, Vni]:
        """What it has to lead to; the number that a tenant on its own gets may be another one."""
        if self.action == "join":
            return after_join(vnis, self.namespace, self.other)
        return (after_isolate if self.action == "isolate" else after_global)(vnis, self.namespace)


@dataclass
class World:
    """The lab with the four tenants, and everything that watches them."""

    truth: Truth
    admin: Administrator
    flow: Traffic
    streams: dict[str, tuple[str, str]]
    """Name of each stream to the Namespaces of its ends."""


def probes(lab: Lab) -> list[Probe]:
    """From each tenant to each: within a node, across nodes, and through the Service."""
    found = []
    for number, source in enumerate(TENANTS):
        for step, target in enumerate(TENANTS, number):
            near, far = step % 3 + 1, (step + 1) % 3 + 1
            client = f"{source}/web-{near}"
            if source != target:
                found.append(Probe(client, f"{target}/web-{near}", period=PERIOD))
            found.append(Probe(client, f"{target}/web-{far}", period=PERIOD))
            address = ServiceLab(lab, target).address("web")
            found.append(
                Probe(
                    client,
                    f"{target}/web-{far}",
                    address=address,
                    port=UDP_PORT,
                    echo=True,
                    period=PERIOD,
                    label="service",
                )
            )
    return found


@contextmanager
def four_tenants(lab: Lab) -> Iterator[None]:
    """Their pods and Services, gone afterwards: red and blue joined, gold global, green alone."""
    with namespace(lab, *TENANTS) as made:
        for tenant in made:
            tenant.pods("web", *NODES)
            kind = "NodePort" if tenant.namespace == "blue" else "ClusterIP"
            tenant.apply(tenant.service("web", *SERVED, STEADY, selector="web", type=kind))
        red, green = made[0], made[2]
        ports = [{**port} for port in SERVED]
        red.apply(
            red.service("trojan", *SERVED), red.slice("trojan", green.pod_ip("green/web-2"), ports=ports)
        )
        lab.cli("tenant", "join", "red", "blue", "--wait")
        lab.cli("tenant", "global", "gold", "--wait")
        yield


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with (
        running_lab() as lab,
        four_tenants(lab),
        truth(lab) as known,
        administrator(lab) as admin,
        traffic(lab, (streams := probes(lab)), receivers=[pod.title for pod in known.pods]) as flow,
    ):
        ends = {each.name: (each.source.partition("/")[0], each.target.partition("/")[0]) for each in streams}
        eventually(
            lambda: not known.differences(known.pairs(known.vnis())), "the switches know of everything"
        )
        allowed = [name for name, (source, target) in ends.items() if may_talk(admin.vnis, source, target)]
        flow.start(*allowed)
        yield World(known, admin, flow, ends)


def test_what_is_wrong_would_be_seen(world: World) -> None:
    """A matrix that is expected to be another one differs, in exactly the pairs that are expected to be otherwise."""
    known, vnis = world.truth, world.truth.vnis()
    right = known.pairs(vnis)
    assert {pair.allowed for pair in right} == {True, False}
    for wrong in ({**vnis, "red": Vni(999)}, {**vnis, "gold": Vni(999)}):
        pretended = known.pairs(wrong)
        judged = {pair.key: pair.allowed for pair in pretended}
        # An allowed pair that is expected to be cut; the opposite would only take long to be seen.
        cut = [pair for pair in right if pair.allowed and not judged[pair.key]]
        different = known.differences(pretended)
        assert len(different) == len(cut) > 50
        assert all("should NOT pass" in text and "was answered" in text for text in different)
        assert {pair.protocol.value for pair in cut} == {"TCP", "UDP", "ICMP"}


def test_the_matrix_equals_the_oracle_before_during_and_after_random_changes(world: World) -> None:
    seed = int(os.environ.get(SEED) or random.randrange(1 << 30))
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    print(f"{SEED}={seed}")
    vnis = world.truth.vnis()
    assert world.truth.differences(world.truth.pairs(vnis)) == []
    for number in range(CHANGES):
        request = drawn(rng)
        where = f"change {number} of {SEED}={seed}, {request}, {vnis}"
        vnis = changed(world, request, vnis, rng, where, by_command=number % 3 == 2)
        kinds[request.action] += 1
    world.admin.end()
    judge_streams(world, seed)
    taken = sorted(change.seconds for change in world.admin.history)
    print(f"{dict(kinds)}; a change takes {taken[len(taken) // 2]:.2f} s, at most {taken[-1]:.2f} s")


def drawn(rng: random.Random) -> Request:
    name, action = rng.choice(TENANTS), rng.choice(ACTIONS)
    other = rng.choice([each for each in TENANTS if each != name]) if action == "join" else ""
    return Request(name, action, other)


def changed(
    world: World,
    request: Request,
    vnis: Mapping[str, Vni],
    rng: random.Random,
    where: str,
    *,
    by_command: bool,
) -> dict[str, Vni]:
    """Make one change: nothing of what stays allowed is lost meanwhile, and afterwards all is as the oracle says."""
    known, foreseen = world.truth, request.applied_to(vnis)
    keep = both(known.pairs(vnis), known.pairs(foreseen))
    rng.shuffle(keep)
    ask = world.admin.change_by_command if by_command else world.admin.change
    begun = time.monotonic()
    lost = under_change(known, keep, lambda: ask(request.namespace, request.action, request.other))
    assert lost == [], f"during {where}: {len(lost)} lost or astray"
    now = known.vnis()
    assert tenants(now) == tenants(foreseen), f"after {where}: {now}"
    different = known.differences(known.pairs(now))
    print(f"{where}: {time.monotonic() - begun:.1f} s")
    assert different == [], f"after {where}: {len(different)} differences"
    return now


def under_change(known: Truth, keep: list[Pair], change: Callable[[], object]) -> list[str]:
    """Probe what stays allowed, over and over, from before the change begins until it is complete; what was lost."""
    lost, pause = known.losses(keep), 0.0
    with ThreadPoolExecutor(1, thread_name_prefix="administrator") as pool:
        changing = pool.submit(change)
        while not wait([changing], pause).done:
            begun = time.monotonic()
            lost += known.losses(keep)
            pause = time.monotonic() - begun  # half of the time: the agents need the processors too
        changing.result()
    return lost


def tenants(vnis: Mapping[str, Vni]) -> tuple[set[frozenset[str]], set[str]]:
    """Who is one tenant with whom, and who is global; whatever the numbers are."""
    together = {frozenset(name for name, vni in vnis.items() if vni == each) for each in vnis.values()}
    return together, {name for name, vni in vnis.items() if vni == GLOBAL_VNI}


def judge_streams(world: World, seed: int) -> None:
    """Of the steady traffic nothing is lost while it is allowed, and nothing passes while it is forbidden."""
    logs, periods = world.flow.finish(), world.admin.periods
    lost, passed, sent, tried = {}, {}, 0, 0
    for name, ends in world.streams.items():
        log: StreamLog = logs[name]
        allowed = windows(periods, *ends, allowed=True)
        forbidden = windows(periods, *ends, allowed=False)
        sent += sum(len(log.numbers(*window)) for window in allowed)
        tried += sum(len(log.numbers(*window)) for window in forbidden)
        lost[name] = [moment(world.admin, gap) for window in allowed for gap in log.gaps(*window)]
        passed[name] = sum(log.passed(*window) for window in forbidden)
    print(f"steady traffic: {sent} sent while allowed, {tried} tried while forbidden")
    assert not any(lost.values()), (
        f"lost, {SEED}={seed}: { {name: gaps for name, gaps in lost.items() if gaps} }"
    )
    assert not any(passed.values()), f"passed, {SEED}={seed}: {passed}"
    assert sent > 1000
    assert tried > 1000


def moment(admin: Administrator, gap: Gap) -> str:
    """When something was lost, seen from the changes."""
    found = f"{gap.count} in {gap.seconds:.2f} s"
    for number, change in enumerate(admin.history):
        if gap.begun < change.begun:
            return f"{found}, {(change.begun - gap.begun) / 1e9:.2f} s before change {number}"
        if gap.begun < change.done:
            return f"{found}, {(gap.begun - change.begun) / 1e9:.2f} s after change {number} began"
    return f"{found}, after the last change"
