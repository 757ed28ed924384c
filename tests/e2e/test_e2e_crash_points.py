"""Daemons killed just before and just after each effect of ADD, DEL, a change of a tenant or of limits, a synchronisation.

A selection of the points here, all of them in `make soak` (K8S_OVS_TEST_POINTS=0). The points are found by recording, so a
new effect has its points by itself. See docs/testing.md.
"""

import os
import random
import secrets
from collections import Counter
from pathlib import Path

import pytest

from fakes.crash_operations import operations
from fakes.crash_stage import Stream
from fakes.crashing import Crash, Operation, World, crash, crash_world, record

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(5400)]

POINTS = int(os.environ.get("K8S_OVS_TEST_POINTS", "9"))
"""How many, of all operations alike; 0 is all. Nine, one of each, take about 30 seconds."""
Points = list[tuple[Operation, str]]


async def test_state_is_right_after_a_crash_at_any_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("K8S_OVS_TEST_SEED", "0")) or secrets.randbits(32)
    rng = random.Random(seed)
    async with crash_world(tmp_path) as (world, streams):
        points = [(each, name) for each in operations() for name in await record(world, each)]
        chosen = selection(points, rng)
        with capsys.disabled():
            show(points, chosen, seed)
        crashes = [await attempt(world, *each) for each in chosen]
    for each in crashes:
        assert not each.faults, f"{each.operation}, {each.point} (seed {seed}): {each.faults}"
    fired = sum(each.fired for each in crashes)
    with capsys.disabled():
        print(f"{fired} crashes, nothing wrong afterwards; {streams_told(streams)}")
    assert fired >= 0.75 * len(chosen), [str(each.point) for each in crashes if not each.fired]
    assert [len(stream.lost) for stream in streams] == [0 for _ in streams], f"lost (seed {seed})"


async def attempt(world: World, operation: Operation, point: str) -> Crash:
    """Some points depend on how commits fall together, and are not passed each time: once more, then."""
    done = await crash(world, operation, point)
    return done if done.fired or done.faults else await crash(world, operation, point)


def selection(points: Points, rng: random.Random) -> Points:
    """As many as are wanted, of all operations alike, in the order of the operations."""
    if not POINTS:
        return points
    by_name: dict[str, Points] = {}
    for each in points:
        by_name.setdefault(each[0].name, []).append(each)
    drawn: Points = []
    while len(drawn) < min(POINTS, len(points)):
        for mine in by_name.values():
            if mine and len(drawn) < POINTS:
                drawn.append(mine.pop(rng.randrange(len(mine))))
    return [each for each in points if each in drawn]


def show(points: Points, chosen: Points, seed: int) -> None:
    counts = Counter(operation.name for operation, _ in points)
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"\n{len(points)} points ({told}); crashed at {len(chosen)} of them, seed {seed}:")
    for operation, name in chosen:
        print(f"  {operation.name:16} {name}")


def streams_told(streams: list[Stream]) -> str:
    return f"{sum(len(each.lost) for each in streams)} of {sum(len(each.sent) for each in streams)} datagrams lost"
