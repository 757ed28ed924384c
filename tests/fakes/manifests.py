"""deploy/ as the tests see it: the committed files, the chart rendered with other values, and what containers are given."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "k8s-ovs"
FILES = sorted(path.name for path in DEPLOY.glob("*.yaml") if path.name != "alerts.yaml")
"""alerts.yaml is of a kind that Kubernetes itself does not know."""
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "own etcd": ("etcd.enabled=false", "etcd.clientCertificate=false", "etcd.username=network"),
    "everything": (
        "openvswitch.enabled=true",
        "agent.processNetns=true",
        "agent.portmap=false",
        "agent.mtu=1400",
        "kubernetes.host=192.0.2.1",
        "image.registry=registry.example.com/mirror/",
        "image.tag=other",
        "image.pullSecrets={one,two}",
        "agent.maxUnavailable=1",
    ),
    "storage class": ("etcd.storage.hostPath=", "etcd.storage.className=fast", "etcd.ports.client=2379"),
    "uninstall": ("uninstall.enabled=true",),
}
"""Values with which the chart is rendered, as `helm --set` takes them."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Container:
    """A container of a workload; `document` is the workload, `pod` its pod's spec."""

    document: Document
    pod: Document
    spec: Document

    @property
    def name(self) -> str:
        return f"{self.document['metadata']['name']}/{self.spec['name']}"

    @property
    def command_line(self) -> list[str]:
        return [*self.spec.get("command", ()), *self.spec.get("args", ())]

    @property
    def mounts(self) -> dict[Path, Document]:
        return {Path(mount["mountPath"]): mount for mount in self.spec.get("volumeMounts", ())}

    def volume(self, name: str) -> Document:
        return next((each for each in self.pod.get("volumes", ()) if each["name"] == name), {})

    def environment(self, documents: list[Document]) -> dict[str, str]:
        """Its variables; of what is known only in a cluster, the reference's path as `<path>`."""
        maps = {each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"}
        found: dict[str, str] = {}
        for source in self.spec.get("envFrom", ()):
            found |= maps.get(source["configMapRef"]["name"], {})
        for entry in self.spec.get("env", ()):
            reference = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            found[entry["name"]] = f"<{reference}>" if reference else entry["value"]
        return found


@cache
def generator() -> ModuleType:
    """tools/gen-manifests.py, whose name is no module's."""
    spec = importlib.util.spec_from_file_location("gen_manifests", ROOT / "tools" / "gen-manifests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the real helm."""
    return subprocess.run([generator().helm(), *arguments], capture_output=True, text=True, check=False)


def template(*values: str, namespace: str = "kube-system") -> "subprocess.CompletedProcess[str]":
    """Render the chart."""
    settings = [part for value in values for part in ("--set", value)]
    return helm("template", "k8s-ovs", str(CHART), "--namespace", namespace, *settings)


@cache
def rendered(variant: str) -> list[Document]:
    """The documents of the chart with one of VARIANTS."""
    done = template(*VARIANTS[variant])
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


@cache
def committed(name: str) -> list[Document]:
    """The documents of one of FILES."""
    return parsed((DEPLOY / name).read_text())


def parsed(text: str) -> list[Document]:
    """The documents of a text, without empty ones."""
    return [document for document in yaml.safe_load_all(text) if document]


def find(documents: list[Document], kind: str, name: str) -> Document:
    """The object of this kind and name."""
    return next(each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))


def containers(documents: list[Document]) -> Iterator[Container]:
    """Every container of every workload, the initial ones first."""
    for document in documents:
        if document["kind"] in {"DaemonSet", "Deployment", "StatefulSet"}:
            pod = document["spec"]["template"]["spec"]
            for spec in (*pod.get("initContainers", ()), *pod["containers"]):
                yield Container(document, pod, spec)
