"""`k8s-ovs lab demo`, whole: every part is shown, nothing is wrong, and nothing stays."""

import os
import subprocess
from pathlib import Path

import pytest

from fakes.labs import CLI
from k8s_ovs.lab.cluster import DEFAULT_BASE

pytestmark = [
    pytest.mark.lab,
    pytest.mark.root,
    pytest.mark.ovs,
    pytest.mark.etcd,
    pytest.mark.timeout(240),
]

LEFT = "left of this lab: no process, no mount, no file"
PARTS = (
    "$ kubectl get nodes",
    "$ k8s-ovs tenant join red blue --wait",
    '$ etcdctl put /k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/red \'{"NetName":"red","Action":"isolate"}\'',
    "$ k8s-ovs tenant global green --wait",
    "$ kubectl create service clusterip web",
    "$ kubectl annotate pod web2 -n red kubernetes.io/ingress-bandwidth=10M",
    "$ k8s-ovs lab add-host lb",
    "counted by node1 (k8s-ovs drops): pod-spoofed-ip",
    "$ kubectl delete namespace red blue green",
    LEFT,
    "three nodes, k8s-ovs-subnet",
)


def test_the_demo_shows_every_part_in_order_and_leaves_nothing() -> None:
    environment = dict(os.environ)
    kubectl = Path(__file__).parents[2] / "build" / "bin"
    environment["PATH"] = f"{kubectl}:{environment['PATH']}"
    with subprocess.Popen(
        [CLI, "lab", "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "NOT AS IT SHOULD BE" not in output
    places = [output.find(part) for part in PARTS]
    assert -1 not in places, output
    assert places == sorted(places)
    assert not (DEFAULT_BASE / f"demo-{process.pid}").exists()
    assert output.count(LEFT) == 2
