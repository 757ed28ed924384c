"""ClusterIPs end to end: ports, endpoints of every kind, hairpin, affinity, refusals, and who is seen as the client."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.lab_services import Heard, ServiceLab, ask, call, namespace, outcome, reached
from fakes.labs import Lab, eventually, running_lab
from k8s_ovs.flows.tables import AFFINITY
from k8s_ovs.lab.cluster import API_PORT, NODE_PORT
from k8s_ovs.model.types import HAIRPIN_IP

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs, pytest.mark.etcd, pytest.mark.timeout(300)]

AT_ONCE = 0.1
"""Seconds within which a refusal has to come."""


@pytest.fixture(scope="module", params=["multitenant", "subnet"])
def two_modes(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Lab]:
    if request.param == "multitenant":
        yield lab
        return
    with running_lab("--mode", "subnet") as flat:
        yield flat


@pytest.fixture(scope="module")
def shop(two_modes: Lab) -> Iterator[ServiceLab]:
    """A Namespace with three servers on three nodes, and clients on two."""
    with namespace(two_modes, "shop") as (made,):
        made.pods("web", "node1", "node2", "node3", ports=PORTS)
        made.pods("client", "node1", "node2")
        yield made


PORTS = [
    {"name": "http", "containerPort": 8080},
    {"name": "dns", "containerPort": 5353, "protocol": "UDP"},
    {"containerPort": 80},
]
SERVERS = ("shop/web-1", "shop/web-2", "shop/web-3")
CLIENT = "shop/client-1"


def test_named_and_numeric_target_ports_of_both_protocols(shop: ServiceLab) -> None:
    shop.apply(
        shop.service(
            "ports",
            {"name": "by-name", "port": 81, "targetPort": "http"},
            {"name": "by-number", "port": 82, "targetPort": 80},
            {"name": "same", "port": 80},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
            {"name": "both", "port": 53, "protocol": "TCP", "targetPort": 8080},
            selector="web",
        )
    )
    address = shop.address("ports")
    for port in (81, 82, 80, 53):
        reached(shop.lab, CLIENT, address, port, *SERVERS)
    outcome(shop.lab, CLIENT, address, 53, "open", verb="udp")


def test_every_endpoint_gets_its_share_and_sees_the_clients_own_address(shop: ServiceLab) -> None:
    shop.apply(shop.service("share", selector="web"))
    address = shop.address("share")
    reached(shop.lab, CLIENT, address, 80, *SERVERS)
    answers = ask(shop.lab, CLIENT, address, 80, 300)
    shares = Counter(answer.pod for answer in answers)
    assert set(shares) == set(SERVERS)
    assert all(50 <= count <= 200 for count in shares.values()), shares
    assert {answer.peer for answer in answers} == {shop.pod_ip(CLIENT)}


def test_a_pod_reaches_itself_through_its_service(shop: ServiceLab) -> None:
    (own,) = shop.pods("own", "node1")
    shop.apply(shop.service("own", selector="own"))
    address = shop.address("own")
    (answer, *_) = reached(shop.lab, own, address, 80, own)
    assert answer.peer == str(HAIRPIN_IP)
    other = reached(shop.lab, CLIENT, address, 80, own)
    assert {each.peer for each in other} == {shop.pod_ip(CLIENT)}


def test_endpoints_outside_the_cluster_network_and_on_hosts(shop: ServiceLab) -> None:
    nodes = {node: shop.lab.address(node) for node in ("node1", "node2", "node3")}
    shop.apply(
        shop.service("outside"),
        shop.slice("outside", outside_address(shop.lab)),
        shop.service("hosts"),
        shop.slice("hosts", *nodes.values(), ports=[{"port": NODE_PORT}]),
    )
    seen = {answer.peer for answer in reached(shop.lab, CLIENT, shop.address("outside"), 80, "outside")}
    assert seen == {nodes["node1"]}, "to the outside it goes with its node's address"
    answers = reached(shop.lab, CLIENT, shop.address("hosts"), 80, *nodes, count=40)
    assert {answer.pod for answer in answers} == set(nodes)
    assert {answer.peer for answer in answers} == {shop.pod_ip(CLIENT)}
    for node in nodes:
        reached(shop.lab, node, shop.address("outside"), 80, "outside")
        reached(shop.lab, node, shop.address("hosts"), 80, *nodes, count=20)


def outside_address(lab: Lab) -> str:
    printed = json.loads(lab.exec("outside", "ip", "-j", "address", "show", "dev", "eth0").stdout)
    return next(str(entry["local"]) for entry in printed[0]["addr_info"] if entry["family"] == "inet")


def test_hosts_reach_cluster_addresses(shop: ServiceLab) -> None:
    shop.apply(
        shop.service(
            "for-hosts",
            {"name": "t", "port": 80},
            {"name": "u", "port": 80, "protocol": "UDP"},
            selector="web",
        )
    )
    address = shop.address("for-hosts")
    for node in ("node1", "node2", "node3"):
        answers = reached(shop.lab, node, address, 80, *SERVERS, count=30)
        assert {answer.pod for answer in answers} == set(SERVERS)
        outcome(shop.lab, node, address, 80, "open", verb="udp")


def test_every_pod_reaches_the_api_server_by_the_kubernetes_service(shop: ServiceLab) -> None:
    address = shop.lab.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
    for place in (CLIENT, "shop/client-2", "node2"):
        outcome(shop.lab, place, address, 443, "open")
    printed = shop.lab.kubectl("get", "endpointslice", "kubernetes", "-o", "jsonpath={.ports[0].port}")
    assert int(printed) == API_PORT


def sticky(shop: ServiceLab, name: str, seconds: int) -> dict[str, Any]:
    affinity = {"clientIP": {"timeoutSeconds": seconds}}
    return shop.service(name, sessionAffinity="ClientIP", sessionAffinityConfig=affinity)


def test_affinity_keeps_a_client_with_its_endpoint(shop: ServiceLab) -> None:
    """Endpoints that come meanwhile do not move it, each client has its own, and none loses its address."""
    first, *others = SERVERS
    shop.apply(sticky(shop, "sticky", 60), shop.slice("sticky", shop.pod_ip(first)))
    address = shop.address("sticky")
    reached(shop.lab, CLIENT, address, 80, first)
    shop.apply(shop.slice("sticky", *map(shop.pod_ip, SERVERS)))
    newcomers = ("node1", "node2", "node3", "shop/client-2", *SERVERS)
    eventually(
        lambda: any(ask(shop.lab, place, address, 80)[0].pod in others for place in newcomers),
        "somebody gets another endpoint",
    )
    answers = ask(shop.lab, CLIENT, address, 80, 200)
    assert {answer.pod for answer in answers} == {first}
    assert {answer.peer for answer in answers} == {shop.pod_ip(CLIENT)}
    for place in newcomers:
        chosen = {answer.pod for answer in ask(shop.lab, place, address, 80, 20)}
        assert len(chosen) == 1, (place, chosen)


def test_affinity_ends_after_its_time_and_each_connection_begins_it_anew(shop: ServiceLab) -> None:
    shop.apply(sticky(shop, "brief", 2), shop.slice("brief", shop.pod_ip(SERVERS[0])))
    address = shop.address("brief")
    reached(shop.lab, CLIENT, address, 80, SERVERS[0])
    begun = time.monotonic()
    while time.monotonic() < begun + 5:
        ask(shop.lab, CLIENT, address, 80)
        assert learned(shop, address)
    eventually(lambda: not learned(shop, address), "what was learned is gone", seconds=10)


def test_after_its_time_a_client_is_free_again(shop: ServiceLab) -> None:
    """All clients have the only endpoint; two more come, and who says nothing for long enough may get another one."""
    shop.apply(sticky(shop, "free", 1), shop.slice("free", shop.pod_ip(SERVERS[0])))
    address = shop.address("free")
    places = (CLIENT, "shop/client-2", "node1", "node2", "node3", *SERVERS)
    for place in places:
        reached(shop.lab, place, address, 80, SERVERS[0], count=1)
    shop.apply(shop.slice("free", *map(shop.pod_ip, SERVERS)))
    eventually(lambda: not learned(shop, address), "what was learned is gone")
    eventually(
        lambda: any(ask(shop.lab, place, address, 80)[0].pod != SERVERS[0] for place in places),
        "somebody gets another endpoint",
    )


def learned(shop: ServiceLab, address: str) -> bool:
    """Whether the switch of the client's node remembers a client of the Service."""
    dumped = shop.lab.exec("node1", "ovs-ofctl", "dump-flows", "br0", f"table={AFFINITY.number}").stdout
    return f"nw_dst={address}" in dumped


