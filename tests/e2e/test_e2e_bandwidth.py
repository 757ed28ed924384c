"""Bandwidth limits as pods meet them: real TCP and UDP, both directions, while annotations, agents and pods come and go.

What is compared is told in `fakes.bandwidth`. Never too much is asserted of every measurement. Never too little is asserted
of the best of several: on a machine whose cores are all taken, the userspace datapath is what limits 100 Mbit/s of TCP.
`bench/bandwidth.py` measures for longer, for docs/bandwidth.md.
"""

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pytest

from fakes.bandwidth import (
    EGRESS,
    INGRESS,
    Flow,
    Rates,
    Running,
    create_pods,
    held,
    measure,
    remove_shaper,
    running,
)
from fakes.labs import Lab, eventually, running_lab
from fakes.runtime import Runtime, runtime_on

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

SECONDS = 3.0
ATTEMPTS = 4
HERE, THERE = "node1", "node2"
LIMITS = (1, 10, 100)
"""Mbit/s."""
SOURCE = "default/source"
IN_FORCE = 2.0
"""Seconds after which a change has to be in force."""
WINDOW = 0.7
"""Seconds over which it is then measured."""
WAITED = 0.1
"""Seconds' worth of a flow that may arrive at once at first: a busy switch let it wait for the first packet's upcall."""


def limited(kind: str, limit: int) -> str:
    """The pod of this kind with this limit."""
    return f"default/{kind}{limit}m"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """For each limit a pod that is limited towards it, two from it (one of them without its shaper), and a receiver."""
    with running_lab(nodes=2) as lab:
        pods: dict[str, tuple[str, Mapping[str, str]]] = {SOURCE: (HERE, {}), "default/live": (HERE, {})}
        for limit in LIMITS:
            pods[limited("in", limit)] = (THERE, {INGRESS: f"{limit}M"})
            pods[limited("out", limit)] = pods[limited("bare", limit)] = (HERE, {EGRESS: f"{limit}M"})
            pods[limited("to", limit)] = (THERE, {})
        create_pods(lab, pods)
        for limit in LIMITS:
            remove_shaper(lab, limited("bare", limit))
        yield lab


@pytest.fixture(scope="module")
def runtime(lab: Lab) -> Iterator[Runtime]:
    with runtime_on(lab, HERE) as runtime:
        yield runtime


def flow(kind: str, limit: int, protocol: str) -> Flow:
    """Twice of what the limit allows, if it is UDP."""
    if kind == "in":
        return Flow(SOURCE, limited("in", limit), protocol, limit * 2e6)
    return Flow(limited(kind, limit), limited("to", limit), protocol, limit * 2e6)


def never_too_much(rates: Mapping[str, Rates], flows: Mapping[str, int]) -> None:
    for name, limit in flows.items():
        seen = rates[name]
        assert seen.frames * seen.seconds <= limit * (1.1 * seen.seconds + WAITED), (
            f"{name}: limit {limit} Mbit/s"
        )


def keeps_within_a_tenth(lab: Lab, kinds: Sequence[tuple[str, int]]) -> None:
    """TCP: what programs see is at least 90%, what passes at most 110% of the limit."""
    missing = {flow(kind, limit, "tcp"): limit for kind, limit in kinds}
    seen: dict[str, list[float]] = {each.name: [] for each in missing}
    for _ in range(ATTEMPTS):
        rates = measure(lab, list(missing), SECONDS)
        never_too_much(rates, {each.name: limit for each, limit in missing.items()})
        for each in missing:
            seen[each.name].append(round(rates[each.name].goodput, 3))
        missing = {each: limit for each, limit in missing.items() if rates[each.name].goodput < limit * 0.9}
        if not missing:
            return
    raise AssertionError(
        f"less than 90% of the limit, in Mbit/s: { {each.name: seen[each.name] for each in missing} }"
    )


# -- accuracy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [[("in", 1), ("out", 1), ("in", 10), ("out", 10)], [("in", 100)], [("out", 100)]],
    ids=["1M and 10M, both directions", "100M towards the pod", "100M from the pod"],
)
def test_tcp_gets_what_the_limit_allows(lab: Lab, kinds: list[tuple[str, int]]) -> None:
    keeps_within_a_tenth(lab, kinds)


