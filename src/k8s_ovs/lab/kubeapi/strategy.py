"""What each kind does with a write before it is validated: status kept apart, immutable fields, first status.

Called by the registry. Pure: objects in, objects or problems out.
"""

from typing import Any

from k8s_ovs.lab.kubeapi import workloads
from k8s_ovs.lab.kubeapi.answers import Problem
from k8s_ovs.lab.kubeapi.resources import (
    CONFIG_MAPS,
    NODES,
    PODS,
    SECRETS,
    WORKLOADS,
    Object,
    Resource,
    field,
    meta,
)

_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName")
_POD_SPEC_MAY_CHANGE = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations")
_POD_SPEC_TEXT = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def prepare_create(resource: Resource, obj: Object) -> None:
    """Drop the status that a client sent (Nodes may bring theirs) and set the first one."""
    if resource.status and resource is not NODES:
        obj.pop("status", None)
    if resource is PODS:
        obj["status"] = {"phase": "Pending", "qosClass": _qos_class(obj)}
    if resource in WORKLOADS:
        workloads.prepare_create(obj)


def prepare_update(resource: Resource, obj: Object, old: Object, subresource: str) -> None:
    """Take from the old object what this write may not touch."""
    own, before = meta(obj), meta(old)
    if subresource == "status":
        status = obj.get("status")
        finalizers, annotations, labels = (own.get(n) for n in ("finalizers", "annotations", "labels"))
        obj.clear()
        obj.update({**old, "metadata": dict(before)})
        if status is not None:
            obj["status"] = status
        for name, value in (("finalizers", finalizers), ("annotations", annotations), ("labels", labels)):
            _set(meta(obj), name, value)
    elif resource.status and subresource != "finalize":
        _set(obj, "status", old.get("status"))
    for name in _KEPT:
        _set(meta(obj), name, before.get(name))
    meta(obj).pop("managedFields", None)
    meta(obj).pop("selfLink", None)


def _set(target: Object, name: str, value: Any) -> None:
    if value is None:
        target.pop(name, None)
    else:
        target[name] = value


def check_update(resource: Resource, obj: Object, old: Object) -> list[Problem]:
    """Problems of fields that may not change."""
    if resource is PODS and _fixed(obj) != _fixed(old):
        return [Problem.forbidden("spec", _POD_SPEC_TEXT)]
    if resource in WORKLOADS:
        return workloads.check_update(obj, old)
    frozen = resource in (CONFIG_MAPS, SECRETS) and old.get("immutable")
    if frozen and any(obj.get(name) != old.get(name) for name in ("data", "binaryData", "immutable")):
        return [Problem.forbidden("data", "field is immutable when `immutable` is set")]
    if resource.id == "discovery.k8s.io/endpointslices" and obj.get("addressType") != old.get("addressType"):
        return [Problem.invalid("addressType", obj.get("addressType"), "field is immutable")]
    return []


def _fixed(pod: Object) -> Object:
    spec = {k: v for k, v in pod.get("spec", {}).items() if k not in _POD_SPEC_MAY_CHANGE}
    for group in ("containers", "initContainers"):
        if group in spec:
            spec[group] = [
                {k: v for k, v in c.items() if k not in ("image", "imagePullPolicy")} for c in spec[group]
            ]
    return spec


def is_released(obj: Object) -> bool:
    """A deleted object that nothing holds any more: no finalizer, no grace period."""
    own = meta(obj)
    if not own.get("deletionTimestamp") or own.get("finalizers"):
        return False
    if field(obj, "spec.finalizers"):
        return False
    return not own.get("deletionGracePeriodSeconds")


def _qos_class(pod: Object) -> str:
    resources = [c.get("resources") or {} for c in field(pod, "spec.containers") or []]
    if not any(r.get("limits") or r.get("requests") for r in resources):
        return "BestEffort"
    for found in resources:
        limits, requests = found.get("limits") or {}, found.get("requests") or {}
        if not {"cpu", "memory"} <= set(limits) or any(requests.get(k, v) != v for k, v in limits.items()):
            return "Burstable"
    return "Guaranteed"
