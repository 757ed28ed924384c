"""The real kubectl against the embedded API: every command that the lab's users need, with its usual output."""

import json
import subprocess
from typing import Any

import pytest

from fakes.private_kubeapi import KubeApi, wait_for

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: c
    image: nginx
    ports: [{containerPort: 80, name: http}]
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"""


def lines(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.strip().splitlines()]


def run_pod(api: KubeApi, namespace: str, name: str = "web", ip: str = "10.1.0.1") -> None:
    """Do what scheduler and kubelet do: bind the pod to node1 and say that it is ready."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    api.call("POST", f"{path}/binding", {"target": {"kind": "Node", "name": "node1"}})
    status = {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}
    status["containerStatuses"] = [{"name": "c", "ready": True, "restartCount": 0, "state": {"running": {}}}]
    api.call("PATCH", f"{path}/status", {"status": status}, "application/strategic-merge-patch+json")


def test_version_discovery_and_cluster_info(api: KubeApi) -> None:
    assert "Server Version: v1." in api.ok("version")
    resources = lines(api.ok("api-resources", "--no-headers"))
    assert ["pods", "po", "v1", "true", "Pod"] in resources
    assert ["leases", "coordination.k8s.io/v1", "true", "Lease"] in resources
    assert "discovery.k8s.io/v1" in api.ok("api-versions").split()
    assert f"is running at {api.url}" in api.ok("cluster-info").replace("\x1b[0m", "").replace(
        "\x1b[0;33m", ""
    ).replace("\x1b[0;32m", "")


def test_what_exists_from_the_start(api: KubeApi) -> None:
    found = lines(api.ok("get", "namespaces"))
    assert found[0] == ["NAME", "STATUS", "AGE"]
    assert {"default", "kube-system"} <= {row[0] for row in found if row[1] == "Active"}
    assert lines(api.ok("get", "svc", "kubernetes", "--no-headers"))[0][1:5] == [
        "ClusterIP",
        "10.96.0.1",
        "<none>",
        "443/TCP",
    ]


def test_apply_creates_changes_and_leaves(api: KubeApi, namespace: str) -> None:
    apply = ("apply", "-n", namespace, "-f", "-")
    assert api.ok(*apply, stdin=POD + "---" + SERVICE) == "pod/web created\nservice/web created\n"
    assert api.ok(*apply, stdin=POD + "---" + SERVICE) == "pod/web unchanged\nservice/web unchanged\n"
    changed = SERVICE.replace("port: 80,", "port: 81, name: x,").replace(
        "{name: web}", "{name: web, labels: {a: b}}"
    )
    assert api.ok(*apply, stdin=changed) == "service/web configured\n"
    service = json.loads(api.ok("get", "svc", "web", "-n", namespace, "-o", "json"))
    assert [port["port"] for port in service["spec"]["ports"]] == [81]
    assert service["metadata"]["labels"] == {"a": "b"}
    assert api.ok(*apply, stdin=SERVICE) == "service/web configured\n"
    service = json.loads(api.ok("get", "svc", "web", "-n", namespace, "-o", "json"))
    assert "labels" not in service["metadata"]
    assert (
        api.ok(*apply, "--dry-run=server", stdin=POD.replace("web", "dry"))
        == "pod/dry created (server dry run)\n"
    )
    assert "dry" not in api.ok("get", "pods", "-n", namespace)


def test_server_side_apply_is_refused_clearly(api: KubeApi, namespace: str) -> None:
    said = api.refused("apply", "--server-side", "-n", namespace, "-f", "-", stdin=POD)
    assert "use kubectl apply without --server-side" in said


