"""What kubectl get prints from the embedded API: columns and cells."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k8s_ovs.lab.kubeapi import podtable
from k8s_ovs.lab.kubeapi.durations import age, human
from k8s_ovs.lab.kubeapi.resources import BY_ID, RESOURCES
from k8s_ovs.lab.kubeapi.store import Entry
from k8s_ovs.lab.kubeapi.tables import columns, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (4 * 3600 + 60, "4h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (9 * 86400 + 5000, "9d"),
        (3 * 365 * 86400, "3y"),
        (3 * 365 * 86400 + 86400, "3y1d"),
        (20 * 365 * 86400, "20y"),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    assert human(seconds) == text


def test_ages() -> None:
    then = (datetime.now(UTC) - timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert age(then) == "5h"
    assert [age(None), age(""), age("yesterday")] == ["<unknown>"] * 3


def cells(resource: str, obj: dict[str, Any]) -> dict[str, Any]:
    entry = Entry.build(BY_ID[resource], {"metadata": {"name": "x"}, **obj}, 7)
    made = table(entry.resource, [entry], "None", {})
    names = [definition["name"] for definition in made["columnDefinitions"]]
    return dict(zip(names, made["rows"][0]["cells"], strict=True))


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.id)
def test_every_resource_has_columns_that_bear_an_empty_object(resource: Any) -> None:
    found = cells(resource.id, {})
    assert found["Name"] == "x"
    assert len(found) == len(columns(resource))


def test_what_comes_along_with_a_row() -> None:
    entry = Entry.build(BY_ID["pods"], {"metadata": {"name": "x"}, "spec": {"a": 1}}, 7)
    rows = {
        kind: table(entry.resource, [entry], kind, {})["rows"][0] for kind in ("None", "Metadata", "Object")
    }
    assert "object" not in rows["None"]
    assert rows["Metadata"]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "x", "resourceVersion": "7"},
    }
    assert rows["Object"]["object"]["spec"] == {"a": 1}
    assert table(entry.resource, [], "None", {}, header=False)["columnDefinitions"] is None


def test_nodes() -> None:
    found = cells(
        "nodes",
        {
            "metadata": {
                "name": "x",
                "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "db"},
            },
            "spec": {"unschedulable": True},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "Debian"},
            },
        },
    )
    assert (found["Status"], found["Roles"], found["Version"]) == (
        "Ready,SchedulingDisabled",
        "db,worker",
        "v1.33.0",
    )
    assert (found["Internal-IP"], found["External-IP"], found["OS-Image"]) == ("10.0.0.1", "<none>", "Debian")
    assert (
        cells("nodes", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})["Status"]
        == "NotReady"
    )
    assert cells("nodes", {})["Status"] == "Unknown"


@pytest.mark.parametrize(
    ("spec", "status", "external", "ports"),
    [
        ({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}, {}, "<none>", "80/TCP,53/UDP"),
        ({"type": "ExternalName", "externalName": "a.b"}, {}, "a.b", "<none>"),
        (
            {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30000}]},
            {},
            "<pending>",
            "80:30000/TCP",
        ),
        ({"type": "LoadBalancer"}, {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}, "1.2.3.4", "<none>"),
        ({"externalIPs": ["1.1.1.1", "2.2.2.2"]}, {}, "1.1.1.1,2.2.2.2", "<none>"),
    ],
)
def test_services(spec: dict[str, Any], status: dict[str, Any], external: str, ports: str) -> None:
    found = cells("services", {"spec": spec | {"selector": {"b": "2", "a": "1"}}, "status": status})
    assert (found["External-IP"], found["Port(s)"], found["Selector"]) == (external, ports, "a=1,b=2")


def test_endpoints_and_slices_show_the_first_few() -> None:
    addresses = [{"ip": f"10.0.0.{n}"} for n in range(1, 6)]
    found = cells("endpoints", {"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]})
    assert found["Endpoints"] == "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
    slice_ = {"endpoints": [{"addresses": [a["ip"]]} for a in addresses[:2]], "ports": [{"port": 80}]}
    found = cells("discovery.k8s.io/endpointslices", slice_)
    assert (found["Endpoints"], found["Ports"]) == ("10.0.0.1,10.0.0.2", "80")
    assert cells("discovery.k8s.io/endpointslices", {"endpoints": None, "ports": None})["Ports"] == "<unset>"


def test_events() -> None:
    found = cells(
        "events",
        {
            "involvedObject": {"kind": "Pod", "name": "web"},
            "type": "Normal",
            "reason": "Pulled",
            "message": " done\n",
            "count": 3,
            "source": {"component": "kubelet", "host": "node1"},
        },
    )
    assert (found["Object"], found["Message"], found["Count"], found["Source"]) == (
        "pod/web",
        "done",
        3,
        "kubelet, node1",
    )


def running(**more: Any) -> dict[str, Any]:
    return {"ready": True, "state": {"running": {}}, "restartCount": 0, **more}


def pod(*statuses: dict[str, Any], phase: str = "Running", **more: Any) -> dict[str, Any]:
    containers = [{"name": str(number)} for number, _ in enumerate(statuses)]
    status = {"phase": phase, "containerStatuses": list(statuses), **more}
    return {"metadata": {}, "spec": {"containers": containers}, "status": status}


def waiting(reason: str) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason}}}


def ended(**state: Any) -> dict[str, Any]:
    return {"state": {"terminated": state}}


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (pod(running()), "Running"),
        (pod(phase="Pending"), "Pending"),
        (pod(waiting("CrashLoopBackOff"), running()), "CrashLoopBackOff"),
        (pod(ended(reason="OOMKilled")), "OOMKilled"),
        (pod(ended(signal=9)), "Signal:9"),
        (pod(ended(exitCode=3)), "ExitCode:3"),
        (pod(ended(reason="Completed"), running()), "NotReady"),
        (
            pod(ended(reason="Completed"), running(), conditions=[{"type": "Ready", "status": "True"}]),
            "Running",
        ),
        (pod(ended(reason="Completed"), phase="Succeeded"), "Completed"),
        (pod(phase="Failed", reason="Evicted"), "Evicted"),
        (pod(phase="Pending", initContainerStatuses=[waiting("PodInitializing")]), "Init:0/1"),
        (
            pod(phase="Pending", initContainerStatuses=[ended(exitCode=0), waiting("ImagePull")]),
            "Init:ImagePull",
        ),
        (pod(phase="Pending", initContainerStatuses=[ended(exitCode=2)]), "Init:ExitCode:2"),
        (pod(running()) | {"metadata": {"deletionTimestamp": "x"}}, "Terminating"),
        (pod(phase="Failed") | {"metadata": {"deletionTimestamp": "x"}}, "Failed"),
        (pod(reason="NodeLost") | {"metadata": {"deletionTimestamp": "x"}}, "Unknown"),
    ],
)
def test_the_status_of_pods(obj: dict[str, Any], text: str) -> None:
    obj["spec"]["initContainers"] = [{}] * len(obj["status"].get("initContainerStatuses", []))
    assert podtable.status(obj) == text


def test_ready_restarts_and_gates_of_pods() -> None:
    finished = (datetime.now(UTC) - timedelta(minutes=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    obj = pod(
        running(restartCount=2, lastState={"terminated": {"finishedAt": finished}}),
        running(ready=False),
        conditions=[{"type": "gate", "status": "True"}],
    )
    assert (podtable.ready(obj), podtable.restarts(obj).startswith("2 (3m")) == ("1/2", True)
    assert podtable.restarts(pod(running(restartCount=1))) == "1"
    assert podtable.gates(obj) == "<none>"
    obj["spec"]["readinessGates"] = [{"conditionType": "gate"}, {"conditionType": "other"}]
    assert podtable.gates(obj) == "1/2"
