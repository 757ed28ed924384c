"""Nodes move, leave and return, people edit host subnets by hand, the pool runs out: nobody else notices.

node2 is the one that things happen to. UDP probes every 2 ms and a TCP connection between the pods of the other nodes, and
on each of them, lose nothing; what happens to the pods of node2 is what docs/nodes.md promises.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from fakes.labs import Lab, eventually, running_lab
from fakes.traffic import Probe, Traffic, traffic
from fakes.traffic_log import StreamLog

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd]

SUBNETS = "/k8s.ovs.com/ovs/network/k8ssdn/subnets"
PODS = {
    ("life", "a1"): "node1",
    ("life", "a2"): "node1",
    ("life", "b1"): "node2",
    ("life", "b2"): "node2",
    ("life", "c1"): "node3",
    ("life", "c2"): "node3",
}


def pairs(names: Sequence[tuple[str, str]]) -> list[Probe]:
    return [Probe(f"life/{a}", f"life/{b}") for a, b in names]


OTHERS = [
    *pairs([("a1", "a2"), ("a2", "c2"), ("c2", "a2"), ("c1", "c2")]),
    Probe("life/a1", "life/c1", tcp=True, echo=True),
]
"""What must never lose anything."""
WITHIN = pairs([("b1", "b2"), ("b2", "b1")])
"""On the node that things happen to."""
ACROSS = pairs([("b1", "a1"), ("a1", "b1"), ("c1", "b2")])
"""Between it and others."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Four host subnets for three nodes."""
    with running_lab("--pod-cidr", "10.213.0.0/22", "--host-bits", "8") as lab:
        lab.create_pods(PODS)
        yield lab


@dataclass
class Seen:
    """What the streams have lost; there after the block."""

    flow: Traffic
    begun: int
    logs: dict[str, StreamLog] = field(default_factory=dict)

    def lost(self, probes: Sequence[Probe]) -> dict[str, int]:
        """Those of the streams that have lost probes, with how many."""
        counts = {probe.name: self.logs[probe.name].lost(self.begun) for probe in probes}
        return {name: count for name, count in counts.items() if count}

    def sent(self, probes: Sequence[Probe]) -> int:
        """How many probes the streams have sent."""
        return sum(len(self.logs[probe.name].numbers(self.begun)) for probe in probes)

    def gap(self, probes: Sequence[Probe]) -> float:
        """The longest time in seconds that one of the streams was interrupted for."""
        return max((g.seconds for p in probes for g in self.logs[p.name].gaps(self.begun)), default=0.0)

    def flows_again(self, probes: Sequence[Probe]) -> None:
        """Wait until probes of every one of these streams arrive (again)."""
        before = self.flow.progress()
        eventually(
            lambda: all(self.flow.progress()[p.name] > before[p.name] + 20 for p in probes),
            f"{[p.name for p in probes]} to flow again",
        )


@contextmanager
def undisturbed(lab: Lab) -> Iterator[Seen]:
    """Traffic everywhere inside; afterwards none of the others' may have lost anything."""
    with traffic(lab, [*OTHERS, *WITHIN, *ACROSS]) as flow:
        flow.start()
        seen = Seen(flow, flow.now())
        yield seen
        seen.logs = flow.finish()
    print(f"others: {seen.lost(OTHERS)} lost of {seen.sent(OTHERS)}")
    print(f"longest gap on node2 {seen.gap(WITHIN):.3f} s, to and from it {seen.gap(ACROSS):.3f} s")
    assert seen.lost(OTHERS) == {}
    stream = seen.logs[OTHERS[-1].name]
    assert (stream.failures, len(stream.connects)) == ([], 1)
    assert min(len(seen.logs[probe.name].numbers(seen.begun)) for probe in OTHERS) > 0


def ip_of(lab: Lab, node: str) -> str:
    shown = lab.kubectl("get", "node", node, "-o", "jsonpath={.status.addresses[0].address}")
    return str(IPv4Address(shown))


def record(lab: Lab, address: str) -> dict[str, Any] | None:
    text = lab.etcdctl("get", "--print-value-only", f"{SUBNETS}/{address}")
    found: dict[str, Any] | None = json.loads(text) if text.strip() else None
    return found


def put(lab: Lab, address: str, **changes: object) -> dict[str, Any]:
    """Write a host subnet as people do."""
    value = {
        "Host": "",
        "HostIP": address,
        "Subnet": "",
        "Assign": False,
        **(record(lab, address) or {}),
        **changes,
    }
    lab.etcdctl("put", f"{SUBNETS}/{address}", json.dumps(value))
    return value


def ready(lab: Lab, node: str) -> bool:
    return lab.get(node, "/readyz")[0] == 200


def new_pods(lab: Lab) -> None:
    """Delete node2's pods and make them again."""
    lab.delete_pods("life", "b1", "b2")
    lab.create_pods({pod: node for pod, node in PODS.items() if node == "node2"})


def subnet_of(lab: Lab, node: str) -> IPv4Network:
    found = record(lab, ip_of(lab, node))
    assert found is not None
    return IPv4Network(found["Subnet"])