def test_get_in_every_form(api: KubeApi, namespace: str) -> None:
    api.ok("create", "-n", namespace, "-f", "-", stdin=POD)
    run_pod(api, namespace)
    get = ("get", "pods", "-n", namespace)
    assert lines(api.ok(*get))[:1] == [["NAME", "READY", "STATUS", "RESTARTS", "AGE"]]
    assert lines(api.ok(*get, "--no-headers"))[0][:4] == ["web", "1/1", "Running", "0"]
    assert lines(api.ok(*get, "-o", "wide", "--no-headers"))[0][5:] == [
        "10.1.0.1",
        "node1",
        "<none>",
        "<none>",
    ]
    assert api.ok(*get, "-o", "name") == "pod/web\n"
    assert api.ok(*get, "-o", "jsonpath={.items[*].status.podIP}") == "10.1.0.1"
    assert "podIP: 10.1.0.1" in api.ok("get", "pod", "web", "-n", namespace, "-o", "yaml")
    listed = json.loads(api.ok(*get, "-o", "json"))
    assert (listed["items"][0]["kind"], listed["items"][0]["apiVersion"]) == ("Pod", "v1")
    custom = api.ok(*get, "-o", "custom-columns=N:.metadata.name,I:.status.podIP", "--no-headers")
    assert custom.split() == ["web", "10.1.0.1"]
    assert "app=web" in api.ok(*get, "--show-labels")
    assert lines(api.ok(*get, "-L", "app", "--no-headers"))[0][-1] == "web"
    assert lines(api.ok("get", "po", "-A", "--no-headers", "--sort-by=.metadata.name"))[0][-5:-1]
    assert "NotFound" in api.refused("get", "pod", "none", "-n", namespace)
    assert "the server doesn't have a resource type" in api.refused("get", "nonsense")
    assert json.loads(api.ok("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/web"))["kind"] == "Pod"


def test_selectors(api: KubeApi, namespace: str) -> None:
    for name in ("a", "b", "c"):
        api.ok("run", name, "-n", namespace, "--image=x:1", f"--labels=name={name},all=yes")
    run_pod(api, namespace, "b")
    get = ("get", "pods", "-n", namespace, "-o", "name")
    assert api.ok(*get, "-l", "name in (a,c)") == "pod/a\npod/c\n"
    assert api.ok(*get, "-l", "all=yes,name!=a") == "pod/b\npod/c\n"
    assert api.ok(*get, "--field-selector", "spec.nodeName=node1") == "pod/b\n"
    assert api.ok(*get, "--field-selector", "status.phase!=Running,metadata.name!=a") == "pod/c\n"
    assert "field label not supported: spec.foo" in api.refused(*get, "--field-selector", "spec.foo=x")
    assert "unable to parse requirement" in api.refused(*get, "-l", "a b")
    assert api.ok(*get, "--chunk-size=1") == "pod/a\npod/b\npod/c\n"


def test_kubectl_create_of_every_kind(api: KubeApi, namespace: str) -> None:
    made = f"{namespace}-made"
    assert api.ok("create", "namespace", made) == f"namespace/{made} created\n"
    assert api.ok("create", "configmap", "c", "-n", made, "--from-literal=a=b") == "configmap/c created\n"
    assert (
        api.ok("create", "secret", "generic", "s", "-n", made, "--from-literal=a=b") == "secret/s created\n"
    )
    assert api.ok("create", "serviceaccount", "sa", "-n", made) == "serviceaccount/sa created\n"
    assert (
        api.ok("create", "service", "clusterip", "svc", "-n", made, "--tcp=80:81") == "service/svc created\n"
    )
    assert api.ok("get", "configmap", "c", "-n", made, "-o", "jsonpath={.data.a}") == "b"
    assert api.ok("get", "secret", "s", "-n", made, "-o", "jsonpath={.data.a}") == "Yg=="
    assert api.ok("get", "svc", "svc", "-n", made, "-o", "jsonpath={.spec.ports[0].targetPort}") == "81"
    assert "AlreadyExists" in api.refused("create", "namespace", made)
    assert api.ok("run", "web", "-n", made, "--image=x:1", "--port=8080") == "pod/web created\n"
    assert (
        api.ok("expose", "pod", "web", "-n", made, "--port=80", "--target-port=8080")
        == "service/web exposed\n"
    )
    assert api.ok("delete", "namespace", made, "--timeout=20s") == f'namespace "{made}" deleted\n'
    assert "NotFound" in api.refused("get", "namespace", made)