def test_an_endpoint_that_goes_takes_its_clients_affinity_with_it(shop: ServiceLab) -> None:
    ours = shop.pods("leaving", "node2", "node3")
    shop.apply(shop.service("leaving"), shop.slice("leaving", *map(shop.pod_ip, ours)))
    shop.apply(shop.service("leaving", sessionAffinity="ClientIP"))
    address = shop.address("leaving")
    chosen = reached(shop.lab, CLIENT, address, 80, *ours)[-1].pod
    other = next(name for name in ours if name != chosen)
    shop.apply(shop.slice("leaving", shop.pod_ip(other)))
    reached(shop.lab, CLIENT, address, 80, other)


def test_headless_services_need_nothing(shop: ServiceLab) -> None:
    shop.apply(shop.service("headless", selector="web", clusterIP="None"))
    assert shop.address("headless") == "None"
    for server in SERVERS:
        reached(shop.lab, CLIENT, shop.pod_ip(server), 80, server, count=1)


def test_without_endpoints_it_is_refused_at_once(shop: ServiceLab) -> None:
    both = ({"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"})
    shop.apply(shop.service("empty", *both, selector="nobody"))
    address = shop.address("empty")
    for place in (CLIENT, "shop/client-2", "node1", "node3"):
        for verb in ("tcp", "udp"):
            outcome(shop.lab, place, address, 80, "refused", verb=verb)
            again = call(shop.lab, place, address, 80, verb=verb)
            assert (again.pod, again.seconds < AT_ONCE) == ("refused", True), (place, verb, again)


