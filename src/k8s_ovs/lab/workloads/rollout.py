"""What a DaemonSet, Deployment or StatefulSet wants done now: pods to create, pods to delete, and its status. Pure.

Called by the workload controller with what the API says. Follows the real controllers: a template is known by its hash,
old pods are replaced within maxUnavailable and maxSurge, a DaemonSet never has two pods of the same template on a node,
and a StatefulSet's pods come and go in order. Deployments have their pods directly, without ReplicaSets.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Raw = dict[str, Any]
HASH = "controller-revision-hash"


@dataclass(frozen=True, slots=True)
class OwnPod:
    """A pod of a workload, as far as a roll-out cares. `available`: Ready, and that for long enough."""

    name: str
    uid: str
    node: str
    hash: str
    ready: bool
    available: bool
    deleting: bool


@dataclass(frozen=True, slots=True)
class NewPod:
    """A pod to create: `name` is empty where any will do, `node` where the scheduler chooses."""

    name: str = ""
    node: str = ""


@dataclass(slots=True)
class Plan:
    """What to do, and what to tell."""

    create: list[NewPod] = field(default_factory=list)
    delete: list[OwnPod] = field(default_factory=list)
    status: Raw = field(default_factory=dict)


def template_hash(template: Raw) -> str:
    """Ten characters that change with the template."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def number(value: int | str, total: int, *, up: bool) -> int:
    """A count or percentage of `total`; percentages are rounded up for maxSurge and maxUnavailable of DaemonSets."""
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * total
    return -(-share // 100) if up else share // 100


def daemon_set(spec: Raw, pods: Sequence[OwnPod], nodes: Sequence[str]) -> Plan:
    """One pod on each of `nodes`."""
    plan, wanted = Plan(), template_hash(spec["template"])
    strategy = spec.get("updateStrategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    surge = number(rolling.get("maxSurge", 0), len(nodes), up=True)
    allowed = number(rolling.get("maxUnavailable", 1), len(nodes), up=True)
    by_node: dict[str, list[OwnPod]] = {node: [] for node in nodes}
    for pod in pods:
        if pod.node in by_node:
            by_node[pod.node].append(pod)
        elif not pod.deleting:
            plan.delete.append(pod)
    unavailable = sum(not any(pod.available and not pod.deleting for pod in own) for own in by_node.values())
    surging = sum(len([pod for pod in own if not pod.deleting]) > 1 for own in by_node.values())
    for node, own in by_node.items():
        old = [pod for pod in own if pod.hash != wanted and not pod.deleting]
        new = [pod for pod in own if pod.hash == wanted and not pod.deleting]
        if not own:
            plan.create.append(NewPod(node=node))
        elif strategy.get("type") == "OnDelete":
            plan.create += [NewPod(node=node)] if all(pod.deleting for pod in own) and surge else []
        elif old and new:
            plan.delete += old if any(pod.available for pod in new) else []
        elif old and surge:
            if surging < surge:
                surging += 1
                plan.create.append(NewPod(node=node))
        elif old and (not any(pod.available for pod in old) or unavailable < allowed):
            unavailable += any(pod.available for pod in old)
            plan.delete += old
        plan.delete += new[1:]
    plan.status = _daemon_status(by_node, wanted)
    return plan


def _daemon_status(by_node: dict[str, list[OwnPod]], wanted: str) -> Raw:
    def count(condition: Any) -> int:
        return sum(any(not pod.deleting and condition(pod) for pod in own) for own in by_node.values())

    available = count(lambda pod: pod.available)
    return {
        "desiredNumberScheduled": len(by_node),
        "currentNumberScheduled": count(lambda _: True),
        "updatedNumberScheduled": count(lambda pod: pod.hash == wanted),
        "numberReady": count(lambda pod: pod.ready),
        "numberAvailable": available,
        "numberUnavailable": len(by_node) - available,
        "numberMisscheduled": 0,
    }


def deployment(spec: Raw, pods: Sequence[OwnPod]) -> Plan:
    """`replicas` pods, anywhere."""
    plan, wanted, replicas = Plan(), template_hash(spec["template"]), spec.get("replicas", 1)
    strategy = spec.get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    surge = number(rolling.get("maxSurge", "25%"), replicas, up=True)
    out = number(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    living = [pod for pod in pods if not pod.deleting]
    old = [pod for pod in living if pod.hash != wanted]
    new = [pod for pod in living if pod.hash == wanted]
    plan.delete += new[replicas:]
    new = new[:replicas]
    if strategy.get("type") == "Recreate":
        plan.delete += old
        room = replicas - len(new) if not old and not any(pod.hash != wanted for pod in pods) else 0
    else:
        surplus = sum(pod.available for pod in living) - max(replicas - (out or (0 if surge else 1)), 0)
        for pod in sorted(old, key=lambda pod: pod.available):
            if not pod.available:
                plan.delete.append(pod)
            elif surplus > 0:
                surplus -= 1
                plan.delete.append(pod)
        room = min(replicas - len(new), replicas + surge - len(new) - len(old) if old else replicas)
    plan.create += [NewPod()] * max(room, 0)
    plan.status = _status(living, new, replicas)
    plan.status["unavailableReplicas"] = max(replicas - plan.status["availableReplicas"], 0)
    enough = plan.status["availableReplicas"] >= replicas - out
    reason = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
    plan.status["conditions"] = [{"type": "Available", "status": str(enough), "reason": reason}]
    return plan


def stateful_set(name: str, spec: Raw, pods: Sequence[OwnPod]) -> Plan:
    """`replicas` pods called NAME-0, NAME-1, …, one after the other."""
    plan, wanted, replicas = Plan(), template_hash(spec["template"]), spec.get("replicas", 1)
    names = [f"{name}-{index}" for index in range(replicas)]
    by_name = {pod.name: pod for pod in pods}
    plan.delete += [pod for pod in pods if pod.name not in names and not pod.deleting]
    whole = True
    for each in names:
        pod = by_name.get(each)
        if pod is None and whole:
            plan.create.append(NewPod(name=each))
        whole = whole and pod is not None and pod.available and not pod.deleting
    stale = [by_name[each] for each in reversed(names) if each in by_name and by_name[each].hash != wanted]
    if stale and not any(pod.deleting for pod in pods) and not plan.create:
        plan.delete.append(stale[0])
    living = [pod for pod in pods if not pod.deleting]
    plan.status = _status(living, [pod for pod in living if pod.hash == wanted], replicas)
    plan.status |= {"currentReplicas": plan.status["updatedReplicas"], "updateRevision": wanted}
    plan.status["currentRevision"] = by_name[names[0]].hash if names and names[0] in by_name else wanted
    return plan


def _status(living: Sequence[OwnPod], new: Sequence[OwnPod], replicas: int) -> Raw:
    return {
        "replicas": len(living),
        "updatedReplicas": len(new),
        "readyReplicas": sum(pod.ready for pod in living),
        "availableReplicas": sum(pod.available for pod in living),
    }
