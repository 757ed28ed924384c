"""A store that was put back to an older state: what nodes and Namespaces go on using is given to nobody but them."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from fakes.rounds import Bench
from k8s_ovs.controller.rounds import LEFT_OUT_VNIS
from k8s_ovs.model.types import AgentReport, HostSubnet, StillUsed, Vni

NODES = {"node1": "192.0.2.1", "node2": "192.0.2.2", "node3": "192.0.2.3"}


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.nodes(**NODES)
    bench.namespaces("blue", "green", "kube-system", "red")
    return bench


def lose(bench: Bench, *nodes: str, namespaces: tuple[str, ...] = ()) -> None:
    """What the snapshot lacks that the store was put back to."""
    for node in nodes:
        bench.store.delete_raw(bench.store.keys.subnet(IPv4Address(NODES[node])))
    for name in namespaces:
        bench.store.delete_raw(bench.store.keys.namespace(name))
        bench.store.delete_raw(bench.store.keys.tenant(name))


def own(bench: Bench, name: str, vni: int) -> None:
    """Write both records of a Namespace."""
    bench.store.put_raw(bench.store.keys.tenant(name), f'{{"Namespace":"{name}","NetID":{vni}}}')
    bench.store.put_raw(bench.store.keys.namespace(name), f'{{"NetName":"{name}","NetID":{vni}}}')


def uses(node: str, subnet: str | None, **vnis: int) -> AgentReport:
    used = StillUsed(IPv4Network(subnet) if subnet else None, {name: Vni(vni) for name, vni in vnis.items()})
    return AgentReport(node, IPv4Address(NODES.get(node, "192.0.2.9")), {}, used)


def test_the_leader_gives_back_what_it_has_seen(bench: Bench) -> None:
    rounds = bench.controller()
    bench.settle(rounds)
    before = bench.subnets(), bench.tenants(), bench.vnis()
    lose(bench, *NODES, namespaces=("blue", "green", "kube-system", "red"))
    bench.nodes(another="192.0.2.8")
    bench.namespaces("another")
    bench.settle(rounds)
    after = bench.subnets(), bench.tenants(), bench.vnis()
    for was, now in zip(before, after, strict=True):
        assert was.items() <= now.items()
        assert len(now) == len(was) + 1
        assert len(set(now.values())) == len(now)


def test_joined_namespaces_are_joined_again_and_their_vni_is_nobody_elses(bench: Bench) -> None:
    bench.namespaces("aside")
    rounds = bench.controller()
    bench.settle(rounds)
    red = bench.tenants()["red"]
    own(bench, "blue", red)
    bench.settle(rounds)
    before = bench.tenants()
    lose(bench, namespaces=("blue",))
    bench.settle(rounds)
    assert bench.tenants() == bench.vnis() == before
    lose(bench, namespaces=("blue", "red"))
    bench.settle(rounds)
    assert bench.tenants() == bench.vnis() == before


def test_who_had_left_a_tenant_is_not_put_back_into_it(bench: Bench) -> None:
    """Blue and red were one tenant, blue left, and the store is put back to before there was a red."""
    rounds = bench.controller()
    bench.settle(rounds)
    together, apart = bench.tenants()["blue"], 4711
    own(bench, "red", together)
    bench.settle(rounds)
    own(bench, "blue", apart)
    bench.settle(rounds)
    own(bench, "blue", together)
    lose(bench, namespaces=("red",))
    bench.store.report(uses("node1", None, red=together))
    for _ in range(3):
        bench.settle(rounds)
        assert bench.tenants()["blue"] == together
        assert bench.tenants()["red"] not in {together, apart}


def test_a_namespace_made_anew_under_its_name_gets_no_vni_back(bench: Bench) -> None:
    rounds = bench.controller()
    bench.settle(rounds)
    red = bench.tenants()["red"]
    bench.facts.namespaces.discard("red")
    bench.cluster.remove_namespaces("red")
    bench.settle(rounds)
    bench.namespaces("red")
    bench.settle(rounds)
    assert bench.tenants()["red"] != red


def test_a_new_leader_asks_the_agents(bench: Bench) -> None:
    bench.settle(bench.controller())
    before = bench.subnets(), bench.tenants()
    subnets, tenants = before
    lose(bench, "node1", "node3", namespaces=("green", "red"))
    bench.nodes(a="192.0.2.7")
    bench.namespaces("a")
    bench.store.report(
        uses("node1", subnets["node1"], red=tenants["red"]),
        uses("node2", None, green=tenants["green"], red=tenants["red"]),
        uses("node3", subnets["node3"]),
    )
    bench.settle(bench.controller())
    assert subnets.items() <= bench.subnets().items()
    assert tenants.items() <= bench.tenants().items()
    assert len(set(bench.subnets().values())) == 4
    assert len(set(bench.tenants().values())) == 5


def test_what_pods_of_a_namespace_that_is_gone_go_on_using_is_given_to_nobody(bench: Bench) -> None:
    """Its pods were deleted by force, and a node still has them: neither the Namespace nor its records are there."""
    bench.settle(bench.controller())
    lose(bench, namespaces=("red",))
    bench.facts.namespaces.discard("red")
    next_one = max(bench.tenants().values()) + LEFT_OUT_VNIS + 1
    bench.store.report(uses("node2", None, red=next_one))
    bench.namespaces("a")
    bench.settle(bench.controller())
    assert bench.tenants()["a"] == next_one + 1


def test_what_a_host_says_it_uses_takes_nothing_from_who_has_it(bench: Bench) -> None:
    bench.settle(bench.controller())
    subnets, tenants = bench.subnets(), bench.tenants()
    lose(bench, "node3")
    bench.store.report(uses("node3", subnets["node1"], red=tenants["blue"]))
    bench.settle(bench.controller())
    assert len(set(bench.subnets().values())) == 3
    assert bench.subnets()["node1"] == subnets["node1"]
    assert bench.tenants() == tenants


def test_the_subnet_of_an_external_host_without_record_is_given_to_nobody(bench: Bench) -> None:
    """Its administrator has to assign it anew; until then it goes on with what it had."""
    bench.store.put(HostSubnet("lb", IPv4Address("192.0.2.9"), None, assign=True))
    bench.settle(bench.controller())
    had = bench.subnets()["lb"]
    bench.store.delete_raw(bench.store.keys.subnet(IPv4Address("192.0.2.9")))
    bench.store.report(uses("lb", had))
    bench.nodes(**{f"new{n}": f"192.0.2.{20 + n}" for n in range(20)})
    bench.settle(bench.controller())
    given = [record.subnet for record in bench.records().host_subnets.values() if record.subnet is not None]
    assert len(given) == 15
    assert IPv4Network(had) not in given