# -- a node moves, leaves, returns -----------------------------------------------------------------------------------


def move(lab: Lab, node: str, new: IPv4Address) -> None:
    """Give the node another address on the underlay, as its administrator would."""
    old = IPv4Address(ip_of(lab, node))
    shown = json.loads(lab.exec(node, "ip", "-j", "addr", "show", "dev", "br-phy").stdout)
    length = shown[0]["addr_info"][0]["prefixlen"]
    router = json.loads(lab.exec(node, "ip", "-j", "route", "show", "default").stdout)[0]["gateway"]
    steps = f"addr add {new}/{length} dev br-phy\naddr del {old}/{length} dev br-phy\nroute replace default via {router}"
    lab.exec(node, "sysctl", "-q", "net.ipv4.conf.br-phy.promote_secondaries=1")
    lab.exec(node, "sh", "-c", f"printf '{steps}\\n' | ip -batch -")
    # Only now may others hear of it: a switch on the userspace datapath that asks for a MAC address in vain does not ask
    # again while packets go on (OVS, ofproto-dpif-xlate.c: the flow that drops them stays).
    (lab.directory(node) / "address").write_text(str(IPv4Interface((new, length))))
    eventually(lambda: ip_of(lab, node) == str(new), "the Node to tell its new address")


def test_a_node_that_changes_its_address_keeps_its_subnet_and_its_pods(lab: Lab) -> None:
    old, subnet = IPv4Address(ip_of(lab, "node2")), subnet_of(lab, "node2")
    for here, there in ((old, old + 40), (old + 40, old)):
        with undisturbed(lab) as seen:
            move(lab, "node2", there)
            eventually(lambda here=here: record(lab, str(here)) is None, "the old record to go")
            assert subnet_of(lab, "node2") == subnet
            seen.flows_again(ACROSS)
        assert seen.lost(WITHIN) == {}
        assert seen.gap(ACROSS) < 10
        eventually(lambda: ready(lab, "node2"), "node2 to be ready at its new address")


def test_a_node_that_leaves_and_returns_keeps_its_pods(lab: Lab) -> None:
    """Its cable is out and its Node is deleted; then both are back. Its subnet has not been given away."""
    address, subnet = ip_of(lab, "node2"), subnet_of(lab, "node2")
    kept = json.loads(lab.kubectl("get", "node", "node2", "-o", "json"))
    for name in ("uid", "resourceVersion", "creationTimestamp"):
        del kept["metadata"][name]
    with undisturbed(lab) as seen:
        lab.exec("node2", "ip", "link", "set", "eth0", "down")
        lab.kubectl("delete", "node", "node2")
        eventually(lambda: record(lab, address) is None, "the record to go with the Node")
        eventually(lambda: not knows(lab, "node1", address), "node1 to forget node2")
        lab.exec("node2", "ip", "link", "set", "eth0", "up")
        lab.kubectl("create", "-f", "-", stdin=json.dumps(kept))
        eventually(lambda: record(lab, address) is not None, "a record for the Node")
        assert subnet_of(lab, "node2") == subnet
        seen.flows_again(ACROSS)
    assert seen.lost(WITHIN) == {}
    eventually(lambda: ready(lab, "node2"), "node2 to be ready")


def knows(lab: Lab, node: str, address: str) -> bool:
    """Whether the node has flows for this host."""
    dump = lab.exec(
        node, "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br0", f"ip,tun_src={address}"
    ).stdout
    return "tun_src" in dump


# -- records edited by hand ------------------------------------------------------------------------------------------


def test_a_record_deleted_by_hand_comes_back_as_it_was(lab: Lab) -> None:
    address = ip_of(lab, "node2")
    before = record(lab, address)
    with undisturbed(lab) as seen:
        lab.etcdctl("del", f"{SUBNETS}/{address}")
        eventually(lambda: record(lab, address) == before, "the record to come back")
        seen.flows_again(ACROSS)
    assert seen.lost(WITHIN) == {}
    assert seen.gap(ACROSS) < 2


def test_a_record_renamed_by_hand_is_taken_back(lab: Lab) -> None:
    address = ip_of(lab, "node2")
    before = record(lab, address)
    with undisturbed(lab) as seen:
        for name in ("nobody", "node1", "node3"):
            put(lab, address, Host=name)
            eventually(lambda: record(lab, address) == before, "the record to be node2's again")
            seen.flows_again(ACROSS)
    assert seen.lost(WITHIN) == {}
    assert seen.gap(ACROSS) < 2


def test_a_malformed_record_is_reported_and_changes_nothing(lab: Lab) -> None:
    address = ip_of(lab, "node2")
    before = record(lab, address)
    with undisturbed(lab) as seen:
        for value in ("{", json.dumps({**(before or {}), "HostIP": "192.0.2.77"}), '{"Subnet":7}'):
            lab.etcdctl("put", f"{SUBNETS}/{address}", value)
            eventually(lambda: problems(lab, "RecordMalformed") == 1, "the controller to count it")
            lab.etcdctl("put", f"{SUBNETS}/{address}", json.dumps(before))
            eventually(lambda: problems(lab, "RecordMalformed") == 0, "the controller to see the end of it")
    assert "malformed record skipped" in lab.log("node1-agent")
    assert seen.lost([*WITHIN, *ACROSS]) == {}