def test_patch_label_annotate_edit(api: KubeApi, namespace: str) -> None:
    api.ok("create", "-n", namespace, "-f", "-", stdin=POD)
    on = ("-n", namespace, "pod/web")
    assert api.ok("patch", *on, "-p", '{"metadata":{"labels":{"one":"1"}}}') == "pod/web patched\n"
    assert (
        api.ok("patch", *on, "-p", '{"metadata":{"labels":{"one":"1"}}}') == "pod/web patched (no change)\n"
    )
    api.ok("patch", *on, "--type=merge", "-p", '{"metadata":{"labels":{"one":null,"two":"2"}}}')
    api.ok("patch", *on, "--type=json", "-p", '[{"op":"add","path":"/metadata/labels/three","value":"3"}]')
    api.ok("patch", *on, "-p", '{"spec":{"containers":[{"name":"c","image":"other:1"}]}}')
    api.ok("patch", *on, "--subresource=status", "--type=merge", "-p", '{"status":{"message":"hello"}}')
    assert api.ok("label", *on, "four=4", "two-") == "pod/web labeled\n"
    assert "--overwrite is false" in api.refused("label", *on, "four=5")
    assert api.ok("annotate", *on, "note=x y") == "pod/web annotated\n"
    pod = json.loads(api.ok("get", *on, "-o", "json"))
    assert pod["metadata"]["labels"] == {"app": "web", "three": "3", "four": "4"}
    assert pod["metadata"]["annotations"] == {"note": "x y"}
    assert (pod["spec"]["containers"][0]["image"], pod["status"]["message"]) == ("other:1", "hello")
    assert "pod updates may not change fields" in api.refused("patch", *on, "-p", '{"spec":{"nodeName":"x"}}')
    replaced = json.dumps(pod | {"metadata": pod["metadata"] | {"labels": {"new": "1"}}})
    assert api.ok("replace", "-f", "-", stdin=replaced) == "pod/web replaced\n"
    assert "the object has been modified" in api.refused("replace", "-f", "-", stdin=replaced)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"name": "Bad_Name"}}, "a lowercase RFC 1123 subdomain must consist of"),
    ({"metadata": {}}, "metadata.name: Required value: name or generateName is required"),
    ({"spec": {"containers": []}}, "spec.containers: Required value"),
    ({"spec": {"containers": [{"name": "c"}]}}, "spec.containers[0].image: Required value"),
    ({"spec": {"containers": [{"name": "c", "image": "x"}], "typo": 1}}, 'unknown field "spec.typo"'),
    ({"metadata": {"name": "x", "namespace": "nowhere"}}, 'namespaces "nowhere" not found'),
]


@pytest.mark.parametrize(("parts", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(api: KubeApi, parts: dict[str, Any], message: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    assert message in api.refused("create", "-f", "-", stdin=json.dumps(pod | parts))


def test_services_get_endpoints(api: KubeApi, namespace: str) -> None:
    api.ok("apply", "-n", namespace, "-f", "-", stdin=POD + "---" + SERVICE)
    run_pod(api, namespace, ip="10.1.7.7")
    get = ("-n", namespace, "--no-headers")
    wait_for(lambda: "10.1.7.7:80" in api.ok("get", "endpoints", "web", *get), "the Endpoints")
    name, kind, ports, addresses, _ = lines(api.ok("get", "endpointslices", *get))[0]
    assert (name.startswith("web-"), kind, ports, addresses) == (True, "IPv4", "80", "10.1.7.7")
    row = lines(api.ok("get", "svc", "web", "-o", "wide", *get))[0]
    assert (row[1], row[4], row[6]) == ("ClusterIP", "80/TCP", "app=web")
    assert "10.1.7.7:80" in api.ok("describe", "svc", "web", "-n", namespace)


def test_nodes_and_leases(api: KubeApi, namespace: str) -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{namespace}"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": {"kubeletVersion": "v1.33.0"},
        },
    }
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l", "namespace": namespace},
        "spec": {"holderIdentity": "me", "renewTime": "2026-01-01T00:00:00.000000Z"},
    }
    for obj in (node, lease):
        api.ok("create", "-f", "-", stdin=json.dumps(obj))
    row = lines(api.ok("get", "node", f"node-{namespace}", "-o", "wide", "--no-headers"))[0]
    assert (row[1], row[4], row[5]) == ("Ready", "v1.33.0", "192.0.2.1")
    assert api.ok("cordon", f"node-{namespace}") == f"node/node-{namespace} cordoned\n"
    assert "Ready,SchedulingDisabled" in api.ok("get", "nodes")
    assert "InternalIP:  192.0.2.1" in api.ok("describe", "node", f"node-{namespace}")
    assert lines(api.ok("get", "lease", "-n", namespace, "--no-headers"))[0][:2] == ["l", "me"]


