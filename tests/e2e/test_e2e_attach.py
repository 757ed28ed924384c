"""Many pods at once, and an agent killed at random moments: nothing double, nothing leaked.

The executable is called as a container runtime calls it, beside the lab's own kubelet, on a node of its own lab.
"""

import asyncio
import os
import random
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from fakes.labs import Lab, eventually, running_lab
from fakes.runtime import Runtime, address, runtime_on

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(400)]

NODE = "node1"
ROUNDS = int(os.environ.get("K8S_OVS_TEST_KILLS", "9"))
"""`make soak` does 50."""


@dataclass(frozen=True)
class Footprint:
    """Everything on a node that pods may leave behind."""

    interfaces: frozenset[str]
    links: frozenset[str]
    flows: frozenset[str]


def footprint(lab: Lab) -> Footprint:
    rows = lab.exec(NODE, "ovs-vsctl", "--bare", "--columns=name,external_ids", "list", "Interface").stdout
    links = [
        line.split(": ")[1].split("@")[0] for line in lab.exec(NODE, "ip", "-o", "link").stdout.splitlines()
    ]
    flows = lab.exec(NODE, "ovs-ofctl", "-O", "OpenFlow15", "--no-stats", "dump-flows", "br0").stdout
    return Footprint(frozenset(rows.split()), frozenset(links), frozenset(map(str.strip, flows.splitlines())))


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with running_lab(nodes=1) as lab, runtime_on(lab, NODE) as one:
        yield one


async def test_200_adds_20_at_a_time_and_as_many_deletes(runtime: Runtime) -> None:
    before = footprint(runtime.lab)
    sandboxes = [runtime.sandbox() for _ in range(200)]
    gate = asyncio.Semaphore(20)

    async def call(command: str, sandbox: str) -> dict[str, Any]:
        async with gate:
            status, answer = await runtime.call(command, sandbox)
            assert status == 0, answer
            return answer

    results = await asyncio.gather(*(call("ADD", sandbox) for sandbox in sandboxes))
    addresses = [address(result) for result in results]
    assert len(set(addresses)) == 200
    assert len(footprint(runtime.lab).interfaces) > len(before.interfaces)

    again = await asyncio.gather(*(call("ADD", sandbox) for sandbox in sandboxes[:5]))
    assert [address(result) for result in again] == addresses[:5], "the same sandbox gets the same answer"
    assert again == results[:5]

    await asyncio.gather(*(call("DEL", sandbox) for sandbox in sandboxes))
    eventually(lambda: footprint(runtime.lab) == before, "bridge, OVSDB and links are as before")
    fresh = runtime.sandbox()
    assert address(await call("ADD", fresh)) not in addresses, "the just-freed ones are not first in turn"
    await call("DEL", fresh)
    for sandbox in [*sandboxes, fresh]:
        runtime.remove(sandbox)


async def test_deleting_what_is_not_there_succeeds(runtime: Runtime) -> None:
    status, answer = await runtime.call("DEL", "nobody-knows-me")
    assert status == 0, answer

    sandbox = runtime.sandbox()
    await runtime.insist("ADD", sandbox)
    runtime.remove(sandbox)
    status, answer = await runtime.call("DEL", sandbox)
    assert status == 0, answer
    status, answer = await runtime.call("DEL", sandbox)
    assert status == 0, answer


async def test_check_sees_what_is_wrong(runtime: Runtime) -> None:
    sandbox = runtime.sandbox()
    result = await runtime.insist("ADD", sandbox)
    status, answer = await runtime.call("CHECK", sandbox, prevResult=result)
    assert status == 0, answer
    runtime.flush(sandbox)
    status, answer = await runtime.call("CHECK", sandbox, prevResult=result)
    assert status == 1
    assert address(result).split("/")[0] in answer["msg"] + answer.get("details", "")
    await runtime.insist("DEL", sandbox)
    runtime.remove(sandbox)


async def test_garbage_collection_keeps_what_is_valid(runtime: Runtime) -> None:
    before = footprint(runtime.lab)
    keep, lose = runtime.sandbox(), runtime.sandbox()
    kept = await runtime.insist("ADD", keep)
    await runtime.insist("ADD", lose)
    valid = [{"containerID": keep, "ifname": "eth0"}]
    status, answer = await runtime.call("GC", "", **{"cni.dev/valid-attachments": valid})
    assert status == 0, answer
    assert await runtime.insist("ADD", keep) == kept
    await runtime.insist("DEL", keep)
    eventually(lambda: footprint(runtime.lab) == before, "what GC removed is gone")
    for sandbox in (keep, lose):
        runtime.remove(sandbox)


async def test_an_agent_killed_in_the_middle_of_adds(runtime: Runtime) -> None:
    """kill -9 at random moments; each time kubelet's repeats get every pod its one address."""
    before = footprint(runtime.lab)
    seed = int(os.environ.get("K8S_OVS_TEST_SEED", "0")) or secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    held: dict[str, str] = {}
    for _ in range(ROUNDS):
        pid = runtime.lab.pids().get(f"{NODE}/agent")
        fresh = [runtime.sandbox() for _ in range(4)]
        gone = rng.sample(sorted(held), k=min(len(held), rng.randrange(4)))
        calls = [asyncio.create_task(runtime.insist("ADD", sandbox)) for sandbox in fresh]
        calls += [asyncio.create_task(runtime.insist("DEL", sandbox)) for sandbox in gone]
        await asyncio.sleep(rng.random() * 0.15)  # the random moment is what this test is about
        if pid:
            with suppress(ProcessLookupError):  # the one before has only just been started again
                os.kill(pid, signal.SIGKILL)
        results = await asyncio.gather(*calls)
        for sandbox in gone:
            del held[sandbox]
            runtime.remove(sandbox)
        held |= {sandbox: address(result) for sandbox, result in zip(fresh, results, strict=False)}
        assert len(set(held.values())) == len(held), f"an address twice (seed {seed})"
    repeated = {sandbox: address(await runtime.insist("ADD", sandbox)) for sandbox in held}
    assert repeated == held
    for sandbox in list(held):
        await runtime.insist("DEL", sandbox)
        runtime.remove(sandbox)
    eventually(lambda: footprint(runtime.lab) == before, f"nothing is left (seed {seed})")