@pytest.mark.parametrize("kind", ["in", "out", "bare"])
def test_a_flood_of_udp_never_gets_more(lab: Lab, kind: str) -> None:
    """`bare`: the pod has removed the shaper in its own namespace, as root there can."""
    flows = {flow(kind, limit, "udp"): limit for limit in LIMITS}
    rates = measure(lab, list(flows), SECONDS)
    never_too_much(rates, {each.name: limit for each, limit in flows.items()})
    for each, limit in flows.items():
        assert rates[each.name].frames >= limit * 0.3, f"{each.name}: that is no limit but an outage"
    if kind == "bare":
        shaper = lab.exec(limited("bare", 10), "tc", "qdisc", "show", "dev", "eth0").stdout
        assert "tbf" not in shaper, "and the pod is still without it"


def test_single_tenant_mode_limits_too() -> None:
    with running_lab("--mode", "subnet", nodes=1) as flat:
        create_pods(
            flat,
            {
                SOURCE: (HERE, {}),
                limited("in", 10): (HERE, {INGRESS: "10M"}),
                limited("out", 10): (HERE, {EGRESS: "10M"}),
                limited("to", 10): (HERE, {}),
            },
        )
        keeps_within_a_tenth(flat, [("in", 10), ("out", 10)])
        remove_shaper(flat, limited("out", 10))
        floods = [flow(kind, 10, "udp") for kind in ("in", "out")]
        never_too_much(measure(flat, floods, SECONDS), {each.name: 10 for each in floods})


# -- while they run --------------------------------------------------------------------------------------------------


def annotate(lab: Lab, pod: str, *pairs: str) -> int:
    """Annotate with kubectl; the instant afterwards."""
    lab.kubectl("annotate", "pod", pod, "--overwrite", *pairs)
    return Running.now()


def passed(instant: int) -> bool:
    return Running.now() >= instant


def test_a_change_is_in_force_within_two_seconds(lab: Lab) -> None:
    """Limited, more, less, and not any more; both directions at once, 20 Mbit/s offered."""
    towards = Flow(SOURCE, "default/live", "udp", 20e6)
    away = Flow("default/live", limited("to", 10), "udp", 20e6)
    steps = {"5M": (3.5, 5.5), "10M": (7.0, 11.0), "1M": (0.7, 1.1), "": (12.0, 23.0)}
    best = {(each.name, limit): 0.0 for each in (towards, away) for limit in steps}
    for _ in range(ATTEMPTS):
        instants = {}
        with running(lab, [towards, away]) as both:
            for limit in steps:
                ending = f"={limit}" if limit else "-"
                instants[limit] = annotate(lab, "live", INGRESS + ending, EGRESS + ending)
                end = instants[limit] + int((IN_FORCE + WINDOW) * 1e9)
                eventually(partial(passed, end), "the time to measure")
            both.end()
            rates = both.rates()
        for (name, limit), before in best.items():
            begin = instants[limit] + int(IN_FORCE * 1e9)
            rate = rates[name].between(begin, begin + int(WINDOW * 1e9))
            assert rate <= steps[limit][1], f"{name}: limit {limit or 'removed'}: {rate:.2f} Mbit/s"
            best[name, limit] = max(before, rate)
        if all(rate >= steps[limit][0] for (_, limit), rate in best.items()):
            return
    raise AssertionError(f"too little in force, in Mbit/s: {best}")
    assert "tbf" not in lab.exec("default/live", "tc", "qdisc", "show", "dev", "eth0").stdout


def test_the_end_of_an_agent_frees_nobody(lab: Lab) -> None:
    """Nor does its restart touch what is in force; afterwards changes are carried out again."""
    before, pid = held(lab, HERE), lab.pid(f"{HERE}/agent")
    flood = flow("bare", 10, "udp")
    with running(lab, [flood]) as these:
        os.kill(pid, signal.SIGKILL)
        annotate(lab, "bare1m", f"{EGRESS}=2M")
        eventually(lambda: 2_040 in held(lab, HERE).meters.values(), "the new agent to change a limit")
        these.end()
        never_too_much(these.rates(), {flood.name: 10})
    annotate(lab, "bare1m", f"{EGRESS}=1M")
    eventually(lambda: held(lab, HERE) == before, "the former state, row for row")


# -- what cannot be obeyed -------------------------------------------------------------------------------------------