def test_events_and_describe(api: KubeApi, namespace: str) -> None:
    api.ok("create", "-n", namespace, "-f", "-", stdin=POD)
    uid = api.ok("get", "pod", "web", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "web.", "namespace": namespace},
        "involvedObject": {
            "kind": "Pod",
            "name": "web",
            "namespace": namespace,
            "uid": uid,
            "apiVersion": "v1",
        },
        "reason": "Attached",
        "message": "to the network",
        "type": "Normal",
        "count": 1,
    }
    api.ok("create", "-f", "-", stdin=json.dumps(event))
    described = api.ok("describe", "pod", "web", "-n", namespace)
    assert "Attached" in described
    assert "to the network" in api.ok("get", "events", "-n", namespace)
    assert "to the network" in api.ok("events", "-n", namespace, "--for", "pod/web")


def test_deleting(api: KubeApi, namespace: str) -> None:
    delete = ("delete", "pod", "-n", namespace)
    for name in ("a", "b", "c"):
        api.ok("run", name, "-n", namespace, "--image=x:1")
    api.ok(*delete, "a")
    assert "NotFound" in api.refused(*delete, "a")
    assert api.ok(*delete, "a", "--ignore-not-found") == ""
    run_pod(api, namespace, "b")
    api.ok(*delete, "b", "--wait=false")
    assert lines(api.ok("get", "pod", "b", "-n", namespace, "--no-headers"))[0][2] == "Terminating"
    assert "timed out" in api.refused(*delete, "b", "--timeout=1s")
    api.ok(*delete, "b", "--grace-period=0", "--force")
    api.ok(*delete, "--all")
    assert api.ok("get", "pods", "-n", namespace, "-o", "name") == ""


def test_kubectl_delete_waits_for_the_kubelet(api: KubeApi, namespace: str) -> None:
    api.ok("run", "web", "-n", namespace, "--image=x:1")
    run_pod(api, namespace)
    process = subprocess.Popen(
        api.command("delete", "pod", "web", "-n", namespace), env=api.environment(), stdout=subprocess.DEVNULL
    )
    path = f"/api/v1/namespaces/{namespace}/pods/web"
    try:
        wait_for(lambda: "deletionTimestamp" in api.call("GET", path)["metadata"], "the pod to be marked")
        assert process.poll() is None
        api.call("DELETE", f"{path}?gracePeriodSeconds=0")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_wait(api: KubeApi, namespace: str) -> None:
    api.ok("run", "web", "-n", namespace, "--image=x:1")
    wait = ("wait", "--for=condition=Ready", "pod/web", "-n", namespace)
    assert "timed out waiting for the condition" in api.refused(*wait, "--timeout=0.5s")
    process = subprocess.Popen(
        api.command(*wait, "--timeout=30s"), env=api.environment(), stdout=subprocess.PIPE, text=True
    )
    wait_for(
        lambda: f"/api/v1/namespaces/{namespace}/pods" in api.call("GET", "/lab/faults")["watches"],
        "the watch",
    )
    run_pod(api, namespace)
    assert process.communicate(timeout=20)[0] == "pod/web condition met\n"
    api.ok("wait", "--for=jsonpath={.status.phase}=Running", "pod/web", "-n", namespace, "--timeout=5s")


def test_get_watch(api: KubeApi, namespace: str) -> None:
    command = api.command("get", "pods", "-n", namespace, "-w", "--output-watch-events", "-l", "app=web")
    process = subprocess.Popen(command, env=api.environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        path = f"/api/v1/namespaces/{namespace}/pods"
        wait_for(lambda: path in api.call("GET", "/lab/faults")["watches"], "the watch")
        api.ok("create", "-n", namespace, "-f", "-", stdin=POD)
        run_pod(api, namespace)
        api.ok("delete", "pod", "web", "-n", namespace, "--grace-period=0", "--force")
        seen = [process.stdout.readline().split() for _ in range(5)]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert seen[0][:3] == ["EVENT", "NAME", "READY"]
    assert [(row[0], row[3]) for row in seen[1:]] == [
        ("ADDED", "Pending"),
        ("MODIFIED", "Pending"),
        ("MODIFIED", "Running"),
        ("DELETED", "Running"),
    ]
