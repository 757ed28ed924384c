"""What the verbs of the embedded API mean: create, update, patch, status, binding, and bad input."""

import copy
from ipaddress import IPv4Network
from typing import Any

import pytest

from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.registry import Registry, WriteOptions
from k8s_ovs.lab.kubeapi.resources import (
    CONFIG_MAPS,
    ENDPOINTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    Resource,
)
from k8s_ovs.lab.kubeapi.seed import seed
from k8s_ovs.lab.kubeapi.store import Entry, Store

STRICT = WriteOptions(strict=True)
STATUS = WriteOptions(subresource="status")
WEB = ("default", "web")


@pytest.fixture
def registry() -> Registry:
    registry = Registry(Store(), IPv4Network("10.96.0.0/29"))
    seed(registry, None)
    return registry


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "nginx"}], **spec}}


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def change(registry: Registry, entry: Entry, **parts: Any) -> Entry:
    obj = entry.copy()
    for name, value in parts.items():
        obj[name] = {**obj.get(name, {}), **value}
    return registry.update(entry.resource, entry.key, obj)[0]


def test_a_create_sets_what_the_server_owns(registry: Registry) -> None:
    sent = pod()
    sent["status"] = {"phase": "Running"}
    sent["metadata"] |= {
        "uid": "mine",
        "creationTimestamp": None,
        "deletionTimestamp": "2020-01-01T00:00:00Z",
    }
    entry = registry.create(PODS, "default", sent)
    meta = entry.obj["metadata"]
    assert (meta["namespace"], len(meta["uid"]), meta["creationTimestamp"][-1]) == ("default", 36, "Z")
    assert "deletionTimestamp" not in meta
    assert entry.obj["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert entry.obj["spec"]["restartPolicy"] == "Always"
    assert entry.obj["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    with pytest.raises(ApiError) as caught:
        registry.create(PODS, "default", pod())
    assert (caught.value.code, caught.value.message) == (409, 'pods "web" already exists')


def test_generate_name(registry: Registry) -> None:
    names = set()
    for _ in range(5):
        sent = pod()
        sent["metadata"] = {"generateName": "web-"}
        names.add(registry.create(PODS, "default", sent).key[1])
    assert len(names) == 5
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


def test_nodes_keep_the_status_they_come_with(registry: Registry) -> None:
    node = registry.create(NODES, "", {"metadata": {"name": "n"}, "status": {"phase": "x"}})
    assert node.obj["status"] == {"phase": "x"}
    assert node.obj["metadata"]["labels"] == {"kubernetes.io/hostname": "n"}


def test_status_and_object_are_written_apart(registry: Registry) -> None:
    entry = registry.create(PODS, "default", pod())
    running = entry.copy()
    running["status"] = {"phase": "Running", "podIP": "10.1.1.1"}
    running["spec"]["nodeName"] = "elsewhere"
    after, _ = registry.update(PODS, WEB, running, STATUS)
    assert after.obj["status"]["podIP"] == "10.1.1.1"
    assert "nodeName" not in after.obj["spec"]
    again = change(registry, after, status={"phase": "Failed"}, metadata={"labels": {"a": "b"}})
    assert again.obj["status"]["phase"] == "Running"
    assert again.obj["metadata"]["labels"] == {"a": "b"}


def test_optimistic_concurrency(registry: Registry) -> None:
    entry = registry.create(CONFIG_MAPS, "default", {"metadata": {"name": "web"}, "data": {"a": "1"}})
    stale = entry.copy()
    change(registry, entry, data={"a": "2"})
    with pytest.raises(ApiError, match="the object has been modified") as caught:
        registry.update(CONFIG_MAPS, WEB, stale)
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    stale["metadata"].pop("resourceVersion")
    stale["metadata"]["uid"] = "another"
    with pytest.raises(ApiError, match="UID in precondition"):
        registry.update(CONFIG_MAPS, WEB, copy.deepcopy(stale))
    del stale["metadata"]["uid"]
    entry, created = registry.update(CONFIG_MAPS, WEB, stale)
    assert (entry.obj["data"], created) == ({"a": "1"}, False)


def test_a_write_that_changes_nothing_is_no_change(registry: Registry) -> None:
    entry = registry.create(CONFIG_MAPS, "default", {"metadata": {"name": "web"}})
    revision = registry.store.revision
    assert registry.update(CONFIG_MAPS, WEB, entry.copy())[0] is entry
    assert registry.patch(CONFIG_MAPS, WEB, lambda obj: obj) is entry
    empty = {"annotations": {}, "labels": {}, "finalizers": [], "ownerReferences": []}
    named = registry.patch(CONFIG_MAPS, WEB, lambda obj: {**obj, "metadata": {**empty, **obj["metadata"]}})
    assert named is entry, "ObjectMeta leaves out what holds nothing"
    assert registry.store.revision == revision


def test_leases_need_a_revision_and_may_be_made_by_an_update(registry: Registry) -> None:
    lease = {"metadata": {"name": "web"}, "spec": {"holderIdentity": "a"}}
    entry, created = registry.update(LEASES, WEB, copy.deepcopy(lease))
    assert created
    with pytest.raises(ApiError, match="must be specified for an update") as caught:
        registry.update(LEASES, WEB, copy.deepcopy(lease))
    assert caught.value.code == 422
    assert change(registry, entry, spec={"holderIdentity": "b"}).obj["spec"]["holderIdentity"] == "b"
    with pytest.raises(ApiError) as caught:
        registry.update(PODS, ("default", "none"), pod())
    assert caught.value.code == 404


def test_dry_run_leaves_no_trace(registry: Registry) -> None:
    before = registry.store.revision
    entry = registry.create(PODS, "default", pod(), WriteOptions(dry_run=True))
    assert entry.obj["metadata"]["uid"]
    assert (registry.store.revision, registry.store.get(PODS, WEB)) == (before, None)


def test_binding_happens_once(registry: Registry) -> None:
    registry.create(PODS, "default", pod())
    registry.bind(WEB, {"target": {"kind": "Node", "name": "node1"}})
    found = registry.get(PODS, WEB).obj
    assert found["spec"]["nodeName"] == "node1"
    assert found["status"]["conditions"][0]["type"] == "PodScheduled"
    with pytest.raises(ApiError, match='already assigned to node "node1"') as caught:
        registry.bind(WEB, {"target": {"name": "node2"}})
    assert caught.value.code == 409
    with pytest.raises(ApiError, match=r"target.name: Required value"):
        registry.bind(WEB, {"target": {}})


def test_cluster_ips(registry: Registry) -> None:
    assert registry.get(SERVICES, ("default", "kubernetes")).obj["spec"]["clusterIP"] == "10.96.0.1"
    given = [
        registry.create(SERVICES, "default", service(f"s{n}")).obj["spec"]["clusterIP"] for n in range(3)
    ]
    assert given == ["10.96.0.2", "10.96.0.3", "10.96.0.4"]
    registry.store.remove(SERVICES, ("default", "s0"))
    asked = registry.create(SERVICES, "default", service("asked", clusterIP="10.96.0.6"))
    assert asked.obj["spec"]["clusterIPs"] == ["10.96.0.6"]
    spec = registry.create(SERVICES, "default", service("none", clusterIP="None")).obj["spec"]
    assert (spec["clusterIP"], spec["ipFamilies"]) == ("None", ["IPv4"])
    name = registry.create(SERVICES, "default", service("ext", type="ExternalName", externalName="a.b"))
    assert "clusterIP" not in name.obj["spec"]
    assert registry.create(SERVICES, "default", service("s5")).obj["spec"]["clusterIP"] == "10.96.0.5"
    assert registry.create(SERVICES, "default", service("s6")).obj["spec"]["clusterIP"] == "10.96.0.2"
    with pytest.raises(ApiError, match="is full") as caught:
        registry.create(SERVICES, "default", service("more"))
    assert caught.value.code == 500


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.96.0.1", "provided IP is already allocated"),
        ("10.97.0.1", "not in the valid range. The range of valid IPs is 10.96.0.0/29"),
        ("x", "must be empty, 'None', or a valid IP address"),
    ],
)
def test_cluster_ips_that_cannot_be_had(registry: Registry, address: str, message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        registry.create(SERVICES, "default", service(clusterIP=address))
    assert caught.value.code == 422


def test_a_cluster_ip_stays(registry: Registry) -> None:
    entry = registry.create(SERVICES, "default", service())
    spec = change(registry, entry, spec={"clusterIP": "", "clusterIPs": []}).obj["spec"]
    assert spec["clusterIP"] == entry.obj["spec"]["clusterIP"]
    with pytest.raises(ApiError, match="may not change once set"):
        change(registry, entry, spec={"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"]})