def problems(lab: Lab, kind: str) -> float:
    return lab.controller_metrics().get(f'k8s_ovs_controller_problems{{kind="{kind}"}}', 0)


@pytest.mark.parametrize("wide", [False, True], ids=["node3's subnet", "the whole network"])
def test_a_record_that_overlaps_others_by_hand_harms_its_own_node_only(lab: Lab, wide: bool) -> None:
    """node2's address is lower than node3's; that must not give it node3's packets."""
    address = ip_of(lab, "node2")
    before = record(lab, address)
    wrong = "10.213.0.0/22" if wide else str(subnet_of(lab, "node3"))
    with undisturbed(lab) as seen:
        put(lab, address, Subnet=wrong)
        eventually(lambda: problems(lab, "SubnetOverlap") > 0, "the controller to count it")
        eventually(lambda: not knows(lab, "node1", address), "node1 not to trust node2")
        eventually(lambda: not knows(lab, "node3", address), "node3 not to trust node2")
        lab.etcdctl("put", f"{SUBNETS}/{address}", json.dumps(before))
        eventually(lambda: problems(lab, "SubnetOverlap") == 0, "the controller to see the end of it")
        seen.flows_again([*ACROSS, *WITHIN])
    eventually(lambda: ready(lab, "node2"), "node2 to be ready")


@pytest.mark.parametrize("empty", [True, False], ids=["emptied", "moved"])
def test_a_subnet_changed_by_hand_is_served_and_the_pods_are_made_again(lab: Lab, empty: bool) -> None:
    """Pods cannot change their address: those of that node have no network until they are deleted."""
    address, old = ip_of(lab, "node2"), subnet_of(lab, "node2")
    nodes = ("node1", "node2", "node3")
    taken = {subnet_of(lab, node) for node in nodes}
    free = next(net for net in IPv4Network("10.213.0.0/22").subnets(new_prefix=24) if net not in taken)
    with undisturbed(lab) as seen:
        put(lab, address, Subnet="" if empty else str(free))
        eventually(lambda: str(record(lab, address) or {}).count(str(free)) == 1, "another subnet")
        eventually(lambda: f"{free.network_address + 1}/24" in gateway(lab, "node2"), "the gateway to follow")
        eventually(lambda: ready(lab, "node2"), "node2 to be ready")
    assert seen.lost(WITHIN).keys() == {probe.name for probe in WITHIN}
    assert f"is no pod address of this node's subnet {free}" in lab.log("node2-agent")
    new_pods(lab)
    assert IPv4Address(lab.pod_ip("life", "b1")) in free
    assert old != free
    with undisturbed(lab) as seen:
        assert ready(lab, "node2")
        seen.flows_again([*OTHERS, *WITHIN, *ACROSS])
    assert seen.lost([*WITHIN, *ACROSS]) == {}


def gateway(lab: Lab, node: str) -> str:
    return lab.exec(node, "ip", "-brief", "addr", "show", "tun0").stdout


# -- the pool --------------------------------------------------------------------------------------------------------


def test_a_pool_that_runs_out_is_reported_and_goes_on_when_there_is_room(lab: Lab) -> None:
    spare, late = str(IPv4Address(ip_of(lab, "node3")) + 90), str(IPv4Address(ip_of(lab, "node3")) + 91)
    own = record(lab, ip_of(lab, "node2"))
    with undisturbed(lab) as seen:
        put(lab, spare, Host="balancer", Assign=True)
        eventually(lambda: bool((record(lab, spare) or {}).get("Subnet")), "the last free subnet")
        lab.kubectl("create", "-f", "-", stdin=json.dumps(node_object("node9", late)))
        try:
            eventually(lambda: problems(lab, "SubnetsExhausted") == 1, "the controller to count it")
            eventually(lambda: "SubnetsExhausted" in lab.kubectl("describe", "node", "node9"), "an Event")
            assert "no free host subnet in 10.213.0.0/22" in lab.kubectl("describe", "node", "node9")
            assert record(lab, late) is None
            lab.etcdctl("del", f"{SUBNETS}/{ip_of(lab, 'node2')}")
            eventually(
                lambda: record(lab, ip_of(lab, "node2")) == own, "node2's record, not given to who waits"
            )
            lab.etcdctl("del", f"{SUBNETS}/{spare}")
            eventually(lambda: bool((record(lab, late) or {}).get("Subnet")), "what is free now", seconds=5)
            assert problems(lab, "SubnetsExhausted") == 0
        finally:
            lab.kubectl("delete", "node", "node9")
        eventually(lambda: record(lab, late) is None, "its record to go")
        seen.flows_again(ACROSS)
    assert seen.lost(WITHIN) == {}


def node_object(name: str, address: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }
