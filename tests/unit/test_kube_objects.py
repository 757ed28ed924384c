"""What is read of API objects, one at a time, and how bytes of a watch become lines."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.sources.kube.codec import Codec, Identity, LineSplitter, Malformed, identity
from k8s_ovs.sources.kube.objects import LEASES, NAMESPACES, NODES, PODS, Lease, Node, Pod


def pod(**status: Any) -> bytes:
    containers = [
        {"name": "a", "ports": None},
        {"name": "b", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]},
    ]
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web",
                "namespace": "red",
                "labels": None,
                "managedFields": [{"manager": "x"}],
            },
            "spec": {"nodeName": "n1", "hostNetwork": True, "containers": containers, "volumes": None},
            "status": status,
        }
    ).encode()


def test_a_pod() -> None:
    found = Codec(PODS).object(
        pod(
            phase="Running", podIP="10.1.0.5", podIPs=[{"ip": "10.1.0.5"}], hostIP="10.0.0.1", conditions=None
        )
    )
    assert isinstance(found, Pod)
    assert found.key == ("red", "web")
    assert (found.spec.node_name, found.spec.host_network) == ("n1", True)
    assert [(port.container_port, port.protocol) for port in found.ports()] == [(80, "TCP"), (53, "UDP")]
    assert (found.status.pod_ip, found.status.host_ip) == ("10.1.0.5", "10.0.0.1")
    assert [entry.ip for entry in found.status.pod_ips or ()] == ["10.1.0.5"]
    assert (found.finished, found.ready) == (False, False)


def test_a_finished_pod_and_a_ready_one() -> None:
    done, ready = (
        Codec(PODS).object(pod(phase="Succeeded")),
        Codec(PODS).object(pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}])),
    )
    assert isinstance(done, Pod)
    assert done.finished
    assert isinstance(ready, Pod)
    assert ready.ready


def test_null_lists_are_read() -> None:
    body = b'{"metadata":{"name":"n"},"status":{"addresses":null,"conditions":null}}'
    node = Codec(NODES).object(body)
    assert isinstance(node, Node)
    assert list(node.addresses()) == []
    assert not node.ready


def test_names_that_camel_case_would_break_survive_the_round_trip() -> None:
    found = Codec(PODS).object(pod(podIP="10.1.0.5", hostIP="10.0.0.1"))
    again = json.loads(msgspec.json.encode(found))
    assert again["status"] == {"podIP": "10.1.0.5", "hostIP": "10.0.0.1"}


def test_a_lease_keeps_what_an_update_would_otherwise_lose() -> None:
    meta = {
        "name": "l",
        "namespace": "kube-system",
        "resourceVersion": "4",
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "finalizers": ["f"],
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": False}
        ],
    }
    found = Codec(LEASES).object(json.dumps({"metadata": meta, "spec": {"leaseTransitions": 0}}).encode())
    assert isinstance(found, Lease)
    assert json.loads(msgspec.json.encode(found)) == {"metadata": meta, "spec": {"leaseTransitions": 0}}


def test_paths() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert (
        PODS.path(namespace="red", name="web", subresource="status")
        == "/api/v1/namespaces/red/pods/web/status"
    )
    assert NAMESPACES.path(namespace="red", name="red") == "/api/v1/namespaces/red"
    assert LEASES.path(namespace="x") == "/apis/coordination.k8s.io/v1/namespaces/x/leases"
    assert (PODS.api_version, LEASES.api_version) == ("v1", "coordination.k8s.io/v1")


def test_a_malformed_object_keeps_as_much_identity_as_there_is() -> None:
    half = Codec(PODS).object(
        b'{"metadata":{"name":"web","namespace":"red","resourceVersion":"7","labels":3}}'
    )
    assert isinstance(half, Malformed)
    assert half.identity == Identity("red", "web", "7")
    assert "Pod red/web: Expected `object | null`, got `int` - at `$.metadata.labels`" in str(half.error)
    nothing = Codec(PODS).object(b'{"metadata":[]}')
    assert isinstance(nothing, Malformed)
    assert nothing.identity.key == ("", "")
    assert identity(b"17") is None


@given(
    st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"").strip()), max_size=8), st.data()
)
def test_lines_come_out_as_they_went_in_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in lines) + b"unfinished"
    splitter = LineSplitter()
    found: list[bytes] = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        found += splitter.feed(whole[:size])
        whole = whole[size:]
    assert found == [line for line in lines if line]
