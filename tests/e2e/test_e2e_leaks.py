"""Pods that come and go leave nothing in agent, switch and kernel. `bench/leaks.py` does the same ten thousand times."""

import os

import pytest

from fakes.leaks import mill

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(3600)]

PAIRS = int(os.environ.get("K8S_OVS_TEST_PAIRS", "40"))
"""How many come and go; `bench/leaks.py` does 10,000."""
AT_ONCE = 8


async def test_pods_that_are_gone_leave_nothing() -> None:
    async with mill(AT_ONCE) as one:
        begun = await one.footprint()
        await one.turn(2 * AT_ONCE)
        first = await one.forgotten(begun.connections)
        await one.turn(PAIRS)
        # Threads and connections to the API server are kept for a while for as many as there were at once.
        most = begun.fds + AT_ONCE
        last = await one.settled(first, most)
        assert last.steady == first.steady
        assert last.fds <= most
        assert last.threads <= begun.threads + 2 * AT_ONCE
        assert last.agent_kb < first.agent_kb + 5_000