def events(lab: Lab, pod: str) -> str:
    """What `kubectl describe` would say of a pod."""
    return lab.kubectl("get", "events", "--field-selector", f"involvedObject.name={pod}")


def told(lab: Lab, pod: str, reason: str) -> bool:
    return reason in events(lab, pod)


def test_pods_with_bad_limits_do_not_start(lab: Lab) -> None:
    bad = {"bad-text": "fast", "bad-nothing": "0", "bad-little": "999", "bad-much": "2P"}
    before = held(lab, HERE)
    create_pods(
        lab,
        {f"default/{name}": (HERE, {INGRESS: text, EGRESS: "1M"}) for name, text in bad.items()},
        wait=False,
    )
    try:
        for name, text in bad.items():
            eventually(partial(told, lab, name, "FailedCreatePodSandBox"), "kubelet's event")
            eventually(partial(told, lab, name, "InvalidBandwidth"), "the agent's event")
            said = events(lab, name)
            quoted = "'fast' is no quantity" if text == "fast" else f"{text} is not between 1k and 1P"
            assert f"(code 105): pod default/{name}: annotation {INGRESS}: {quoted}" in said
            assert lab.pod_ip("default", name) == ""
        assert held(lab, HERE) == before
        annotate(lab, "bad-text", f"{INGRESS}=1M")
        lab.kubectl("wait", "--for=condition=Ready", "pod/bad-text", "--timeout=30s")
    finally:
        lab.delete_pods("default", *bad)


def test_a_bad_change_leaves_the_former_limit(lab: Lab) -> None:
    before = held(lab, THERE)
    try:
        annotate(lab, "in1m", f"{INGRESS}=999", f"{EGRESS}=5M")
        eventually(lambda: "the limits that the pod has stay" in events(lab, "in1m"), "the event")
        assert f"annotation {INGRESS}: 999 is not between 1k and 1P" in events(lab, "in1m")
        assert held(lab, THERE) == before
    finally:
        annotate(lab, "in1m", f"{INGRESS}=1M", f"{EGRESS}-")


# -- the container runtime's word ------------------------------------------------------------------------------------

RUNTIME_CONFIG = {
    "bandwidth": {
        "ingressRate": 3_000_000,
        "ingressBurst": 2**31 - 1,
        "egressRate": 4_000_000,
        "egressBurst": 2**31 - 1,
    }
}
"""As containerd sends it."""


async def test_the_runtime_may_say_the_limits_but_annotations_win(lab: Lab, runtime: Runtime) -> None:
    before = held(lab, HERE)
    queues, meters = before.rates()
    told, overruled, refused = (runtime.sandbox() for _ in range(3))
    status, answer = await runtime.call("ADD", told, runtimeConfig=RUNTIME_CONFIG)
    assert status == 0, answer
    assert held(lab, HERE).rates() == (sorted([*queues, 3_000_000]), sorted([*meters, 4_080]))

    name = f"default/p{overruled[:8]}"
    create_pods(lab, {name: ("nowhere", {INGRESS: "6M"})}, wait=False)
    try:
        status, answer = await runtime.call("ADD", overruled, runtimeConfig=RUNTIME_CONFIG)
        assert status == 0, answer
        assert held(lab, HERE).rates() == (sorted([*queues, 3_000_000, 6_000_000]), sorted([*meters, 4_080]))
    finally:
        lab.kubectl("delete", "pod", name.partition("/")[2], "--grace-period=0", "--force", "--wait=false")

    bad = await runtime.ask("ADD", refused, runtimeConfig={"bandwidth": {"egressRate": 999}})
    assert bad.code == 7
    assert "999 is not between 1k and 1P" in bad.text
    for sandbox in (told, overruled):
        await runtime.insist("DEL", sandbox)
    assert held(lab, HERE) == before


# -- the end ---------------------------------------------------------------------------------------------------------


def test_nothing_of_limits_is_left_when_the_pods_are_gone(lab: Lab) -> None:
    """Last, because it deletes what the others use."""
    names = json.loads(lab.kubectl("get", "pods", "-o", "json"))["items"]
    assert held(lab, THERE).queues
    assert held(lab, HERE).meters
    lab.delete_pods("default", *(pod["metadata"]["name"] for pod in names))
    for node in (HERE, THERE):
        rest = held(lab, node)
        assert (rest.qos, rest.queues, rest.meters) == (frozenset(), {}, {})
