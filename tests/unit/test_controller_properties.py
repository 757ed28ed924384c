"""What holds for every plan, whatever the records and the cluster look like."""

import itertools
import random
from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.planning import Planner, new_memory
from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.plan import Plan
from k8s_ovs.controller.subnets import plan_subnets
from k8s_ovs.model.types import HostSubnet, NetNamespace, Tenant, Vni
from k8s_ovs.sources.store import Change, Snapshot

POD_NETWORK = IPv4Network("172.11.0.0/24")
ROUNDS = 40
"""More transactions than any of these situations needs."""

unhurried = settings(deadline=None)
"""A busy machine is no failure."""

names = st.sampled_from([f"node{n}" for n in range(8)])
addresses = st.sampled_from([IPv4Address(f"192.0.2.{n}") for n in range(10)] + [IPv4Address("172.11.0.9")])
subnets = st.sampled_from(
    [None, *POD_NETWORK.subnets(new_prefix=28), IPv4Network("172.11.0.0/27"), IPv4Network("10.1.0.0/28")]
)
nodes = st.dictionaries(names, st.lists(addresses, max_size=2, unique=True)).map(
    lambda facts: [HostNode(name, tuple(ips)) for name, ips in facts.items()]
)
host_subnets = st.lists(
    st.builds(HostSubnet, names, addresses, subnets, st.booleans()), unique_by=lambda r: r.host_ip
)
NAMES = ["kube-system", *(f"ns{n}" for n in range(8))]
namespaces = st.sets(st.sampled_from(["kube-system", "default", *(f"ns{n}" for n in range(8))]))
net_namespaces = st.lists(
    st.builds(
        NetNamespace,
        st.sampled_from(NAMES),
        st.one_of(st.none(), st.sampled_from([0, 10, 11, 12, 13, 4711]).map(Vni)),
        st.sampled_from(["", "", "isolate", "global"]),
    )
    | st.builds(
        NetNamespace, st.sampled_from(NAMES), st.none(), st.just("join"), st.sampled_from([*NAMES, "nowhere"])
    ),
    unique_by=lambda r: r.name,
)
modes = st.sampled_from(Mode)
limits = st.integers(min_value=2, max_value=20)


def config_of(mode: Mode = Mode.MULTITENANT) -> NetworkConfig:
    return NetworkConfig("k8ssdn", POD_NETWORK, 4, IPv4Network("10.96.0.0/12"), mode)


def snapshot_of(subnets: list[HostSubnet], tenants: list[NetNamespace], revision: int = 1) -> Snapshot:
    return Snapshot(revision, {r.host_ip: r for r in subnets}, {r.name: r for r in tenants})


def applied(snapshot: Snapshot, change: Change) -> Snapshot:
    assert change.based_on == snapshot.revision
    hosts = {k: r for k, r in snapshot.host_subnets.items() if k not in change.delete_subnets}
    tenants = {k: r for k, r in snapshot.net_namespaces.items() if k not in change.delete_namespaces}
    hosts |= {r.host_ip: r for r in change.put_subnets}
    tenants |= {r.name: r for r in change.put_namespaces}
    return Snapshot(snapshot.revision + 1, hosts, tenants)


def settled_subnets(
    snapshot: Snapshot,
    nodes: list[HostNode],
    limit: int = 100,
    former: Mapping[str, IPv4Network] = {},
) -> tuple[list[Snapshot], Plan]:
    """Carry out plan after plan until there is nothing left to do: every state on the way, and the last plan."""
    states = [snapshot]
    for _ in range(ROUNDS):
        plan = plan_subnets(states[-1], nodes, config_of(), former=former, limit=limit)
        if plan.change is None:
            return states, plan
        states.append(applied(states[-1], plan.change))
    raise AssertionError(f"never settles: {plan}")


def overlaps(snapshot: Snapshot) -> set[frozenset[str]]:
    """The pairs of hosts whose subnets overlap."""
    given_ = [r for r in snapshot.host_subnets.values() if r.subnet is not None]
    return {
        frozenset({f"{a.host}@{a.subnet}", f"{b.host}@{b.subnet}"})
        for a in given_
        for b in given_
        if a.host_ip < b.host_ip and a.subnet and b.subnet and a.subnet.overlaps(b.subnet)
    }


@unhurried
@given(nodes, host_subnets, limits, st.dictionaries(names, subnets.filter(bool)))
def test_no_subnet_is_given_twice(
    nodes: list[HostNode], records: list[HostSubnet], limit: int, former: dict[str, IPv4Network]
) -> None:
    states, _ = settled_subnets(snapshot_of(records, []), nodes, limit, former)
    for before, after in itertools.pairwise(states):
        held = {r.subnet for r in before.host_subnets.values() if r.subnet is not None}
        new = [r.subnet for r in after.host_subnets.values() if r.subnet is not None and r.subnet not in held]
        everything = [*held, *new]
        for subnet in new:
            assert sum(subnet.overlaps(other) for other in everything) == 1
            assert subnet.subnet_of(POD_NETWORK)


