"""Make before break: what passes between the nodes of a cluster while tenants change, node by node.

Each node is at the step of a change that has come furthest, or one step behind: the protocol lets no node fall further
back. The flows are the real ones, the switches those of the simulator, the verdicts those of the oracle.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.clusters import Cluster, Node, Pod, network_config
from fakes.simulator import Fabric, Switch, ip_packet
from k8s_ovs.config import Mode
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.flows.tables import TENANT
from k8s_ovs.model import tenancy
from k8s_ovs.model.events import TenantSet
from k8s_ovs.model.records import LocalPodKey, RemoteHostKey, TenantKey
from k8s_ovs.model.types import GATEWAY_OFPORT, GLOBAL_VNI, Tenant, TenantChange, TenantStep, Vni
from k8s_ovs.model.view import NodeView

VNIS = [Vni(0), Vni(10), Vni(11), Vni(12)]
NAMESPACES = ("red", "blue", "green", "gold")
NOT_BEGUN, COMPLETE = 0, 4
STAGES = range(NOT_BEGUN, COMPLETE + 1)
"""Of one change: not begun, the three steps, complete."""
ALL_CLOSED = 3
Move = tuple[Vni, Vni]
"""The VNI of a Namespace before and after; equal when it does not change."""


def tenant(name: str, move: Move, stage: int) -> Tenant:
    """What the ledger says of the Namespace when its change has come this far."""
    old, new = move
    if old == new or stage == NOT_BEGUN:
        return Tenant(name, old)
    if stage == COMPLETE:
        return Tenant(name, new)
    return Tenant(name, old, TenantChange("0123abcd", list(TenantStep)[stage - 1], old, new))


def cluster_of(nodes: int, namespaces: Iterable[str]) -> Cluster:
    """A pod of every Namespace on every node."""
    places = [Node(number) for number in range(nodes)]
    pods = [Pod(node, number, name) for node in places for number, name in enumerate(namespaces)]
    return Cluster(network_config(Mode.MULTITENANT), places, {}, pods)


def switch(cluster: Cluster, node: Node, tenants: Iterable[Tenant]) -> Switch:
    view = cluster.view(node)
    for told in tenants:
        view.apply(TenantSet(told))
    desired = DesiredFlows()
    desired.update(view)
    return Switch(desired.all())


def passes(fabric: Fabric, source: Pod, destination: Pod) -> bool:
    """Whether a packet gets there; it never gets anywhere else."""
    found = fabric.send(source.node.ip, ip_packet(source.port, source.mac, source.ip, destination.ip))
    places = [(delivery.host, delivery.port) for delivery in found]
    assert places in ([], [(destination.node.ip, destination.port)])
    return bool(places)


def host_reaches(fabric: Fabric, host: Node, destination: Pod) -> bool:
    packet = ip_packet(GATEWAY_OFPORT, host.gateway_mac, host.gateway, destination.ip)
    return [(found.host, found.port) for found in fabric.send(host.ip, packet)] == [
        (destination.node.ip, destination.port)
    ]


def allowed(source: Vni, destination: Vni) -> bool:
    return tenancy.may_reach(tenancy.pod(source), tenancy.pod(destination), Mode.MULTITENANT)


def expected(moves: Mapping[str, Move], source: str, destination: str) -> bool | None:
    """Whether the pair is allowed, or forbidden, whichever side has changed already; None if that makes a difference."""
    if source == destination:
        return True
    verdicts = {allowed(a, b) for a, b in product(moves[source], moves[destination])}
    return verdicts.pop() if len(verdicts) == 1 else None


# -- one change, everything there is -----------------------------------------------------------------------------------

ONE = cluster_of(2, (*NAMESPACES, "dave"))
"""red changes; of the others each has one of VNIS."""


ONE_OTHERS = ("blue", "green", "gold", "dave")
CHANGES = [(old, new) for old, new in product((*VNIS, Vni(13)), repeat=2) if old != new]


@cache
def one_switch(node: int, move: Move, stage: int) -> Switch:
    others = [Tenant(name, vni) for name, vni in zip(ONE_OTHERS, VNIS, strict=True)]
    return switch(ONE, ONE.nodes[node], [tenant("red", move, stage), *others])


@pytest.mark.parametrize("move", CHANGES)
def test_one_change_on_every_combination_of_two_nodes(move: Move) -> None:
    moves = {"red": move, **{name: (vni, vni) for name, vni in zip(ONE_OTHERS, VNIS, strict=True)}}
    for furthest in STAGES:
        behind = max(furthest - 1, NOT_BEGUN)
        for stages in {(furthest, furthest), (furthest, behind), (behind, furthest)}:
            fabric = Fabric(
                {node.ip: one_switch(node.number, move, stages[node.number]) for node in ONE.nodes}
            )
            for source, destination in product(ONE.pods, repeat=2):
                wanted = expected(moves, source.namespace, destination.namespace)
                if source == destination or wanted is None:
                    continue
                got = passes(fabric, source, destination)
                assert got == wanted, f"{source} to {destination}, nodes at {stages}"


@pytest.mark.parametrize("move", CHANGES)
def test_once_all_have_closed_the_oracle_says_exactly_who_talks(move: Move) -> None:
    after = {"red": move[1], **dict(zip(ONE_OTHERS, VNIS, strict=True))}
    for stages in ((3, 3), (3, 4), (4, 3), (4, 4)):
        fabric = Fabric({node.ip: one_switch(node.number, move, stages[node.number]) for node in ONE.nodes})
        for source, destination in product(ONE.pods, repeat=2):
            if source != destination:
                wanted = allowed(after[source.namespace], after[destination.namespace])
                assert passes(fabric, source, destination) == wanted, f"{source} to {destination}"


# -- several changes at once, on more nodes ----------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Cluster, dict[str, Move], dict[Node, dict[str, int]]]:
    """A cluster, what its Namespaces move from and to, and how far each node has come with each."""
    cluster = cluster_of(draw(st.integers(2, 3)), NAMESPACES)
    vnis = st.sampled_from(VNIS)
    moves = {name: (draw(vnis), draw(vnis)) for name in NAMESPACES}
    furthest = {name: draw(st.sampled_from(STAGES)) for name in NAMESPACES}
    stages = {
        node: {name: max(stage - draw(st.integers(0, 1)), NOT_BEGUN) for name, stage in furthest.items()}
        for node in cluster.nodes
    }
    return cluster, moves, stages


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_several_changes_on_nodes_that_are_not_equally_far(
    world: tuple[Cluster, dict[str, Move], dict[Node, dict[str, int]]],
) -> None:
    cluster, moves, stages = world
    fabric = Fabric(
        {
            node.ip: switch(cluster, node, [tenant(name, moves[name], stages[node][name]) for name in moves])
            for node in cluster.nodes
        }
    )
    for source, destination in product(cluster.pods, repeat=2):
        if source == destination:
            continue
        wanted = expected(moves, source.namespace, destination.namespace)
        closed = all(
            stages[node][pod.namespace] >= ALL_CLOSED
            for node in cluster.nodes
            for pod in (source, destination)
        )
        if closed:
            wanted = allowed(moves[source.namespace][1], moves[destination.namespace][1])
        if wanted is not None:
            assert passes(fabric, source, destination) == wanted, f"{source} to {destination}: {stages}"
    for host, destination in product(cluster.nodes, cluster.pods):
        assert host_reaches(fabric, host, destination)


# -- flows, in number ------------------------------------------------------------------------------------------------


def budget(view: NodeView) -> dict[Vni, int]:
    """Flows of each tenant, after every other object was found within its budget."""
    desired = DesiredFlows()
    desired.update(view)
    keys = view.keys()
    for key in keys:
        if isinstance(key, LocalPodKey):
            assert len(desired.of(key)) <= 5
        if isinstance(key, RemoteHostKey):
            assert len(desired.of(key)) <= 4
    counts = {key.vni: len(desired.of(key)) for key in keys if isinstance(key, TenantKey)}
    switched = Switch(desired.all()).tables[TENANT.number]
    constant = 3  # from a global one, to a global one, the end
    assert sum(counts.values()) == len(switched) - constant
    return counts


@pytest.mark.parametrize("stage", STAGES)
def test_a_change_costs_one_flow_more_for_the_tenants_in_it_and_nothing_for_others(stage: int) -> None:
    cluster = cluster_of(2, ("red", "blue", "green"))
    view = cluster.view(cluster.nodes[0])
    still = {"blue": Vni(11), "green": Vni(12), "absent": Vni(13)}
    for told in (Tenant(name, vni) for name, vni in still.items()):
        view.apply(TenantSet(told))
    view.apply(TenantSet(tenant("red", (Vni(10), Vni(11)), stage)))
    view.apply(TenantSet(tenant("gold", (Vni(13), Vni(14)), stage)))
    counts = budget(view)
    changing = stage in (1, 2)
    assert counts[Vni(11)] == (2 if changing else 1)
    assert counts[Vni(12)] == 1
    assert counts.get(Vni(10), 0) == (0 if stage >= ALL_CLOSED else 1)
    assert not {Vni(13), Vni(14)} & counts.keys()


def test_a_change_to_or_from_global_costs_nothing_more() -> None:
    cluster = cluster_of(1, ("red",))
    for move in ((Vni(10), GLOBAL_VNI), (GLOBAL_VNI, Vni(10))):
        for stage in STAGES:
            view = cluster.view(cluster.nodes[0])
            view.apply(TenantSet(tenant("red", move, stage)))
            assert sum(budget(view).values()) <= 1
