"""What a StatefulSet needs beside its pods in the lab: claims, the volumes that they may have, and a node that it may be on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s_ovs.errors import LabError
from k8s_ovs.lab import placing
from k8s_ovs.lab.objects import LabPod, LabPodSpec
from k8s_ovs.lab.workloads import claims, manifests
from k8s_ovs.lab.workloads.spec import parse
from k8s_ovs.sources.kube.objects import ObjectMeta

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MASTER = "node-role.kubernetes.io/control-plane"


def of_etcd(kind: str) -> dict[str, Any]:
    """An object of the manifests' etcd."""
    found = (entry for entry in manifests.load(DEPLOY / "k8s-ovs.yaml") if entry["kind"] == kind)
    chosen = next(entry for entry in found if entry["metadata"]["name"] == "k8s-ovs-etcd")
    chosen["metadata"]["uid"] = "u-1"
    return chosen


def the_claim() -> dict[str, Any]:
    owner = of_etcd("StatefulSet")
    claim = claims.new_claim(owner, owner["spec"]["volumeClaimTemplates"][0], "k8s-ovs-etcd-0")
    claim["metadata"]["uid"] = "c-1"
    return claim


def test_the_pod_of_a_stateful_set_has_its_claim_as_a_volume() -> None:
    spec = of_etcd("StatefulSet")["spec"]
    whole = claims.with_claims(spec["template"]["spec"], spec["volumeClaimTemplates"], "k8s-ovs-etcd-0")
    volumes = parse(whole, "etcd").volumes
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "data-k8s-ovs-etcd-0"}
    assert set(volumes) == {"data", "tls", "tmp"}
    with pytest.raises(LabError, match="volume 'data' is not in the pod's volumes"):
        parse(spec["template"]["spec"], "etcd")


def test_a_claim_goes_with_its_stateful_set_if_that_says_so() -> None:
    assert the_claim()["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    owner = of_etcd("StatefulSet")
    del owner["spec"]["persistentVolumeClaimRetentionPolicy"]
    kept = claims.new_claim(owner, owner["spec"]["volumeClaimTemplates"][0], "k8s-ovs-etcd-0")
    assert "ownerReferences" not in kept["metadata"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"claimRef": {"namespace": "kube-system", "name": "data-k8s-ovs-etcd-0", "uid": "c-1"}}, True),
        ({"claimRef": {"namespace": "kube-system", "name": "data-k8s-ovs-etcd-0", "uid": "former"}}, False),
        ({"claimRef": {"namespace": "default", "name": "data-k8s-ovs-etcd-0"}}, False),
        ({"claimRef": None}, True),
        ({"storageClassName": "other"}, False),
        ({"accessModes": ["ReadOnlyMany"]}, False),
        ({"capacity": {"storage": "2000Mi"}}, False),
        ({"capacity": {"storage": "3Gi"}}, True),
    ],
)
def test_a_claim_gets_only_a_volume_that_fits(changes: dict[str, Any], expected: bool) -> None:
    volume = of_etcd("PersistentVolume")
    volume["spec"] |= changes
    assert claims.fits(volume, the_claim()) is expected


def test_the_lab_reads_from_the_manifests_where_etcd_will_be(tmp_path: Path) -> None:
    assert manifests.etcd_port(DEPLOY / "k8s-ovs.yaml") == 12379
    assert manifests.etcd_port(DEPLOY / "k8s-ovs-own-etcd.yaml") is None
    silent = of_etcd("StatefulSet")
    silent["spec"]["template"]["spec"]["containers"][0]["args"] = ["--name=k8s-ovs"]
    file = tmp_path / "silent.yaml"
    file.write_text(yaml.safe_dump(silent))
    with pytest.raises(LabError, match="no argument --advertise-client-urls"):
        manifests.etcd_port(file)


def test_etcd_goes_to_a_node_of_the_control_plane_and_there_to_the_one_with_its_label() -> None:
    affinity = of_etcd("StatefulSet")["spec"]["template"]["spec"]["affinity"]
    pod = LabPod(metadata=ObjectMeta(name="x"), spec=LabPodSpec(affinity=affinity))
    nodes = {"node1": {MASTER: ""}, "node2": {"k8s-ovs.com/etcd": "true"}, "node3": {MASTER: ""}}
    assert placing.asks_for_labels(pod)
    assert placing.choose(pod, nodes, ["node1", "node2", "node3"]) == "node1"
    assert placing.choose(pod, nodes, ["node2"]) is None
    nodes["node3"]["k8s-ovs.com/etcd"] = ""
    assert placing.choose(pod, nodes, ["node1", "node2", "node3"]) == "node3"


@pytest.mark.parametrize(
    ("operator", "values", "allowed"),
    [
        ("In", ["a"], True),
        ("In", ["b"], False),
        ("NotIn", ["b"], True),
        ("NotIn", ["a"], False),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
    ],
)
def test_what_a_node_is_required_to_have(operator: str, values: list[str] | None, allowed: bool) -> None:
    terms = [{"matchExpressions": [{"key": "x", "operator": operator, "values": values}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    pod = LabPod(metadata=ObjectMeta(name="x"), spec=LabPodSpec(affinity={"nodeAffinity": required}))
    assert placing.allowed(pod, {"x": "a"}) is allowed
