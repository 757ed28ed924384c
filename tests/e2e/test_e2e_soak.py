"""Random changes and random kills, and then everything is as it should be: records, switches, kernels, packets.

A run prints its seed; K8S_OVS_TEST_SEED=… draws the same again. K8S_OVS_SOAK_MINUTES=… is for `make soak`; without it there is
one short chapter. See docs/testing.md.
"""

import os
import random

import pytest

from fakes.labs import running_lab
from fakes.soaking import soaking, until

MINUTES = float(os.environ.get("K8S_OVS_SOAK_MINUTES", "0"))
SEED = "K8S_OVS_TEST_SEED"

pytestmark = [
    pytest.mark.lab,
    pytest.mark.root,
    pytest.mark.ovs,
    pytest.mark.etcd,
    pytest.mark.timeout(300 + MINUTES * 90),
]


def test_after_random_changes_and_kills_everything_is_as_it_should_be() -> None:
    seed = int(os.environ.get(SEED) or random.randrange(1 << 30))
    print(f"{SEED}={seed}", flush=True)
    with (
        running_lab(nodes=3 if MINUTES else 2) as lab,
        soaking(lab, seed, hosts=("lb",) if MINUTES else ()) as soak,
    ):
        if not MINUTES:
            soak.chapter(12)
        time_is_left = until(MINUTES * 60)
        while time_is_left():
            soak.chapter(40)
        slowest = max(soak.reckonings)
        print(f"{len(soak.reckonings)} reckonings, the slowest took {slowest:.1f} s; {dict(soak.done)}")
        assert sum(soak.done.values()) >= 12
