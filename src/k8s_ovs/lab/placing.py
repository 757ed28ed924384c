"""Where a pod may go: labels, taints of nodes that are not ready, ports, and pods that avoid each other. Pure.

Asked by the lab's scheduler.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from k8s_ovs.lab.objects import LabPod

NOT_READY = "node.kubernetes.io/not-ready"
OPERATORS: Mapping[str, Callable[[str | None, Sequence[str]], bool]] = {
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
}
"""Of node affinity: whether a label's value (None: the node has no such label) is as wanted."""
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


def asks_for_labels(pod: LabPod) -> bool:
    """Whether it matters for the pod what labels the nodes have."""
    return bool(pod.spec.node_selector or _node_affinity(pod))


def allowed(pod: LabPod, labels: Mapping[str, str]) -> bool:
    """Whether the pod may be on a node with these labels: nodeSelector, and what nodeAffinity requires."""
    selector = pod.spec.node_selector or {}
    required = _node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    if any(labels.get(name) != value for name, value in selector.items()):
        return False
    return required is None or any(_term(term, labels) for term in required.get("nodeSelectorTerms") or ())


def preference(pod: LabPod, labels: Mapping[str, str]) -> int:
    """The sum of the weights of what nodeAffinity prefers and the node has."""
    preferred = _node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return sum(entry["weight"] for entry in preferred if _term(entry["preference"], labels))


def choose(pod: LabPod, nodes: Mapping[str, Mapping[str, str]], order: Iterable[str]) -> str | None:
    """The node (labels by name in `nodes`) that the pod prefers, the first in `order` of those; None: it may be on none."""
    good = [name for name in order if allowed(pod, nodes.get(name, {}))]
    return max(good, key=lambda name: preference(pod, nodes.get(name, {})), default=None)


def _node_affinity(pod: LabPod) -> dict[str, Any]:
    found: dict[str, Any] = (pod.spec.affinity or {}).get("nodeAffinity") or {}
    return found


def _term(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """All of its expressions; a term without any matches no node."""
    expressions = term.get("matchExpressions") or ()
    return bool(expressions) and all(_holds(expression, labels) for expression in expressions)


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    holds = OPERATORS.get(expression["operator"])
    return holds is not None and holds(labels.get(expression["key"]), expression.get("values") or ())


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
