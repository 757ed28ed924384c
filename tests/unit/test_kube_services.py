"""From the API's Services and EndpointSlices to the model's: what counts, what null means, what is left out."""

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from k8s_ovs.model.services import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from k8s_ovs.sources.kube import services
from k8s_ovs.sources.kube.codec import Codec, Malformed
from k8s_ovs.sources.kube.objects import ENDPOINT_SLICES, SERVICES
from k8s_ovs.sources.kube.services import Converted


def service(
    spec: dict[str, Any], *, labels: object = None, status: object = None
) -> tuple[Service, list[str]]:
    body = {"metadata": {"namespace": "red", "name": "web", "labels": labels}, "spec": spec}
    found = Codec(SERVICES).object(json.dumps(body | ({"status": status} if status else {})).encode())
    assert not isinstance(found, Malformed), found
    made = services.service(found)
    assert made.value is not None
    return made.value, [str(problem) for problem in made.problems]


def slice_(**body: Any) -> Converted[EndpointSlice]:
    meta = {
        "namespace": "red",
        "name": "web-x",
        "labels": {services.SERVICE_NAME: "web"},
        **body.pop("metadata", {}),
    }
    found = Codec(ENDPOINT_SLICES).object(
        json.dumps({"metadata": meta, "addressType": "IPv4", **body}).encode()
    )
    assert not isinstance(found, Malformed), found
    return services.endpoint_slice(found)


def test_a_service_with_all_that_it_can_have() -> None:
    made, problems = service(
        {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.7",
            "clusterIPs": ["10.96.0.7", "fd00::7"],
            "externalIPs": ["192.0.2.80", "10.96.0.7"],
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30080},
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
                {"name": "sig", "protocol": "SCTP", "port": 99},
            ],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 17}},
            "internalTrafficPolicy": "Local",
        },
        status={
            "loadBalancer": {
                "ingress": [
                    {"ip": "192.0.2.90", "ipMode": "VIP"},
                    {"ip": "192.0.2.91", "ipMode": "Proxy"},
                    {"hostname": "lb.example"},
                    {"ip": "fd00::9"},
                ]
            }
        },
    )
    assert problems == []
    assert made == Service(
        namespace="red",
        name="web",
        addresses=(IPv4Address("10.96.0.7"), IPv4Address("192.0.2.80"), IPv4Address("192.0.2.90")),
        ports=(
            ServicePort("http", Protocol.TCP, 80, 30080),
            ServicePort("dns", Protocol.UDP, 53),
            ServicePort("sig", Protocol.SCTP, 99),
        ),
        affinity=17,
        local_only=True,
    )


@pytest.mark.parametrize(
    ("spec", "labels"),
    [
        ({"clusterIP": "None", "clusterIPs": ["None"], "externalIPs": ["192.0.2.80"]}, None),
        ({"type": "ExternalName", "externalName": "db.example", "clusterIP": ""}, None),
        ({"clusterIP": "10.96.0.7"}, {services.OTHER_PROXY: "mesh"}),
        ({}, None),
    ],
)
def test_what_nothing_of_ours_serves_has_no_address(
    spec: dict[str, Any], labels: dict[str, str] | None
) -> None:
    made, problems = service(spec, labels=labels)
    assert made.addresses == ()
    assert problems == []


def test_nulls_are_read_as_defaults() -> None:
    nothing = {
        "type": None,
        "clusterIP": "10.96.0.7",
        "clusterIPs": None,
        "externalIPs": None,
        "ports": [{"name": None, "protocol": None, "port": 80, "nodePort": None}],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": None}},
        "internalTrafficPolicy": None,
    }
    made, problems = service(nothing, status={"loadBalancer": {"ingress": None}})
    assert problems == []
    assert made.ports == (ServicePort("", Protocol.TCP, 80),)
    assert made.addresses == (IPv4Address("10.96.0.7"),)
    assert (made.affinity, made.local_only) == (10800, False)
    assert service({"clusterIP": "10.96.0.7", "ports": None, "sessionAffinity": "None"})[0].affinity is None


def test_bad_parts_of_a_service_are_left_out_and_told_and_the_others_stay() -> None:
    made, problems = service(
        {
            "clusterIP": "10.96.0.7",
            "externalIPs": ["127.0.0.1", "somewhere"],
            "ports": [
                {"name": "good", "port": 80},
                {"name": "none", "port": 0},
                {"name": "odd", "protocol": "QUIC", "port": 443},
                {"name": "far", "port": 81, "nodePort": 70000},
            ],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
        }
    )
    assert made.addresses == (IPv4Address("10.96.0.7"),)
    assert [port.name for port in made.ports] == ["good", "far"]
    assert made.ports[1].node_port == 0
    assert made.affinity == 10800
    assert len(problems) == 6
    assert all(problem.startswith("Service red/web: ") for problem in problems)
    assert "Service red/web: protocol of port odd is 'QUIC': use one of TCP, UDP, SCTP" in problems


def test_a_slice() -> None:
    made = slice_(
        ports=[{"name": "http", "protocol": "TCP", "port": 8080}, {"name": None, "port": 53}, {"port": None}],
        endpoints=[
            {"addresses": ["172.11.0.2"], "conditions": {"ready": True}, "nodeName": "node1"},
            {"addresses": ["172.11.0.3", "172.11.0.9"], "conditions": None},
            {
                "addresses": ["172.11.0.4"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
            },
            {"addresses": ["172.11.0.5"], "conditions": {"ready": False}},
            {"addresses": None},
        ],
    )
    assert made.problems == ()
    assert made.value == EndpointSlice(
        namespace="red",
        name="web-x",
        service="web",
        ports=(EndpointPort("http", Protocol.TCP, 8080), EndpointPort("", Protocol.TCP, 53)),
        endpoints=(
            Endpoint(IPv4Address("172.11.0.2"), node="node1"),
            Endpoint(IPv4Address("172.11.0.3")),
            Endpoint(IPv4Address("172.11.0.4"), ready=False, serving=True, terminating=True),
            Endpoint(IPv4Address("172.11.0.5"), ready=False, serving=False),
        ),
    )


def test_a_slice_of_no_service_or_of_another_family_is_none_of_ours() -> None:
    assert slice_(metadata={"labels": None}).value is None
    assert slice_(addressType="IPv6", endpoints=[{"addresses": ["fd00::1"]}]).value is None
    assert slice_(addressType="FQDN", endpoints=[{"addresses": ["a.example"]}]).value is None


def test_null_endpoints_and_ports_are_none() -> None:
    made = slice_(endpoints=None, ports=None)
    assert made.value is not None
    assert (made.value.endpoints, made.value.ports) == ((), ())


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "172.11.0.300", "web"]
)
def test_an_endpoint_that_is_no_place_to_go_is_left_out(address: str) -> None:
    made = slice_(endpoints=[{"addresses": [address]}, {"addresses": ["172.11.0.2"]}])
    assert made.value is not None
    assert [endpoint.address for endpoint in made.value.endpoints] == [IPv4Address("172.11.0.2")]
    assert [problem.key for problem in made.problems] == ["EndpointSlice red/web-x"]