def test_only_ready_endpoints_get_connections(shop: ServiceLab) -> None:
    ready, other = shop.pods("probe", "node1", "node2")
    shop.apply(shop.service("probe", selector="probe"))
    address = shop.address("probe")
    reached(shop.lab, CLIENT, address, 80, ready, other)
    set_ready(shop, other, "False")
    reached(shop.lab, CLIENT, address, 80, ready)
    set_ready(shop, other, "True")
    eventually(
        lambda: {answer.pod for answer in ask(shop.lab, CLIENT, address, 80, 20)} == {ready, other},
        "both again",
    )


def set_ready(shop: ServiceLab, pod: str, status: str) -> None:
    conditions = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
    name = pod.split("/")[1]
    shop.lab.kubectl(
        "patch", "pod", "-n", shop.namespace, name, "--subresource=status", "-p", json.dumps(conditions)
    )


def test_terminating_endpoints_serve_while_there_is_no_other(shop: ServiceLab) -> None:
    leaving, fresh = (shop.pod_ip(name) for name in SERVERS[:2])
    piece = shop.slice("rolling", leaving)
    piece["endpoints"][0]["conditions"] = {"ready": False, "serving": True, "terminating": True}
    shop.apply(shop.service("rolling"), piece)
    address = shop.address("rolling")
    reached(shop.lab, CLIENT, address, 80, SERVERS[0])
    shop.apply(shop.slice("rolling", fresh, number=1))
    reached(shop.lab, CLIENT, address, 80, SERVERS[1])


def test_a_service_of_this_node_only(shop: ServiceLab) -> None:
    shop.apply(shop.service("local", selector="web", internalTrafficPolicy="Local"))
    address = shop.address("local")
    for client, server in (("shop/client-1", "shop/web-1"), ("shop/client-2", "shop/web-2")):
        reached(shop.lab, client, address, 80, server)


def test_more_than_a_thousand_endpoints(shop: ServiceLab) -> None:
    """Twelve hundred addresses of the outside host, in slices of a hundred."""
    lab, many = shop.lab, [f"198.18.{block}.{number}" for block in range(12) for number in range(1, 101)]
    fabric = f"{lab.home}/netns/fabric"
    with_many = ("ip", "route", "add", "local", "198.18.0.0/20", "dev", "lo")
    lab.exec("outside", *with_many)
    lab.exec(
        "outside",
        "nsenter",
        f"--net={fabric}",
        "ip",
        "route",
        "add",
        "198.18.0.0/20",
        "via",
        outside_address(lab),
    )
    pieces = [
        shop.slice("many", *many[begin : begin + 100], number=begin // 100)
        for begin in range(0, len(many), 100)
    ]
    shop.apply(shop.service("many"), *pieces)
    address = shop.address("many")
    reached(lab, CLIENT, address, 80, "outside")
    eventually(lambda: len(translations(lab)) == len(many), "every endpoint can be chosen")
    answers: list[Heard] = ask(lab, CLIENT, address, 80, 2000)
    assert {answer.pod for answer in answers} == {"outside"}
    shop.apply(shop.slice("many", number=0), *(shop.slice("many", number=number) for number in range(1, 11)))
    eventually(lambda: len(translations(lab)) == 100, "only the last slice's are left")
    reached(lab, CLIENT, address, 80, "outside", count=300)


def translations(lab: Lab) -> set[str]:
    """The endpoints that node1's groups translate to, of those on the outside host."""
    dumped = lab.exec("node1", "ovs-ofctl", "-O", "OpenFlow15", "dump-groups", "br0").stdout
    return set(re.findall(r"nat\(dst=(198\.18\.\d+\.\d+):80\)", dumped))
