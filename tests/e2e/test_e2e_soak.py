"""Random changes and random kills, and then everything is as it should be: records, switches, kernels, packets.

A run prints its seed; K8S_OVS_TEST_SEED=… draws the same again. K8S_OVS_SOAK_MINUTES=… is for `make soak`; without it there is
one short chapter. See docs/testing.md.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fakes import reality_records
from fakes.labs import running_lab
from fakes.reality import differences, settled
from fakes.reality_known import read, run
from fakes.soaking import Soak, soaking, until

MINUTES = float(os.environ.get("K8S_OVS_SOAK_MINUTES", "0"))
SEED = "K8S_OVS_TEST_SEED"
SHORT, LONG = 12, 40
"""Actions in a chapter."""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.root,
    pytest.mark.ovs,
    pytest.mark.etcd,
    pytest.mark.timeout(300 + MINUTES * 90),
]


@pytest.fixture(scope="module")
def soak() -> Iterator[Soak]:
    seed = int(os.environ.get(SEED) or random.randrange(1 << 30))
    print(f"{SEED}={seed}", flush=True)
    nodes, hosts = (3, ("lb",)) if MINUTES else (2, ())
    with running_lab(nodes=nodes) as lab, soaking(lab, seed, hosts=hosts) as soak:
        yield soak


def test_after_random_changes_and_kills_everything_is_as_it_should_be(soak: Soak) -> None:
    soak.chapter(SHORT)
    time_is_left = until(MINUTES * 60)
    while time_is_left():
        soak.chapter(LONG)
    soak.end()
    slowest = max(soak.reckonings)
    print(f"{len(soak.reckonings)} reckonings, the slowest took {slowest:.1f} s; {dict(soak.done)}")
    assert sum(soak.done.values()) >= SHORT


def test_the_comparison_sees_what_is_wrong(soak: Soak) -> None:
    """Each kind of difference once, while no agent is there to repair it; and none is left when one is."""
    harm = soak.world.harm
    node = harm.cluster.node("node1")
    inside, bridge = ("nsenter", f"--net={node.netns}"), f"unix:{node.ovs_rundir}/br0.mgmt"
    ofctl = ("ovs-ofctl", "-O", "OpenFlow15")
    wrongs = {
        "delete_strict table=3": (*ofctl, "add-flow", bridge, "table=3,priority=5,actions=drop"),
        "lacks: group add_or_mod": (*ofctl, "del-groups", bridge),
        "meters [77]": (*ofctl, "add-meter", bridge, "meter=77,kbps,band=type=drop,rate=1000"),
        "tun0: addresses": (*inside, "ip", "addr", "add", "192.0.2.9/32", "dev", "tun0"),
        "chain K8S-OVS-POSTROUTING": (*inside, "iptables", "-t", "nat", "-F", "K8S-OVS-POSTROUTING"),
        "interfaces: stray, veth0 too many": (*inside, "ip", "link", "add", "stray", "type", "veth"),
    }
    harm.stop(600, "node1/agent")
    for command in wrongs.values():
        run(*command)
    soak.world.records.put("stray", {})
    found = differences(harm.lab.name, soak.world.model.expected())
    for text in (*wrongs, "keys in etcd: /k8s.ovs.com/ovs/network/k8ssdn/stray"):
        assert any(text in difference for difference in found), f"{text}: not in {found}"
    soak.world.records.delete("stray")
    run(*inside, "ip", "link", "delete", "stray")
    harm.end_outages(all_of_them=True)
    assert settled(harm.lab.name, soak.world.model.expected(), seconds=60) == []


def test_the_comparison_sees_addresses_that_are_double_or_leaked(soak: Soak) -> None:
    known = read(soak.world.harm.lab.name)
    lease = known.leases["node1"][0]
    assert list(reality_records.differences(known)) == []
    doubled = replace(known, leases={**known.leases, "node2": (*known.leases["node2"], lease)})
    assert any(text.startswith(f"double: {lease.address}") for text in reality_records.differences(doubled))
    pods = {key: pod for key, pod in known.pods.items() if key != (lease.namespace, lease.pod)}
    orphaned = list(reality_records.differences(replace(known, pods=pods)))
    assert any(text.startswith(f"leaked: {lease.address} on node1") for text in orphaned)
