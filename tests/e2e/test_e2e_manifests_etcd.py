"""The etcd of the manifests, as its StatefulSet says: who gets in, what a restart keeps, and where it will not start.

One lab without agents; the tests are etcd's life, in order.
"""

import json
import re
import socket
import ssl
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
MEMBER = ("--name=k8s-ovs", "--initial-cluster=k8s-ovs=http://127.0.0.1:12380")


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
    """Delete the pod, and wait for the StatefulSet to have made another. kubectl itself would wait without end if that one is
    there before it looks a second time: it goes by the name.
    """
    before = uid(lab)
    lab.kubectl(*SYSTEM, "delete", "pod", POD, "--wait=false")
    eventually(lambda: uid(lab) not in ("", before), "another pod")


def uid(lab: Lab) -> str:
    """Which pod it is now; empty for none."""
    return lab.kubectl(*SYSTEM, "get", "pod", POD, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")


def get(lab: Lab, *environment: str) -> str:
    """What was written first, as node2 reads it; empty while etcd does not serve."""
    command = ("env", *environment, "etcdctl", "--command-timeout=1s", "get", "from")
    return lab.exec("node2", *command, check=False).stdout


def remembers(lab: Lab) -> bool:
    """Whether etcd serves where the ConfigMap says, with what was written first. Sooner known than that the pod is Ready."""
    return get(lab, f"ETCDCTL_ENDPOINTS={endpoint(lab)}") == "from\nnode2\n"


def said(lab: Lab, process: str) -> str:
    """The log of a process that may not have started yet."""
    file = lab.home / "log" / f"{process.replace('/', '-')}.log"
    return file.read_text() if file.exists() else ""


def connects(lab: Lab, place: str, address: str, port: int) -> bool:
    """Whether anybody listens there for that place."""

    def connect() -> bool:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    return inside(find(load_cluster(lab.home.parent, lab.name), place).netns, connect)


def greeted(lab: Lab, place: str, *, certificate: bool) -> str:
    """What a TLS client of that place, which trusts etcd's CA, gets to read; or the alert that ends it."""
    address, files = lab.address("node1"), lab.environment
    context = ssl.create_default_context(cafile=files["ETCDCTL_CACERT"])
    if certificate:
        context.load_cert_chain(files["ETCDCTL_CERT"], files["ETCDCTL_KEY"])

    def ask() -> str:
        with socket.create_connection((address, 12379), timeout=5) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=address) as secured:
                    secured.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                    return secured.recv(4096).decode()
            except ssl.SSLError as err:
                return str(err.reason)

    return inside(find(load_cluster(lab.home.parent, lab.name), place).netns, ask)


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
    assert greeted(lab, "node2", certificate=True).startswith("HTTP/1.0 200 OK")
    assert re.search("ALERT.*CERTIFICATE", greeted(lab, "node2", certificate=False))
    assert lab.get("node1", "/health", 12381)[0] == 200
    address = lab.address("node1")
    assert connects(lab, "node2", address, 12379)
    assert not connects(lab, "node2", address, 12381)
    assert not connects(lab, "node2", address, 12380)


def test_while_the_api_server_is_away_etcd_starts_again_with_the_certificates_that_it_has(lab: Lab) -> None:
    before, ours = lab.pids(), ("node1/etcd", "node1/tls-renewal")
    lab.lab("stop", "--kill", "apiserver", *ours)
    lab.lab("start", *ours)
    eventually(lambda: get(lab) == "from\nnode2\n", "etcd to serve")
    eventually(lambda: "no answer" in lab.log("node1/tls-renewal"), "the sidecar to tell of the API server")
    lab.lab("start", "apiserver")
    eventually(lambda: lab.kubectl("get", "--raw", "/readyz", check=False) == "ok", "the API server")
    assert all(lab.pid(name) not in (None, before[name]) for name in ours)


def test_a_new_pod_waits_for_its_rights_and_then_keeps_data_and_certificates(lab: Lab) -> None:
    before = show(lab, "secret/k8s-ovs-etcd-tls", "{.metadata.resourceVersion}")
    lab.kubectl(*SYSTEM, "delete", "rolebinding", "k8s-ovs-etcd")
    recreate(lab)
    eventually(lambda: "User" in lab.log("node1/tls"), "a refusal")
    assert "system:serviceaccount:kube-system:k8s-ovs-etcd" in lab.log("node1/tls")
    apply(lab)
    eventually(lambda: remembers(lab), "etcd to serve")
    assert show(lab, "secret/k8s-ovs-etcd-tls", "{.metadata.resourceVersion}") == before
    assert lab.log("node1/tls").endswith("wrote /etc/k8s-ovs/etcd/client.crt\ncertificates are in order\n")


def test_on_another_node_it_starts_with_a_backup_only_and_clients_are_told(lab: Lab, tmp_path: Path) -> None:
    at_home, place, backup = endpoint(lab), lab.directory("node2") / DATA, str(tmp_path / "backup.db")
    lab.etcdctl("snapshot", "save", backup)
    lab.kubectl("label", "node", "node2", *(f"{label}=true" for label in LABELS))
    recreate(lab)
    eventually(lambda: f"etcd's data is at {at_home}" in said(lab, "node2/only-at-home"), "a refusal")
    assert not (place / "member").exists()
    assert endpoint(lab) == at_home
    restored = ("--initial-advertise-peer-urls=http://127.0.0.1:12380", f"--data-dir={tmp_path / 'restored'}")
    lab.etcdctl("snapshot", "restore", backup, *MEMBER, *restored)
    (tmp_path / "restored" / "member").rename(place / "member")
    eventually(lambda: endpoint(lab) == f"https://{lab.address('node2')}:12379", "clients to be told")
    eventually(lambda: remembers(lab), "etcd to serve")


def test_what_is_deleted_leaves_the_data(lab: Lab) -> None:
    lab.kubectl("delete", "-f", str(lab.home / "manifests.yaml"), "--ignore-not-found")
    kinds = "pods,persistentvolumeclaims,persistentvolumes"
    eventually(lambda: lab.kubectl(*SYSTEM, "get", kinds, "-o", "name") == "", "pod, claim and volume to go")
    assert (lab.directory("node2") / DATA / "member").is_dir()
