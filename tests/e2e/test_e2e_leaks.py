"""Pods that come and go leave nothing in agent, switch and kernel. `bench/leaks.py` does the same ten thousand times."""

import os
from dataclasses import replace

import pytest

from fakes.leaks import mill

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(3600)]

PAIRS = int(os.environ.get("K8S_OVS_TEST_PAIRS", "40"))
"""`make soak` does 3000."""


async def test_pods_that_are_gone_leave_nothing() -> None:
    async with mill(8) as one:
        await one.turn(max(PAIRS // 3, 16))  # threads and descriptors that are kept for the next time
        connections = 1
        first = await one.forgotten(connections)
        await one.turn(PAIRS)
        last = await one.forgotten(connections)
        same = replace(last, agent_kb=first.agent_kb, switch_kb=first.switch_kb)
        assert same == replace(first, threads=same.threads)
        assert last.threads <= first.threads + 2
        assert last.agent_kb < first.agent_kb + 5_000