def node_ports(entry: Entry) -> list[int]:
    return [port.get("nodePort", 0) for port in entry.obj["spec"]["ports"]]


def test_node_ports_are_given_and_kept(registry: Registry) -> None:
    ports = [{"name": "t", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}]
    entry = registry.create(SERVICES, "default", service("open", type="NodePort", ports=ports))
    assert node_ports(entry) == [30000, 30001]
    again = change(registry, entry, spec={"ports": [ports[1], ports[0], {"name": "new", "port": 81}]})
    assert node_ports(again) == [30001, 30000, 30002]
    closed = change(registry, again, spec={"type": "ClusterIP"})
    assert node_ports(closed) == [0, 0, 0]
    assert node_ports(registry.create(SERVICES, "default", service("plain"))) == [0]


def test_node_ports_may_be_asked_for(registry: Registry) -> None:
    def asked(name: str, number: int, protocol: str = "TCP", kind: str = "NodePort") -> Entry:
        port = {"port": 80, "nodePort": number, "protocol": protocol}
        return registry.create(SERVICES, "default", service(name, type=kind, ports=[port]))

    assert node_ports(asked("a", 30000)) == [30000]
    assert node_ports(asked("b", 30000, "UDP")) == [30000]
    assert node_ports(registry.create(SERVICES, "default", service("c", type="LoadBalancer"))) == [30001]
    for name, number, kind, message in (
        ("d", 30000, "NodePort", "provided port is already allocated"),
        ("e", 80, "NodePort", "The range of valid ports is 30000-32767"),
        ("f", 30009, "ClusterIP", "may not be used when `type` is 'ClusterIP'"),
    ):
        with pytest.raises(ApiError, match=message) as caught:
            asked(name, number, kind=kind)
        assert caught.value.code == 422


