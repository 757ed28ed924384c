"""Renders the chart deploy/helm/k8s-ovs into the plain manifests deploy/*.yaml, so that the two cannot differ.

Called by `make manifests`, and by the test that compares what is committed. Takes the helm that tools/get-kubectl.py finds
or gets. Helm orders documents by kind; here they stand by part again, as the chart has them.

    python tools/gen-manifests.py           writes deploy/*.yaml
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm" / "k8s-ovs"
WITHOUT_ETCD = ("config", "agent", "controller")
PARTS = (*WITHOUT_ETCD, "etcd")
TITLES = {
    "config": "Settings",
    "agent": "Agent: one on every node",
    "controller": "Controller: one leads",
    "etcd": "etcd. With one of your own, leave out everything from here on: see k8s-ovs-own-etcd.yaml",
    "openvswitch": "Open vSwitch",
    "uninstall": "Removal from every node",
}


@dataclass(frozen=True)
class Manifest:
    """A file below deploy/: the values it is rendered with, the parts of the chart in it, and what it says of itself."""

    name: str
    about: str
    parts: Sequence[str] = PARTS
    values: Sequence[str] = ()


MANIFESTS = (
    Manifest("k8s-ovs.yaml", "k8s-ovs for Kubernetes 1.28 and newer: kubectl apply -f k8s-ovs.yaml"),
    Manifest(
        "k8s-ovs-own-etcd.yaml",
        "k8s-ovs with an etcd of your own. Before it, in kube-system: Secret k8s-ovs-etcd-tls (ca.crt, client.crt,\n"
        "# client.key), ConfigMap k8s-ovs-etcd (K8S_OVS_ETCD_ENDPOINTS). Then kubectl apply -f k8s-ovs-own-etcd.yaml",
        WITHOUT_ETCD,
        ("etcd.enabled=false",),
    ),
    Manifest(
        "openvswitch.yaml",
        "Open vSwitch for nodes that have none: kubectl apply -f openvswitch.yaml, beside k8s-ovs.yaml",
        ("openvswitch",),
        ("openvswitch.enabled=true",),
    ),
    Manifest(
        "uninstall.yaml",
        "Removes k8s-ovs from every node: kubectl delete -f k8s-ovs.yaml, then kubectl apply -f uninstall.yaml",
        ("uninstall",),
        ("uninstall.enabled=true",),
    ),
)


@cache
def helm() -> str:
    """The helm to use. Exits if there is none."""
    command = [sys.executable, str(ROOT / "tools" / "get-kubectl.py"), "helm"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip()


def render(manifest: Manifest) -> str:
    """The file's text. Exits if helm refuses."""
    command = [helm(), "template", "k8s-ovs", str(CHART), "--namespace", "kube-system"]
    for value in manifest.values:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"gen-manifests: {' '.join(command)}:\n{done.stderr.strip()}")
    documents: dict[str, list[str]] = {}
    for text in done.stdout.removeprefix("---\n").split("\n---\n"):
        first, _, rest = text.partition("\n")
        documents.setdefault(Path(first.removeprefix("# Source: ")).stem, []).append(rest.strip("\n") + "\n")
    lines = [
        f"# {manifest.about}\n# Made from the chart helm/k8s-ovs by tools/gen-manifests.py: change it there.\n"
    ]
    for part in manifest.parts:
        bodies = documents[part]
        bodies[0] = f"# ----- {TITLES[part]} -----\n{bodies[0]}"
        lines += bodies
    return "---\n".join(lines)


def main() -> None:
    for manifest in MANIFESTS:
        (ROOT / "deploy" / manifest.name).write_text(render(manifest))
        print(f"deploy/{manifest.name}")


if __name__ == "__main__":
    main()
