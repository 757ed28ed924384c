"""Where a pod of the host's network may go: taints of nodes that are not ready, ports, and pods that avoid each other. Pure.

Asked by the lab's scheduler.
"""

from collections.abc import Iterable

import msgspec

from k8s_ovs.lab.objects import LabPod

NOT_READY = "node.kubernetes.io/not-ready"
_HOSTNAME = "kubernetes.io/hostname"


def tolerates_not_ready(pod: LabPod) -> bool:
    """Whether the pod goes to a node without network: it tolerates the taint that such a node has."""
    return any(
        (not toleration.get("key") or toleration["key"] == NOT_READY)
        and toleration.get("operator", "Equal") == "Exists"
        and toleration.get("effect", "NoSchedule") in ("", "NoSchedule")
        for toleration in pod.spec.tolerations or ()
    )


def fits(pod: LabPod, others: Iterable[LabPod]) -> bool:
    """Whether the pod can be beside those that are on the node: no host port twice, and none that it must avoid."""
    if not pod.spec.host_network:
        return True
    wanted, terms = _ports(pod), _avoided(pod)
    for other in others:
        labels = other.metadata.labels or {}
        avoided = any(term and term.items() <= labels.items() for term in terms)
        if (avoided and other.metadata.namespace == pod.metadata.namespace) or wanted & _ports(other):
            return False
    return True


def on(pod: LabPod, node: str) -> LabPod:
    """The pod as it is once it is bound."""
    return msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=node))


def _ports(pod: LabPod) -> set[tuple[int, str]]:
    if not pod.spec.host_network:
        return set()
    return {
        (port.host_port or port.container_port, port.protocol)
        for container in pod.spec.containers or ()
        for port in container.ports or ()
    }


def _avoided(pod: LabPod) -> list[dict[str, str]]:
    anti = (pod.spec.affinity or {}).get("podAntiAffinity") or {}
    return [
        (term.get("labelSelector") or {}).get("matchLabels") or {}
        for term in anti.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        if term.get("topologyKey") == _HOSTNAME
    ]
