import json
from pathlib import Path

import msgspec
import pytest

from fakes.lab_cluster import cluster
from k8s_ovs.errors import LabError
from k8s_ovs.lab import objects, placing
from k8s_ovs.lab.cniexec import SandboxArgs, address_of, load_conflist, plugin_conf
from k8s_ovs.lab.objects import LabPod

ARGS = SandboxArgs(
    sandbox="0123", netns=Path("/netns/x"), namespace="red", name="web", uid="u-1", ports=[{"hostPort": 80}]
)
CONFLIST = {"cniVersion": "1.1.0", "name": "net", "plugins": []}


def pod(**spec: object) -> LabPod:
    return msgspec.convert(
        {"metadata": {"name": "web", "namespace": "red", "uid": "u-1"}, "spec": spec}, type=LabPod
    )


def container(*ports: int, **more: object) -> dict[str, object]:
    return {"name": "c", "image": "i", "ports": [{"containerPort": port, **more} for port in ports]}


def test_the_first_file_in_the_order_of_names_counts(tmp_path: Path) -> None:
    assert load_conflist(tmp_path) is None
    (tmp_path / "80-b.conflist").write_text(json.dumps({"name": "b", "cniVersion": "1.1.0", "plugins": []}))
    (tmp_path / "10-a.txt").write_text("not a configuration")
    found = load_conflist(tmp_path)
    assert found is not None
    assert found["name"] == "b"
    (tmp_path / "10-a.conf").write_text(json.dumps({"name": "a", "cniVersion": "0.4.0", "type": "k8s-ovs"}))
    found = load_conflist(tmp_path)
    assert found is not None
    assert (found["name"], found["cniVersion"], len(found["plugins"])) == ("a", "0.4.0", 1)


def test_a_plugin_gets_name_version_and_the_result_before_it() -> None:
    conf = plugin_conf(CONFLIST, {"type": "k8s-ovs", "socket": "/s"}, ARGS, None)
    assert conf == {"type": "k8s-ovs", "socket": "/s", "name": "net", "cniVersion": "1.1.0"}
    assert plugin_conf(CONFLIST, {"type": "x"}, ARGS, {"ips": []})["prevResult"] == {"ips": []}


def test_host_ports_go_only_to_plugins_that_declare_the_capability() -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    conf = plugin_conf(CONFLIST, portmap, ARGS, None)
    assert conf["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert "capabilities" not in conf
    assert "runtimeConfig" not in plugin_conf(CONFLIST, {"type": "k8s-ovs"}, ARGS, None)


def test_the_environment_is_the_one_of_the_specification() -> None:
    environment = ARGS.environment("ADD", Path("/bin-dir"))
    assert environment["CNI_COMMAND"] == "ADD"
    assert environment["CNI_CONTAINERID"] == "0123"
    assert environment["CNI_NETNS"] == "/netns/x"
    assert environment["CNI_IFNAME"] == "eth0"
    assert environment["CNI_PATH"] == "/bin-dir"
    pairs = dict(pair.split("=") for pair in environment["CNI_ARGS"].split(";"))
    assert pairs["K8S_POD_NAMESPACE"] == "red"
    assert pairs["K8S_POD_NAME"] == "web"
    assert pairs["K8S_POD_UID"] == "u-1"


def test_the_address_of_a_result() -> None:
    assert address_of({"ips": [{"address": "fd00::1/64"}, {"address": "10.0.0.2/24"}]}) == "10.0.0.2"
    for result in ({}, {"ips": None}, {"ips": [{"address": "fd00::1/64"}]}):
        with pytest.raises(LabError):
            address_of(result)


def test_a_pod_serves_the_ports_that_it_names_else_80_and_8080() -> None:
    assert pod().serve_ports() == [80, 8080]
    assert pod(containers=[{"name": "c"}]).serve_ports() == [80, 8080]
    assert pod(containers=[container(9000, 53), container(53, protocol="UDP")]).serve_ports() == [53, 9000]


def test_host_ports_in_the_form_of_the_capability() -> None:
    assert pod(containers=[container(80)]).port_mappings() == []
    mappings = pod(containers=[container(80, hostPort=8000, protocol="UDP")]).port_mappings()
    assert mappings == [{"hostPort": 8000, "containerPort": 80, "protocol": "udp", "hostIP": ""}]


def test_pods_go_to_the_first_node_in_turn_that_fits() -> None:
    nodes = {name: {objects.HOSTNAME_LABEL: name} for name in ("node1", "node2", "node3")}
    assert placing.choose(pod(), nodes, ["node2", "node3", "node1"]) == "node2"
    picky = pod(nodeSelector={objects.HOSTNAME_LABEL: "node3"})
    assert placing.choose(picky, nodes, ["node1", "node2", "node3"]) == "node3"
    assert placing.choose(picky, nodes, ["node1", "node2"]) is None
    assert placing.choose(pod(), nodes, []) is None


@pytest.mark.parametrize("ready", [True, False])
def test_a_node_says_whether_it_is_ready_and_where_it_is(ready: bool) -> None:
    body = objects.node_object(cluster().nodes[0], ready=ready)
    conditions = {condition["type"]: condition["status"] for condition in body["status"]["conditions"]}
    assert conditions["Ready"] == str(ready)
    assert {"type": "InternalIP", "address": "100.64.10.11"} in body["status"]["addresses"]
    assert body["metadata"]["labels"][objects.HOSTNAME_LABEL] == "node1"


def test_a_running_pod_has_address_and_ready_containers() -> None:
    status = objects.running_status(pod(containers=[container(80)]), cluster().nodes[0], "10.0.0.2", "0123")
    assert (status["phase"], status["podIP"], status["hostIP"]) == ("Running", "10.0.0.2", "100.64.10.11")
    assert {"type": "Ready", "status": "True"}.items() <= status["conditions"][2].items()
    assert [entry["ready"] for entry in status["containerStatuses"]] == [True]


def test_a_waiting_pod_is_not_ready() -> None:
    status = objects.waiting_status(pod(containers=[container(80)]), cluster().nodes[0], "no agent")
    assert status["phase"] == "Pending"
    waiting = status["containerStatuses"][0]["state"]["waiting"]
    assert waiting == {"reason": "ContainerCreating", "message": "no agent"}
