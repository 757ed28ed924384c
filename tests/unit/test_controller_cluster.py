"""What Kubernetes tells, as facts; and what is asked of it and told to it."""

import random
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.cluster import make_namespace, make_node
from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.cluster import Facts, KubeCluster
from k8s_ovs.controller.plan import Problem, ProblemKind, Subject
from k8s_ovs.errors import KubeNotFound, RecordError
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import Namespace, Node, NodeAddress, NodeStatus, ObjectMeta, ObjectReference
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Upserted


def test_only_what_a_plan_depends_on_counts_as_a_change() -> None:
    facts = Facts()
    assert facts.apply_nodes([Upserted(make_node("a", "192.0.2.1"))])
    assert not facts.apply_nodes([Upserted(make_node("a", "192.0.2.1"))])
    assert facts.apply_nodes([Upserted(make_node("a", "192.0.2.2"))])
    assert facts.apply_nodes([InSync()])
    assert not facts.apply_nodes([Deleted("", "unknown")])
    assert facts.apply_nodes([Deleted("", "a")])
    assert facts.apply_namespaces([Upserted(make_namespace("red"))])
    assert not facts.apply_namespaces([Upserted(make_namespace("red"))])
    assert facts.apply_namespaces([Deleted("", "red"), Upserted(make_namespace("blue"))])
    assert facts.apply_namespaces([Deleted("", "blue"), Upserted(make_namespace("blue", "uid of another"))])
    assert facts.uids == {"blue": "uid of another"}
    assert facts.missing == ["namespaces"]
    assert facts.apply_namespaces([InSync()])
    assert (facts.missing, facts.namespaces, facts.nodes) == ([], {"blue"}, {})


def test_addresses_are_the_internal_ones_of_ipv4_in_the_order_of_the_node() -> None:
    entries = [
        ("Hostname", "a"),
        ("InternalIP", "2001:db8::1"),
        ("InternalIP", "192.0.2.7"),
        ("ExternalIP", "198.51.100.1"),
        ("InternalIP", "192.0.2.3"),
    ]
    status = NodeStatus(addresses=tuple(NodeAddress(type=kind, address=text) for kind, text in entries))
    facts = Facts()
    facts.apply_nodes([Upserted(Node(metadata=ObjectMeta(name="a"), status=status))])
    assert facts.nodes == {"a": HostNode("a", (IPv4Address("192.0.2.7"), IPv4Address("192.0.2.3")))}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "192.0.2.1", "192.0.2.2", "gone"]))),
    st.randoms(use_true_random=False),
)
def test_the_last_word_on_each_node_counts(words: list[tuple[str, str]], rng: random.Random) -> None:
    """In whatever order the words on different nodes come."""
    last: Mapping[str, str] = dict(words)
    order = sorted(last)
    rng.shuffle(order)
    one, other = Facts(), Facts()
    for name, word in [*words]:
        one.apply_nodes([_event(name, word)])
    for name in order:
        other.apply_nodes([_event(name, last[name])])
    assert one.nodes == other.nodes


def _event(name: str, word: str) -> Upserted[Node] | Deleted:
    if word == "gone":
        return Deleted("", name)
    return Upserted(make_node(name, *filter(None, [word])))


class FakeClient:
    """The two methods of KubeClient that are used here; `objects` maps a name to itself or to what get raises."""

    def __init__(self, **objects: Exception | None) -> None:
        self.objects = objects
        self.events: list[tuple[ObjectReference, str, str, bool]] = []

    async def get(self, resource: object, name: str) -> object:
        if name not in self.objects:
            raise KubeNotFound(f"{name}: not found", status=404)
        error = self.objects[name]
        if error is not None:
            raise error
        return Namespace(metadata=ObjectMeta(name=name))

    async def create_event(
        self, about: ObjectReference, reason: str, message: str, *, warning: bool = False
    ) -> None:
        self.events.append((about, reason, message, warning))


def cluster_on(client: FakeClient) -> KubeCluster:
    return KubeCluster(cast(KubeClient, client), "kube-system", "k8s-ovs-controller")


async def test_what_cannot_be_read_exists_all_the_same() -> None:
    cluster = cluster_on(FakeClient(a=None, broken=RecordError("node broken", "not an object")))
    assert await cluster.existing_nodes(["a", "broken", "gone"]) == {"a", "broken"}
    assert await cluster.existing_namespaces(["gone"]) == set()


async def test_events_are_about_the_node_the_namespace_or_the_lease() -> None:
    client = FakeClient()
    cluster = cluster_on(client)
    for kind, name in [("Node", "node1"), ("Namespace", "red"), ("Record", "subnets/192.0.2.1")]:
        await cluster.tell(Problem(Subject(kind, name), ProblemKind.FOREIGN_SUBNET, "what", "do this"))
    assert [(about.kind, about.namespace, about.name) for about, *_ in client.events] == [
        ("Node", "", "node1"),
        ("Namespace", "", "red"),
        ("Lease", "kube-system", "k8s-ovs-controller"),
    ]
    assert client.events[0][0].uid == "node1"
    assert {event[1:] for event in client.events} == {("SubnetForeign", "what: do this", True)}
