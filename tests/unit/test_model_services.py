"""Frontends and backends: who may be reached where and by which endpoints, event by event and from scratch."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.clusters import Cluster, Node, Pod, network_config
from fakes.events import HOST, busy_node, events
from fakes.services import endpoint_slice, service, service_events
from k8s_ovs.config import Mode
from k8s_ovs.model.events import (
    EndpointSliceGone,
    EndpointSliceSet,
    Event,
    ServiceGone,
    ServiceSet,
    TenantGone,
    TenantSet,
)
from k8s_ovs.model.records import Backend, BackendKey, Frontend, FrontendKey, ViewKey
from k8s_ovs.model.services import Endpoint, EndpointPort, Protocol, ServicePort
from k8s_ovs.model.types import Tenant, TenantChange, TenantStep, Vni
from k8s_ovs.model.view import NodeView

NODES = [Node(0), Node(1)]
VNIS: dict[str, Vni | None] = {"red": Vni(10), "blue": Vni(11), "kube-system": Vni(0)}
WEB = FrontendKey(IPv4Address("10.96.0.10"), Protocol.TCP, 80)
DNS = FrontendKey(IPv4Address("10.96.0.10"), Protocol.UDP, 53)
NODE_PORT = FrontendKey(None, Protocol.TCP, 30080)
HERE, THERE = "172.11.0.2", "172.11.4.2"


def view_with(*told: Event, mode: Mode = Mode.MULTITENANT) -> NodeView:
    view = Cluster(network_config(mode), NODES, VNIS, [Pod(NODES[0], 0, "red")]).view(NODES[0])
    for event in told:
        view.apply(event)
    return view


def frontend(view: NodeView, key: FrontendKey) -> Frontend:
    record = view.record(key)
    assert isinstance(record, Frontend)
    return record


def endpoints_of(view: NodeView, key: FrontendKey = WEB) -> list[str]:
    return [str(backend.address) for backend in frontend(view, key).backends]


def is_local(view: NodeView, address: str) -> bool:
    record = view.record(BackendKey(IPv4Address(address), Protocol.TCP, 8080))
    assert isinstance(record, Backend)
    return record.local


def web(*endpoints: object, local_only: bool = False) -> list[Event]:
    made = service("red", "web", "10.96.0.10", node_port=30080)
    return [
        ServiceSet(replace(made, local_only=local_only)),
        EndpointSliceSet(endpoint_slice("red", "web", *endpoints)),
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(service_events(), events()), max_size=25))
def test_event_by_event_is_what_a_fresh_view_says(history: list[Event]) -> None:
    view = NodeView(HOST)
    for event in busy_node():
        view.apply(event)
    known = view.records()
    for event in history:
        dirty = view.apply(event)
        fresh = NodeView(HOST)
        for told in view.state.events():
            fresh.apply(told)
        expected = fresh.records()
        assert view.records() == expected
        changed = {key for key in known.keys() | expected.keys() if known.get(key) != expected.get(key)}
        assert changed <= dirty
        assert {name: str(error) for name, error in view.problems.items()} == {
            name: str(error) for name, error in fresh.problems.items()
        }
        known = expected


def test_a_service_has_a_frontend_for_each_port_and_address_and_node_port() -> None:
    view = view_with(*web(HERE, THERE))
    assert frontend(view, WEB) == Frontend(
        WEB,
        "red",
        "web",
        (Vni(10),),
        open_to_all=False,
        backends=(
            BackendKey(IPv4Address(HERE), Protocol.TCP, 8080),
            BackendKey(IPv4Address(THERE), Protocol.TCP, 8080),
        ),
    )
    assert [backend.port for backend in frontend(view, DNS).backends] == [5353, 5353]
    assert frontend(view, NODE_PORT).backends == frontend(view, WEB).backends
    assert is_local(view, HERE)
    assert not is_local(view, THERE)


def test_ready_endpoints_or_else_those_that_serve_while_they_leave() -> None:
    here, there = IPv4Address(HERE), IPv4Address(THERE)
    leaving = Endpoint(there, ready=False, serving=True, terminating=True)
    gone = Endpoint(there, ready=False, serving=False, terminating=True)
    starting = Endpoint(there, ready=False, serving=False)
    assert endpoints_of(view_with(*web(Endpoint(here), leaving))) == [HERE]
    assert endpoints_of(view_with(*web(Endpoint(here, ready=False, serving=False), leaving))) == [THERE]
    assert endpoints_of(view_with(*web(gone))) == []
    assert endpoints_of(view_with(*web(starting))) == []
    view = view_with(*web(gone))
    assert view.record(BackendKey(there, Protocol.TCP, 8080)) is not None, (
        "its connections are still answered"
    )


def test_an_endpoint_in_two_slices_counts_once_and_if_one_says_that_it_is_ready() -> None:
    twice = EndpointSliceSet(endpoint_slice("red", "web", HERE, THERE, number=2))
    view = view_with(*web(Endpoint(IPv4Address(HERE), ready=False, serving=False)), twice)
    assert endpoints_of(view) == [HERE, THERE]
    view.apply(EndpointSliceGone("red", "web-2"))
    assert endpoints_of(view) == []
    assert view.record(BackendKey(IPv4Address(HERE), Protocol.TCP, 8080)) is not None
    view.apply(EndpointSliceGone("red", "web-1"))
    assert view.record(BackendKey(IPv4Address(HERE), Protocol.TCP, 8080)) is None


def test_local_endpoints_only_where_the_service_says_so_and_only_at_its_cluster_address() -> None:
    near, far = Endpoint(IPv4Address(HERE), node="node1"), Endpoint(IPv4Address(THERE), node="node2")
    view = view_with(*web(near, far, local_only=True))
    assert endpoints_of(view) == [HERE]
    assert endpoints_of(view, NODE_PORT) == [HERE, THERE]
    assert endpoints_of(view_with(*web(far, local_only=True))) == []


def test_a_port_without_endpoints_of_its_name_has_none() -> None:
    ports = (EndpointPort("web", Protocol.TCP, 8080), EndpointPort("dns", Protocol.TCP, 53))
    view = view_with(*web())
    view.apply(EndpointSliceSet(replace(endpoint_slice("red", "web", HERE), ports=ports)))
    assert endpoints_of(view) == [HERE]
    assert endpoints_of(view, DNS) == []


def test_headless_services_ask_for_nothing() -> None:
    view = view_with(ServiceSet(service("red", "web", node_port=30080)))
    assert not [key for key in view.records() if isinstance(key, FrontendKey)]
    assert not view.problems


@pytest.mark.parametrize("order", [("red", "blue"), ("blue", "red")])
def test_of_two_services_with_one_external_address_the_first_by_name_gets_it(order: tuple[str, str]) -> None:
    shared = FrontendKey(IPv4Address("203.0.113.1"), Protocol.TCP, 80)
    made = [
        ServiceSet(service(name, "web", f"10.96.0.{number}", "203.0.113.1"))
        for number, name in enumerate(order)
    ]
    view = view_with(*made)
    assert frontend(view, shared).namespace == "blue"
    (problem, *_) = (error for name, error in view.problems.items() if str(shared) in name)
    assert "services/red/web 203.0.113.1:80/TCP" in str(problem)
    assert "Service blue/web" in str(problem)
    view.apply(ServiceGone("blue", "web"))
    assert frontend(view, shared).namespace == "red"
    assert not view.problems


def test_nobody_takes_anothers_cluster_address() -> None:
    view = view_with(*web(HERE), ServiceSet(service("blue", "greedy", "10.96.0.99", "10.96.0.10")))
    assert frontend(view, WEB).namespace == "red"


@pytest.mark.parametrize(
    "address", ["172.11.0.2", "172.11.99.1", "127.0.0.1", "224.0.0.1", "169.254.169.253"]
)
def test_an_address_that_is_a_pods_or_nobodys_is_refused(address: str) -> None:
    view = view_with(ServiceSet(service("red", "web", "10.96.0.10", address)))
    assert view.record(FrontendKey(IPv4Address(address), Protocol.TCP, 80)) is None
    assert any(address in name for name in view.problems)
    assert frontend(view, WEB)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.96.0.10", "10.96.3.4", "224.0.0.1", "169.254.169.253"])
def test_an_endpoint_that_no_packet_may_be_sent_to_is_none(address: str) -> None:
    assert endpoints_of(view_with(*web(address, HERE))) == [HERE]


def test_sctp_where_the_datapath_can() -> None:
    made = replace(service("red", "web", "10.96.0.10"), ports=(ServicePort("s", Protocol.SCTP, 80),))
    key = FrontendKey(IPv4Address("10.96.0.10"), Protocol.SCTP, 80)
    view = view_with(ServiceSet(made))
    assert frontend(view, key)
    assert view.set_sctp(False) == {key}
    assert view.record(key) is None
    (problem,) = view.problems.values()
    assert "SCTP" in str(problem)
    assert view.set_sctp(True) == {key}
    assert not view.problems


def test_the_tenant_is_that_of_the_namespace_in_every_step() -> None:
    view = view_with(*web(HERE))
    change = TenantChange("0123abcd", TenantStep.ACCEPT, Vni(10), Vni(12))
    dirty = view.apply(TenantSet(Tenant("red", Vni(10), change)))
    assert {WEB, DNS, NODE_PORT} <= dirty
    assert frontend(view, WEB).accepts == (10, 12)
    view.apply(TenantSet(Tenant("red", Vni(0))))
    assert frontend(view, WEB).everybody
    view.apply(TenantGone("red"))
    assert view.record(WEB) is None


def test_the_api_server_is_open_to_all_and_in_single_tenant_mode_everything_is() -> None:
    view = view_with(ServiceSet(service("default", "kubernetes", "10.96.0.1")))
    key = FrontendKey(IPv4Address("10.96.0.1"), Protocol.TCP, 80)
    assert frontend(view, key).everybody, "though its Namespace has no tenant here"
    assert frontend(view_with(*web(HERE), mode=Mode.SUBNET), WEB).everybody


def test_an_event_costs_what_it_affects() -> None:
    view = view_with(*web(HERE))
    for number in range(100):
        view.apply(ServiceSet(service("blue", f"other{number}", f"10.96.1.{number}")))
    dirty: frozenset[ViewKey] = view.apply(EndpointSliceSet(endpoint_slice("red", "web", HERE, THERE)))
    added = {BackendKey(IPv4Address(THERE), protocol, port) for protocol, port in ((6, 8080), (17, 5353))}
    assert dirty == {WEB, DNS, NODE_PORT, *added}
    assert view.apply(TenantSet(Tenant("red", Vni(99)))) >= {WEB}
    assert view.apply(ServiceSet(service("blue", "other1", "10.96.1.1"))) == frozenset()
