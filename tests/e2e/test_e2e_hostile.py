"""A pod with CAP_NET_ADMIN does what it likes in its own network; nothing of it gets through, and the drop has a name.

Every attack is followed by an honest packet on the same way: when that one has arrived and the forged one has not,
the forged one will not come.
"""

import json
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from fakes.labs import PYTHON, Lab, eventually

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

ATTACKS = str(Path(__file__).with_name("attacks.py"))
PORT = "9999"
PODS = {
    ("hred", "evil"): "node1",
    ("hred", "near"): "node1",
    ("hred", "far"): "node2",
    ("hblue", "near"): "node1",
    ("hblue", "far"): "node2",
    ("kube-system", "honest"): "node3",
}


@dataclass(frozen=True)
class Town:
    """The pods of these tests and what they do."""

    lab: Lab
    ip: dict[str, str]

    def attack(self, place: str, *words: str) -> None:
        self.lab.exec(place, PYTHON, ATTACKS, *words)

    def mac(self, pod: str) -> str:
        octets = (int(part) for part in self.ip[pod].split("."))
        return "0a:58:" + ":".join(f"{octet:02x}" for octet in octets)

    @contextmanager
    def nothing_forged_reaches(self, pod: str) -> Iterator[None]:
        """Inside, attacks on `pod` happen; at the end only the honest pod's packet has arrived."""
        command = self.lab.inside(pod, PYTHON, ATTACKS, "listen", PORT)
        with subprocess.Popen(
            command, env=self.lab.environment, stdout=subprocess.PIPE, text=True
        ) as listener:
            try:
                assert listener.stdout is not None
                assert listener.stdout.readline() == "ready\n"
                yield
                self._speak_until_heard(pod, listener.stdout)
                assert listener.stdout.readline() == "honest\n"
            finally:
                listener.kill()

    def _speak_until_heard(self, pod: str, heard: IO[str]) -> None:
        """The userspace datapath drops the first packet to a host whose underlay MAC it does not know yet."""
        for _ in range(20):
            self.attack(
                "kube-system/honest", "udp", self.ip["kube-system/honest"], self.ip[pod], PORT, "honest"
            )
            if select.select([heard], [], [], 1.0)[0]:
                return
        raise AssertionError(f"no honest packet reaches {pod}")

    @contextmanager
    def dropped(self, node: str, reason: str) -> Iterator[None]:
        """Inside, the named counter of the node grows."""
        before = self.lab.drops(node)[reason]
        yield
        eventually(lambda: self.lab.drops(node)[reason] > before, f"{reason} of {node} counts", seconds=20)


@pytest.fixture(scope="module")
def town(lab: Lab) -> Iterator[Town]:
    lab.create_pods(PODS)
    try:
        yield Town(lab, {f"{ns}/{name}": lab.pod_ip(ns, name) for ns, name in PODS})
    finally:
        lab.delete_namespaces("hred", "hblue")
        lab.kubectl("delete", "pod", "-n", "kube-system", "honest", "--wait=true")


@pytest.mark.parametrize("victim", ["hred/near", "hred/far", "hblue/near", "hblue/far"])
@pytest.mark.parametrize("claimed", ["kube-system/honest", "hred/near", "free"])
def test_another_source_address(town: Town, victim: str, claimed: str) -> None:
    source = town.ip.get(claimed) or town.ip["hred/evil"].rpartition(".")[0] + ".250"
    with town.dropped("node1", "pod-spoofed-ip"), town.nothing_forged_reaches(victim):
        town.attack("hred/evil", "udp", source, town.ip[victim], PORT, "forged")


def test_another_mac_address(town: Town) -> None:
    evil, near = "hred/evil", "hred/near"
    frame = ("frame", "0a:58:0a:0a:0a:0a", town.ip[evil], town.mac(near), town.ip[near], PORT, "forged")
    with town.dropped("node1", "pod-spoofed-ip"), town.nothing_forged_reaches(near):
        town.attack(evil, *frame)


def test_a_pod_that_really_changes_its_address_and_mac(town: Town) -> None:
    evil, near = "hred/evil", "hred/near"
    free = town.ip[evil].rpartition(".")[0] + ".251"
    with town.dropped("node1", "pod-spoofed-ip"), town.nothing_forged_reaches(near):
        town.lab.exec(evil, "ip", "addr", "add", f"{free}/22", "dev", "eth0")
        town.lab.exec(evil, "ip", "link", "set", "eth0", "address", town.mac(near))
        try:
            town.attack(evil, "udp", free, town.ip[near], PORT, "forged")
            town.attack(evil, "frame", town.mac(near), free, town.mac(near), town.ip[near], PORT, "forged")
        finally:
            town.lab.exec(evil, "ip", "link", "set", "eth0", "address", town.mac(evil))
            town.lab.exec(evil, "ip", "addr", "del", f"{free}/22", "dev", "eth0")


@pytest.mark.parametrize("claimed", ["203.0.113.9", "own"])
def test_the_host_does_not_route_past_the_bridge(town: Town, claimed: str) -> None:
    """The userspace datapath leaves the kernel a copy of each packet: addressed to the veth's own MAC, it must die."""
    evil = "hred/evil"
    source = town.ip[evil] if claimed == "own" else claimed
    links = json.loads(town.lab.exec("node1", "ip", "-j", "link").stdout)
    veths = [link["address"] for link in links if link["ifname"].startswith("kovs")]
    assert len(veths) == 3
    for victim in ("hblue/near", "hblue/far"):
        with town.nothing_forged_reaches(victim):
            for veth in veths:
                town.attack(evil, "frame", town.mac(evil), source, veth, town.ip[victim], PORT, "forged")


def test_arp_for_a_neighbour(town: Town) -> None:
    evil, near = "hred/evil", "hred/near"
    honest = town.ip["kube-system/honest"]
    with town.dropped("node1", "pod-spoofed-arp"):
        town.attack(evil, "arp", town.mac(evil), honest, town.mac(near), town.ip[near])
        town.attack(evil, "arp", town.mac(evil), town.ip["hblue/near"], town.mac(near), town.ip[near])
    neighbours = town.lab.exec(near, "ip", "neigh").stdout
    assert town.mac(evil) not in neighbours.replace(f"{town.ip[evil]} dev eth0 lladdr {town.mac(evil)}", "")


@pytest.mark.parametrize("key", ["zero", "foreign", "own"])
def test_vxlan_by_hand(town: Town, key: str) -> None:
    evil, victim = "hred/evil", "hblue/far"
    record = town.lab.etcdctl(
        "get", "--print-value-only", "--prefix", "/k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/h"
    )
    vni = {"zero": "0", "foreign": _net_id(record, "hblue"), "own": _net_id(record, "hred")}[key]
    node2 = town.lab.address("node2")
    with town.dropped("node1", "pod-vxlan"), town.nothing_forged_reaches(victim):
        for source in (town.ip["hblue/near"], town.ip[evil], "203.0.113.9"):
            town.attack(evil, "vxlan", node2, vni, source, town.ip[victim], PORT, "forged")


def test_vxlan_from_a_machine_that_is_no_host_of_the_cluster(town: Town) -> None:
    victim = "hblue/far"
    with town.dropped("node2", "tunnel-unknown-host"), town.nothing_forged_reaches(victim):
        node2 = town.lab.address("node2")
        town.attack("outside", "vxlan", node2, "0", "203.0.113.9", town.ip[victim], PORT, "forged")


def _net_id(records: str, name: str) -> str:
    line = next(line for line in records.splitlines() if f'"NetName":"{name}"' in line)
    return line.partition('"NetID":')[2].partition(",")[0]