def test_pods_hardly_change(registry: Registry) -> None:
    entry = registry.create(PODS, "default", pod())
    entry = change(
        registry, entry, spec={"containers": [{**entry.obj["spec"]["containers"][0], "image": "other"}]}
    )
    assert entry.obj["spec"]["containers"][0]["image"] == "other"
    with pytest.raises(ApiError, match="pod updates may not change fields other than"):
        change(registry, entry, spec={"nodeName": "node1"})


def test_namespaces_must_exist_and_not_be_going(registry: Registry) -> None:
    with pytest.raises(ApiError) as caught:
        registry.create(PODS, "nope", pod())
    assert (caught.value.code, caught.value.message) == (404, 'namespaces "nope" not found')
    entry = registry.create(NAMESPACES, "", {"metadata": {"name": "red"}})
    assert entry.obj["status"] == {"phase": "Active"}
    assert entry.obj["metadata"]["labels"] == {"kubernetes.io/metadata.name": "red"}
    going = entry.copy()
    going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    registry.store.put(NAMESPACES, going)
    with pytest.raises(ApiError, match="because it is being terminated") as caught:
        registry.create(PODS, "red", pod())
    assert caught.value.details["causes"][0]["reason"] == "NamespaceTerminating"


@pytest.mark.parametrize(
    ("resource", "obj", "message"),
    [
        (PODS, {"kind": "Service"}, "the path takes v1 Pod"),
        (PODS, {**pod(), "metadata": {"name": "a", "namespace": "red"}}, "does not match the namespace sent"),
        (
            PODS,
            {**pod(), "metadata": {"name": "a", "resourceVersion": "1"}},
            "should not be set on objects to be",
        ),
        (PODS, {"spec": {"containers": [{"name": "c", "image": "x"}]}}, "name or generateName is required"),
        (
            PODS,
            {**pod(), "metadata": {"name": "Web"}},
            r"metadata.name: Invalid value: \"Web\": a lowercase RFC 1123",
        ),
        (
            PODS,
            {**pod(), "metadata": {"name": "a", "labels": {"a": "-"}}},
            "a valid label must be an empty string or",
        ),
        (
            PODS,
            {**pod(), "metadata": {"name": "a", "labels": {"A/b": "x"}}},
            "metadata.labels: .* prefix part",
        ),
        (
            PODS,
            {**pod(), "metadata": {"name": "a", "annotations": {"": "x"}}},
            "metadata.annotations: .*name part",
        ),
        (
            PODS,
            {**pod(), "metadata": {"labels": {"a": 1}}},
            "metadata.labels.a: must be a string, not a number",
        ),
        (PODS, {**pod(), "metadata": []}, "metadata: must be an object, not a list"),
        (PODS, pod(containers=[]), "spec.containers: Required value"),
        (PODS, pod(containers={}), "spec.containers: must be a list, not an object"),
        (PODS, pod(containers=[{"name": "c"}]), r"spec.containers\[0\].image: Required value"),
        (PODS, pod(containers=[{"image": "c"}]), r"spec.containers\[0\].name: Required value"),
        (PODS, pod(containers=[{"name": "c", "image": "x"}] * 2), r"\[1\].name: Duplicate value: \"c\""),
        (PODS, pod(restartPolicy="x"), 'supported values: "Always", "OnFailure", "Never"'),
        (PODS, pod(terminationGracePeriodSeconds=-1), "must be greater than or equal to 0"),
        (PODS, pod(hostNetwork="yes"), "spec.hostNetwork: must be true or false, not a string"),
        (
            PODS,
            pod(typo=1, containers=[{"name": "c", "image": "x", "port": 1}]),
            'unknown field "spec.containers.0..port", unknown field "spec.typo"',
        ),
        (
            PODS,
            pod(
                containers=[{"name": "c", "image": "x", "ports": [{"containerPort": 70000, "protocol": "X"}]}]
            ),
            r"containerPort: Invalid value: 70000: must be between .* supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            SERVICES,
            {"metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}},
            "a DNS-1035 label must consist",
        ),
        (SERVICES, service(ports=[]), "spec.ports: Required value"),
        (SERVICES, service(type="X"), 'Unsupported value: "X": supported values: "ClusterIP"'),
        (SERVICES, service(ports=[{"port": 0}]), "must be between 1 and 65535"),
        (SERVICES, service(ports=[{}]), r"spec.ports\[0\].port: Required value"),
        (SERVICES, service(ports=[{"port": 1}, {"port": 2}]), r"spec.ports\[0\].name: Required value"),
        (
            SERVICES,
            service(ports=[{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]),
            r"ports\[1\]: Duplicate value",
        ),
        (SERVICES, service(ports=[{"port": 1, "targetPort": "Bad_"}]), "at most 15 lower case alphanumeric"),
        (SERVICES, service(type="ExternalName"), "spec.externalName: Required value"),
        (SERVICES, service(sessionAffinity="x"), 'supported values: "ClientIP", "None"'),
        (
            SERVICES,
            service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}}),
            "must be greater than 0 and up to 86400",
        ),
        (
            ENDPOINTS,
            {"metadata": {"name": "e"}, "subsets": [{}]},
            "must specify `addresses` or `notReadyAddresses`",
        ),
        (
            ENDPOINTS,
            {"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]},
            "may not be in the loopback range",
        ),
        (LEASES, {"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0}}, "must be greater than 0"),
    ],
)
def test_bad_input_gets_a_clear_error(
    registry: Registry, resource: Resource, obj: dict[str, Any], message: str
) -> None:
    before = registry.store.revision
    with pytest.raises(ApiError, match=message) as caught:
        registry.create(resource, "default", copy.deepcopy(obj), STRICT)
    assert caught.value.code in (400, 422)
    assert registry.store.revision == before
    status = caught.value.status()
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", caught.value.code)


def test_all_problems_are_told_at_once(registry: Registry) -> None:
    with pytest.raises(ApiError) as caught:
        registry.create(PODS, "default", {"metadata": {"name": "A"}, "spec": {"containers": [{}]}})
    assert [cause["field"] for cause in caught.value.details["causes"]] == [
        "metadata.name",
        "spec.containers[0].name",
        "spec.containers[0].image",
    ]


def test_unknown_fields_are_dropped_with_a_warning_unless_strict(registry: Registry) -> None:
    warnings: list[str] = []
    entry = registry.create(PODS, "default", pod(typo={"a": 1}), WriteOptions(warnings=warnings))
    assert warnings == ['unknown field "spec.typo"']
    assert "typo" not in entry.obj["spec"]


def test_null_means_unset(registry: Registry) -> None:
    sent = {"metadata": {"name": "a", "labels": {"x": None}, "annotations": None}, "data": None}
    entry = registry.create(CONFIG_MAPS, "default", sent)
    assert entry.obj["metadata"]["labels"] == {"x": ""}
    assert "data" not in entry.obj
    assert "annotations" not in entry.obj["metadata"]


def test_the_endpoints_of_the_api_itself_follow_its_address() -> None:
    registry = Registry(Store(), IPv4Network("10.96.0.0/16"))
    for port in (6443, 6444):
        seed(registry, ("192.0.2.1", port))
        subset = registry.get(ENDPOINTS, ("default", "kubernetes")).obj["subsets"][0]
        assert (subset["addresses"], subset["ports"][0]["port"]) == ([{"ip": "192.0.2.1"}], port)
