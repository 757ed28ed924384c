"""The etcd of the manifests, as its StatefulSet says: who gets in, what a restart keeps, and where it will not start.

One lab without agents; the tests are etcd's life, in order.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fakes.labs import Lab, eventually, running_lab
from k8s_ovs.lab.namespaces import inside
from k8s_ovs.lab.places import find
from k8s_ovs.lab.state import load_cluster

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.etcd, pytest.mark.timeout(300)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SYSTEM = ("-n", "kube-system")
POD = "k8s-ovs-etcd-0"
DATA = Path("root/var/lib/k8s-ovs/etcd")
"""Where a node of the lab keeps /var/lib/k8s-ovs/etcd."""
LABELS = ("node-role.kubernetes.io/control-plane", "k8s-ovs.com/etcd")
WITHOUT_CERTIFICATE = ("env", "-u", "ETCDCTL_CERT", "-u", "ETCDCTL_KEY")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes, and on the first one etcd; of the manifests nothing else is applied."""
    with running_lab("--bare", "--from-manifests", str(DEPLOY / "k8s-ovs.yaml"), nodes=2) as lab:
        apply(lab)
        lab.kubectl(*SYSTEM, "rollout", "status", "statefulset/k8s-ovs-etcd", "--timeout=60s")
        yield lab


def apply(lab: Lab) -> None:
    """`kubectl apply` of what etcd needs."""
    parts = ("etcd", "config")
    objects = [
        entry
        for entry in yaml.safe_load_all((lab.home / "manifests.yaml").read_text())
        if entry["metadata"]["labels"]["app.kubernetes.io/component"] in parts
    ]
    lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def show(lab: Lab, what: str, path: str) -> str:
    """A field of an object in kube-system."""
    return lab.kubectl(*SYSTEM, "get", what, "-o", f"jsonpath={path}")


def endpoint(lab: Lab) -> str:
    """Where etcd is, as agents and controllers read it."""
    return show(lab, "configmap/k8s-ovs-etcd", "{.data.K8S_OVS_ETCD_ENDPOINTS}")


def recreate(lab: Lab) -> None:
    """Delete the pod; the StatefulSet makes another."""
    lab.kubectl(*SYSTEM, "delete", "pod", POD)


def is_ready(lab: Lab, node: str) -> bool:
    """Whether a pod that is not about to end is ready on this node."""
    pods = json.loads(lab.kubectl(*SYSTEM, "get", "pods", "-o", "json"))["items"]
    return any(
        pod["spec"].get("nodeName") == node
        and "deletionTimestamp" not in pod["metadata"]
        and any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in pod.get("status", {}).get("conditions", ())
        )
        for pod in pods
    )


def move(lab: Lab, source: str, target: str) -> None:
    """Have the pod go from one node to the other."""
    lab.kubectl("label", "node", target, *(f"{label}=true" for label in LABELS), "--overwrite")
    lab.kubectl("label", "node", source, f"{LABELS[1]}-")
    recreate(lab)


def connects(lab: Lab, place: str, address: str, port: int) -> bool:
    """Whether anybody listens there for that place."""

    def connect() -> bool:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    return inside(find(load_cluster(lab.home.parent, lab.name), place).netns, connect)


def test_it_serves_where_the_config_map_says_with_the_rights_and_the_volume_of_its_manifest(lab: Lab) -> None:
    address = lab.address("node1")
    assert endpoint(lab) == f"https://{address}:12379"
    assert show(lab, f"pod/{POD}", "{.spec.nodeName}") == "node1"
    assert show(lab, "persistentvolumeclaim/data-k8s-ovs-etcd-0", "{.spec.volumeName}") == "k8s-ovs-etcd"
    assert (lab.directory("node1") / DATA / "member").is_dir()
    lab.exec("node2", "etcdctl", "put", "from", "node2")
    lab.exec("node1", "etcdctl", "put", "/k8s.ovs.com/x", "node1")
    assert lab.exec("control", "etcdctl", "get", "from").stdout == "from\nnode2\n"
    assert lab.etcdctl("get", "from") == "from\nnode2\n", "in the operator's shell"
    assert lab.kubectl(*SYSTEM, "get", "events", "--no-headers").strip() == ""