@unhurried
@given(nodes, host_subnets, limits)
def test_a_host_that_stays_never_changes_its_subnet(
    nodes: list[HostNode], records: list[HostSubnet], limit: int
) -> None:
    """Also on the way: between two transactions no record is missing."""
    single = {host for host, n in Counter(r.host for r in records).items() if n == 1}
    living = {node.name for node in nodes}
    before = {r.host: r.subnet for r in records if r.host in single & living and r.subnet is not None}
    states, _ = settled_subnets(snapshot_of(records, []), nodes, limit)
    for state in states:
        now = {r.host: r.subnet for r in state.host_subnets.values() if r.host in before}
        external = {r.host for r in records if r.assign}
        for host, subnet in before.items():
            if host not in external:
                assert now.get(host) == subnet


@unhurried
@given(nodes, host_subnets)
def test_external_records_stay_where_they_are(nodes: list[HostNode], records: list[HostSubnet]) -> None:
    states, _ = settled_subnets(snapshot_of(records, []), nodes)
    for record in records:
        if record.assign:
            after = states[-1].host_subnets[record.host_ip]
            assert (after.host, after.assign) == (record.host, True)
            assert record.subnet is None or after.subnet == record.subnet


@unhurried
@given(nodes, host_subnets)
def test_in_the_end_every_node_is_served_or_reported(
    nodes: list[HostNode], records: list[HostSubnet]
) -> None:
    states, last = settled_subnets(snapshot_of(records, []), nodes)
    living = {node.name for node in nodes}
    own = [r for r in states[-1].host_subnets.values() if not r.assign]
    served = {r.host for r in own if r.subnet is not None}
    reported = {problem.subject.name for problem in last.problems if problem.subject.kind == "Node"}
    assert living <= served | reported
    assert {r.host for r in own} <= living
    assert max(Counter(r.host for r in own if r.host not in reported).values(), default=1) == 1


@unhurried
@given(nodes, host_subnets, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    nodes: list[HostNode], records: list[HostSubnet], rng: random.Random
) -> None:
    plan = plan_subnets(snapshot_of(records, []), nodes, config_of())
    shuffled_nodes, shuffled = list(nodes), list(records)
    rng.shuffle(shuffled_nodes)
    rng.shuffle(shuffled)
    assert plan_subnets(snapshot_of(shuffled, []), shuffled_nodes, config_of()) == plan


@st.composite
def planners(draw: st.DrawFn) -> Planner:
    """Records and tenants of any kind; what is in the ledger may be joined or in a change, as the controller leaves it."""
    planner = Planner(living=draw(namespaces), config=config_of(draw(modes)))
    planner.records = {record.name: record for record in draw(net_namespaces)}
    vnis = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0, 10, 11, 12]).map(Vni)))
    planner.tenants = {name: Tenant(name, vni) for name, vni in vnis.items()}
    return planner


@unhurried
@given(planners(), limits)
def test_a_vni_changes_by_request_only_and_a_new_tenant_takes_nobodys(planner: Planner, limit: int) -> None:
    asked = {name for name, record in planner.records.items() if record.action}
    first = not planner.tenants
    for _ in range(ROUNDS):
        before = dict(planner.tenants)
        if planner.step(limit).change is None:
            return
        held = [tenant.vni for tenant in before.values()]
        new = [tenant.vni for name, tenant in planner.tenants.items() if name not in before and tenant.vni]
        assert first or not set(new) & set(held)
        assert first or len(new) == len(set(new))
        for name, tenant in before.items():
            if name in planner.living and planner.tenants[name].vni != tenant.vni:
                assert name in asked
        first = False
    raise AssertionError("never settles")


@unhurried
@given(planners(), limits)
def test_in_the_end_ledger_and_records_agree(planner: Planner, limit: int) -> None:
    planner.settle(limit)
    assert planner.tenants.keys() | planner.records.keys() <= planner.living
    assert not any(record.action for record in planner.records.values())
    if planner.config.mode is Mode.MULTITENANT:
        assert planner.tenants.keys() == planner.living
        assert planner.vnis() == planner.tenant_vnis()


@unhurried
@given(planners())
def test_single_tenant_mode_changes_no_tenant(planner: Planner) -> None:
    planner.config = config_of(Mode.SUBNET)
    kept = {name: tenant for name, tenant in planner.tenants.items() if name in planner.living}
    vnis = {name: vni for name, vni in planner.vnis().items() if name in planner.living}
    planner.settle()
    assert (planner.tenants, planner.vnis()) == (kept, vnis)


@unhurried
@given(planners(), st.randoms(use_true_random=False))
def test_the_order_of_namespaces_does_not_matter(planner: Planner, rng: random.Random) -> None:
    plan = planner.plan()
    tenants, records = list(planner.tenants.items()), list(planner.records.items())
    rng.shuffle(tenants)
    rng.shuffle(records)
    planner.tenants, planner.records = dict(tenants), dict(records)
    planner.memory = new_memory()
    assert planner.plan() == plan
