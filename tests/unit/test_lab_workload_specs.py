"""What the lab's workload runner makes of a pod's specification: nothing is skipped, and values are kubelet's."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fakes.lab_cluster import cluster
from k8s_ovs.errors import LabError
from k8s_ovs.lab import placing
from k8s_ovs.lab.objects import LabPod, LabPodSpec
from k8s_ovs.lab.workloads import environment, manifests
from k8s_ovs.lab.workloads.environment import Missing, Sources
from k8s_ovs.lab.workloads.spec import PodSpec, parse
from k8s_ovs.lab.workloads.volumes import Volumes, host_path, write_atomically
from k8s_ovs.sources.kube.objects import ObjectMeta

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
IMAGE = "k8s-ovs/k8s-ovs:1"


def pod(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "hostNetwork": True,
        "containers": [{"name": "c", "image": IMAGE, **(container or {})}],
        **spec,
    }


@pytest.mark.parametrize("file", ["k8s-ovs.yaml", "k8s-ovs-own-etcd.yaml"])
def test_every_template_of_the_manifests_is_understood(file: str) -> None:
    objects = manifests.load(DEPLOY / file)
    manifests.check(objects)
    kinds = {entry["kind"] for entry in objects}
    assert {"DaemonSet", "Deployment", "ConfigMap", "ClusterRole"} <= kinds


def test_the_uninstaller_is_understood() -> None:
    manifests.check(list(yaml.safe_load_all((DEPLOY / "uninstall.yaml").read_text())))


def required(term: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (pod(hostNetwork=False), "hostNetwork"),
        (pod(hostIPC=True), "hostIPC is not known"),
        (pod({"image": "nginx"}), "image 'nginx' is none of this project"),
        (pod({"tty": True}), "tty is not known"),
        (pod({"livenessProbe": {"grpc": {"port": 1}}}), "grpc is not known"),
        (
            pod({"livenessProbe": {}, "readinessProbe": {"periodSeconds": 1}}),
            "one of httpGet, exec and tcpSocket",
        ),
        (pod({"volumeMounts": [{"name": "x", "mountPath": "/x"}]}), "volume 'x' is not in the pod's volumes"),
        (pod(volumes=[{"name": "x", "nfs": {}}]), "nfs is not known"),
        (pod(volumes=[{"name": "x"}]), "must have one source"),
        (pod({"securityContext": {"runAsNonRoot": True}}), "runAsNonRoot"),
        (pod({"securityContext": {"windowsOptions": {}}}), "windowsOptions is not known"),
        (pod(restartPolicy="Never"), "restartPolicy Never"),
        (pod(affinity={"podAffinity": {}}), "podAffinity is not known"),
        (pod(affinity=required({"matchFields": []})), "matchFields is not known"),
        (
            pod(affinity=required({"matchExpressions": [{"key": "x", "operator": "Gt"}]})),
            "operator Gt is not known",
        ),
    ],
)
def test_what_the_lab_cannot_do_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=said):
        parse(spec, "pod x")


RAW = {
    "metadata": {"name": "agent-1", "namespace": "kube-system", "uid": "u", "labels": {"a": "b"}},
    "spec": {"nodeName": "node1"},
}
SOURCES = Sources(
    RAW,
    "100.64.10.11",
    {"config": {"FIRST": "1", "SECOND": "2"}, "gone": None},
    {"secret": {"key": b"s3cret"}},
    ("10.96.0.1", "443"),
)


def env_of(**container: Any) -> dict[str, str]:
    return environment.build(parse(pod(container), "x").containers[0], SOURCES)


def test_the_environment_is_as_kubelet_makes_it() -> None:
    found = env_of(
        envFrom=[{"configMapRef": {"name": "config"}, "prefix": "P_"}, {"configMapRef": {"name": "config"}}],
        env=[
            {"name": "SECOND", "value": "mine"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "key"}}},
            {"name": "URL", "value": "https://$(IP):$(NOTHING)/$$(IP)"},
            {
                "name": "NONE",
                "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "x", "optional": True}},
            },
        ],
    )
    expected = {
        "FIRST": "1",
        "SECOND": "mine",
        "P_SECOND": "2",
        "NODE": "node1",
        "IP": "100.64.10.11",
        "LABEL": "b",
        "KEY": "s3cret",
        "URL": "https://100.64.10.11:$(NOTHING)/$(IP)",
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "NONE" not in found


def test_a_config_map_wins_over_the_service_of_the_api() -> None:
    sources = Sources(RAW, "", {"c": {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}}, {}, ("10.96.0.1", "443"))
    container = parse(pod({"envFrom": [{"configMapRef": {"name": "c"}}]}), "x").containers[0]
    assert environment.build(container, sources)["KUBERNETES_SERVICE_HOST"] == "192.0.2.1"


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"envFrom": [{"configMapRef": {"name": "gone"}}]}, 'configmap "gone" not found'),
        (
            {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "no"}}}]},
            "couldn't find key no in Secret secret",
        ),
    ],
)
def test_what_is_not_there_yet_is_waited_for(container: dict[str, Any], said: str) -> None:
    with pytest.raises(Missing, match=said):
        env_of(**container)


def test_an_unknown_field_of_the_downward_api_is_refused() -> None:
    with pytest.raises(LabError, match=r"status\.phase is not known"):
        env_of(env=[{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}])


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/run/openvswitch", "nodes/node1/ovs"),
        ("/var/run/openvswitch/", "nodes/node1/ovs"),
        ("/etc/cni/net.d", "nodes/node1/net.d"),
        ("/run/netns", "netns"),
        ("/run/k8s-ovs", "nodes/node1/run"),
        ("/opt/cni/bin", "nodes/node1/root/opt/cni/bin"),
        ("/run/openvswitch2", "nodes/node1/root/run/openvswitch2"),
    ],
)
def test_paths_of_a_node_are_the_labs_own(path: str, place: str) -> None:
    lab = cluster()
    assert host_path(lab, lab.node("node1"), path) == lab.directory / place
    assert host_path(lab, lab.node("node1"), "/proc/sys/net") == Path("/proc/sys/net")


CLAIMS = {"data-x-0": {"path": "/var/lib/x", "type": "DirectoryOrCreate"}}


def volumes(tmp_path: Path, spec: PodSpec) -> Volumes:
    lab = cluster(directory=tmp_path)
    return Volumes(lab, lab.node("node1"), tmp_path / "volumes", spec, CLAIMS)


def test_volumes_from_objects_are_renewed_as_a_whole(tmp_path: Path) -> None:
    secret = {"secretName": "secret", "items": [{"key": "key", "path": "sub/file"}], "defaultMode": 0o400}
    spec = parse(pod(volumes=[{"name": "s", "secret": secret}]), "x")
    volumes(tmp_path, spec).refresh(SOURCES)
    file = tmp_path / "volumes" / "s" / "sub" / "file"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("s3cret", 0o400)
    with file.open() as held:
        volumes(tmp_path, spec).refresh(Sources(RAW, "", {}, {"secret": {"key": b"other"}}))
        assert held.read() == "s3cret"
    assert file.read_text() == "other"
    with pytest.raises(Missing, match='secret "secret" not found'):
        volumes(tmp_path, spec).refresh(Sources(RAW, "", {}, {"secret": None}))
    with pytest.raises(Missing, match="references non-existent key: key"):
        volumes(tmp_path, spec).refresh(Sources(RAW, "", {}, {"secret": {}}))


def test_files_that_are_no_more_go(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    assert write_atomically(folder, {"a": (b"1", 0o644), "b": (b"2", 0o644)})
    assert not write_atomically(folder, {"a": (b"1", 0o644), "b": (b"2", 0o644)})
    assert write_atomically(folder, {"a": (b"3", 0o644)})
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("..")) == ["a"]


def test_host_paths_are_checked_by_their_type(tmp_path: Path) -> None:
    mount = {"volumeMounts": [{"name": "h", "mountPath": "/h", "mountPropagation": "HostToContainer"}]}

    def mounts(kind: str) -> Any:
        spec = parse(pod(mount, volumes=[{"name": "h", "hostPath": {"path": "/var/x", "type": kind}}]), "x")
        return volumes(tmp_path, spec).mounts(spec.containers[0])

    with pytest.raises(Missing, match=r"hostPath type check failed: /var/x is not a directory"):
        mounts("Directory")
    first = mounts("DirectoryOrCreate")[0]
    assert (first.at, first.propagates, first.read_only, first.source.is_dir()) == ("/h", True, False, True)
    with pytest.raises(Missing, match="is not a socket"):
        mounts("Socket")


def test_a_claim_is_the_folder_of_its_volume_on_the_node(tmp_path: Path) -> None:
    mount = {"volumeMounts": [{"name": "d", "mountPath": "/data", "readOnly": True}]}
    claim = {"name": "d", "persistentVolumeClaim": {"claimName": "data-x-0"}}
    spec = parse(pod(mount, volumes=[claim]), "x")
    found = volumes(tmp_path, spec).mounts(spec.containers[0])[0]
    assert found.source == host_path(
        cluster(directory=tmp_path), cluster(directory=tmp_path).nodes[0], "/var/lib/x"
    )
    assert (found.at, found.read_only, found.source.is_dir()) == ("/data", True, True)


def scheduled(name: str, **spec: Any) -> LabPod:
    meta = ObjectMeta(name=name, namespace="kube-system", labels={"app": "x"})
    return LabPod(metadata=meta, spec=LabPodSpec(host_network=True, **spec))


def test_pods_that_avoid_each_other_do_not_share_a_node() -> None:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    assert not placing.fits(scheduled("a", affinity=apart), [scheduled("b")])
    assert placing.fits(scheduled("a", affinity=apart), [])
    assert placing.fits(scheduled("a"), [scheduled("b")])


@pytest.mark.parametrize(
    ("toleration", "goes"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "node.kubernetes.io/not-ready", "operator": "Exists"}, True),
        ({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_only_who_tolerates_it_goes_to_a_node_without_network(toleration: dict[str, Any], goes: bool) -> None:
    assert placing.tolerates_not_ready(scheduled("a", tolerations=(toleration,))) is goes