def test_nobody_gets_in_without_a_certificate_and_its_other_ports_are_the_nodes_own(lab: Lab) -> None:
    refused = lab.exec(
        "node2", *WITHOUT_CERTIFICATE, "etcdctl", "--command-timeout=1s", "get", "from", check=False
    )
    assert refused.returncode != 0
    assert "bad certificate" in refused.stderr + refused.stdout
    assert lab.get("node1", "/health", 12381)[0] == 200
    address = lab.address("node1")
    assert connects(lab, "node2", address, 12379)
    assert not connects(lab, "node2", address, 12381)
    assert not connects(lab, "node2", address, 12380)


def test_while_the_api_server_is_away_etcd_starts_again_with_the_certificates_that_it_has(lab: Lab) -> None:
    before = lab.pids()
    lab.lab("stop", "apiserver")
    lab.lab("stop", "node1/etcd", "node1/tls-renewal", "--kill")
    lab.lab("start", "node1/etcd", "node1/tls-renewal")
    eventually(
        lambda: lab.exec("node2", "etcdctl", "get", "from", check=False).stdout == "from\nnode2\n", "etcd"
    )
    assert lab.pid("node1/etcd") not in (None, before["node1/etcd"])
    eventually(lambda: "no answer" in lab.log("node1/tls-renewal"), "the sidecar to tell of the API server")
    lab.lab("start", "apiserver")
    eventually(lambda: lab.kubectl("get", "--raw", "/readyz", check=False) == "ok", "the API server")
    assert lab.pid("node1/tls-renewal") is not None


def test_a_new_pod_waits_for_its_rights_and_then_keeps_data_and_certificates(lab: Lab) -> None:
    before = show(lab, "secret/k8s-ovs-etcd-tls", "{.metadata.resourceVersion}")
    lab.kubectl(*SYSTEM, "delete", "rolebinding", "k8s-ovs-etcd")
    recreate(lab)
    eventually(lambda: "k8s-ovs-etcd-ca" in lab.log("node1/tls").rpartition("wrote")[2], "a refusal")
    assert "system:serviceaccount:kube-system:k8s-ovs-etcd" in lab.log("node1/tls")
    apply(lab)
    eventually(lambda: is_ready(lab, "node1"), "etcd to be ready")
    assert lab.etcdctl("get", "from") == "from\nnode2\n"
    assert show(lab, "secret/k8s-ovs-etcd-tls", "{.metadata.resourceVersion}") == before
    assert lab.log("node1/tls").endswith("certificates are in order\n")


def test_on_another_node_it_does_not_start_with_nothing(lab: Lab) -> None:
    at_home = endpoint(lab)
    move(lab, "node1", "node2")
    eventually(lambda: f"etcd's data is at {at_home}" in lab.log("node2/only-at-home"), "a refusal")
    assert not (lab.directory("node2") / DATA / "member").exists()
    assert endpoint(lab) == at_home
    move(lab, "node2", "node1")
    eventually(lambda: is_ready(lab, "node1"), "etcd to be ready at home")
    assert lab.etcdctl("get", "from") == "from\nnode2\n"


def test_it_starts_on_another_node_with_a_backup_and_clients_are_told(lab: Lab, tmp_path: Path) -> None:
    lab.etcdctl("snapshot", "save", str(tmp_path / "backup.db"))
    move(lab, "node1", "node2")
    place = lab.directory("node2") / DATA
    eventually(lambda: "etcd's data is at" in lab.log("node2/only-at-home"), "a refusal")
    lab.etcdctl("snapshot", "restore", str(tmp_path / "backup.db"), f"--data-dir={tmp_path / 'restored'}")
    (tmp_path / "restored" / "member").rename(place / "member")
    eventually(lambda: is_ready(lab, "node2"), "etcd to be ready on the other node")
    there = f"https://{lab.address('node2')}:12379"
    assert endpoint(lab) == there
    assert lab.exec("node1", "etcdctl", f"--endpoints={there}", "get", "from").stdout == "from\nnode2\n"


def test_what_is_deleted_leaves_the_data(lab: Lab) -> None:
    lab.kubectl("delete", "-f", str(lab.home / "manifests.yaml"), "--ignore-not-found")
    kinds = "pods,persistentvolumeclaims,persistentvolumes"
    eventually(lambda: lab.kubectl(*SYSTEM, "get", kinds, "-o", "name") == "", "pod, claim and volume to go")
    assert (lab.directory("node2") / DATA / "member").is_dir()
