"""Kubernetes objects as the lab's kubelet reads and writes them. Pure.

The product's own types (`sources.kube.objects`) hold what the product reads; a kubelet needs a little more of a Pod.
"""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import msgspec

from k8s_ovs.lab.cluster import POD_PORTS, Node
from k8s_ovs.sources.kube.objects import (
    Condition,
    Container,
    KubeObject,
    KubeStruct,
    PodIp,
    Resource,
)
from k8s_ovs.sources.kube.objects import Node as KubeNode

CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"
HOSTNAME_LABEL = "kubernetes.io/hostname"
KUBELET_VERSION = "v1.32.0-k8s-ovs-lab"


class LabContainer(Container, frozen=True, kw_only=True):
    """A container, with the image that is shown but never run."""

    image: str = ""


class LabPodSpec(KubeStruct, frozen=True, kw_only=True):
    """What the scheduler and the kubelet need of a Pod."""

    node_name: str = ""
    host_network: bool = False
    node_selector: dict[str, str] | None = None
    containers: tuple[LabContainer, ...] | None = None
    init_containers: tuple[LabContainer, ...] | None = None
    tolerations: tuple[dict[str, Any], ...] | None = None
    affinity: dict[str, Any] | None = None


class LabPodStatus(KubeStruct, frozen=True, kw_only=True):
    """What has been said of a Pod."""

    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodIp, ...] | None = msgspec.field(name="podIPs", default=None)
    conditions: tuple[Condition, ...] | None = None


class LabPod(KubeObject, frozen=True, kw_only=True):
    """A Pod."""

    spec: LabPodSpec = LabPodSpec()
    status: LabPodStatus = LabPodStatus()

    @property
    def title(self) -> str:
        """namespace/name."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def ready(self) -> bool:
        """Whether the condition Ready is True."""
        return any(entry.type == "Ready" and entry.status == "True" for entry in self.status.conditions or ())

    def serve_ports(self) -> list[int]:
        """The ports that its server listens on: what the containers name, else 80 and 8080."""
        named = {
            port.container_port for container in self.spec.containers or () for port in container.ports or ()
        }
        return sorted(named - {0}) or list(POD_PORTS)

    def port_mappings(self) -> list[dict[str, object]]:
        """Its host ports, as the capability `portMappings` wants them."""
        return [
            {
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.lower(),
                "hostIP": port.host_ip,
            }
            for container in self.spec.containers or ()
            for port in container.ports or ()
            if port.host_port
        ]


PODS = Resource("api/v1", "pods", "Pod", namespaced=True, type=LabPod)
NODES = Resource("api/v1", "nodes", "Node", namespaced=False, type=KubeNode)


def now() -> str:
    """The present as the API writes it (RFC 3339, whole seconds)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_object(node: Node, *, ready: bool, control_plane: bool = False) -> dict[str, Any]:
    """The Node that the kubelet registers."""
    labels = {**node_labels(node), **({CONTROL_PLANE_LABEL: ""} if control_plane else {})}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "status": {
            **node_status(node, ready=ready),
            "capacity": _capacity(),
            "allocatable": _capacity(),
            "nodeInfo": {
                "machineID": node.name,
                "systemUUID": node.name,
                "bootID": node.name,
                "kernelVersion": platform.release(),
                "osImage": "k8s-ovs lab",
                "containerRuntimeVersion": "netns://1",
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": _architecture(),
            },
        },
    }


def node_labels(node: Node) -> dict[str, str]:
    """Labels that every Node has."""
    return {
        HOSTNAME_LABEL: node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _architecture(),
    }


def node_status(node: Node, *, ready: bool) -> dict[str, Any]:
    """Addresses and conditions. Without a CNI configuration a node is not Ready, in kubelet's own words."""
    message = "kubelet is posting ready status"
    if not ready:
        message = (
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
            "message:Network plugin returns error: cni plugin not initialized"
        )
    conditions = [
        _condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        _condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        _condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        _condition("Ready", str(ready), "KubeletReady" if ready else "KubeletNotReady", message),
    ]
    return {
        "addresses": [
            {"type": "InternalIP", "address": str(node.ip)},
            {"type": "Hostname", "address": node.name},
        ],
        "conditions": [{**condition, "lastHeartbeatTime": now()} for condition in conditions],
    }


def running_status(pod: LabPod, node: Node, address: str, sandbox: str) -> dict[str, Any]:
    """The status of a Pod whose network works and whose server answers."""
    started = now()
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": str(node.ip),
        "hostIPs": [{"ip": str(node.ip)}],
        "startTime": started,
        "conditions": [_condition(kind, "True") for kind in conditions],
        "containerStatuses": [
            {
                **_container_status(container),
                "ready": True,
                "started": True,
                "containerID": f"netns://{sandbox}",
                "state": {"running": {"startedAt": started}},
            }
            for container in pod.spec.containers or ()
        ],
    }


def waiting_status(pod: LabPod, node: Node, message: str) -> dict[str, Any]:
    """The status of a Pod that is bound to a node and does not run yet."""
    waiting = {"reason": "ContainerCreating", **({"message": message} if message else {})}
    return {
        "phase": "Pending",
        "hostIP": str(node.ip),
        "hostIPs": [{"ip": str(node.ip)}],
        "conditions": [
            _condition("PodReadyToStartContainers", "False"),
            _condition("Initialized", "True"),
            _condition("Ready", "False", "ContainersNotReady"),
            _condition("ContainersReady", "False", "ContainersNotReady"),
            _condition("PodScheduled", "True"),
        ],
        "containerStatuses": [
            {**_container_status(container), "ready": False, "started": False, "state": {"waiting": waiting}}
            for container in pod.spec.containers or ()
        ],
    }


def binding(pod: LabPod, node: str) -> dict[str, Any]:
    """What a scheduler posts."""
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }


def _container_status(container: LabContainer) -> dict[str, Any]:
    return {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "restartCount": 0,
        "lastState": {},
    }


def _condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    condition: dict[str, Any] = {"type": kind, "status": status, "lastTransitionTime": now()}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _capacity() -> dict[str, str]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {"cpu": str(os.cpu_count() or 1), "memory": f"{pages * size // 1024}Ki", "pods": "1000"}


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
