"""Strategic merge patch: lists that merge by a key, and the directives in a patch.

Called by patch.py. Pure. Source: "Strategic Merge Patch" in the Kubernetes community's API conventions, and the
patchMergeKey and patchStrategy marks of the API types; lists without a mark are replaced whole.
"""

from typing import Any

from k8s_ovs.lab.kubeapi.answers import bad_request
from k8s_ovs.lab.kubeapi.resources import Object, Resource

SET = ""
"""In the tables: a list of plain values that merge as a set."""

_DELETE_VALUES = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_RETAIN = "$retainKeys"
_PATCH = "$patch"

_COMMON = {"metadata.ownerReferences": "uid", "metadata.finalizers": SET}
_CONTAINER = {
    "ports": "containerPort",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_POD = {
    **{f"spec.{group}": "name" for group in _CONTAINERS},
    **{f"spec.{group}.{name}": key for group in _CONTAINERS for name, key in _CONTAINER.items()},
    "spec.volumes": "name",
    "spec.imagePullSecrets": "name",
    "spec.hostAliases": "ip",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.resourceClaims": "name",
    "spec.schedulingGates": "name",
}
_WORKLOAD = {f"spec.template.{path}": key for path, key in _POD.items()} | {"status.conditions": "type"}

MERGE_KEYS: dict[str, dict[str, str]] = {
    "apps/daemonsets": _WORKLOAD,
    "apps/deployments": _WORKLOAD,
    "apps/statefulsets": _WORKLOAD,
    "pods": {
        **_POD,
        "status.conditions": "type",
        "status.podIPs": "ip",
    },
    "nodes": {"spec.podCIDRs": SET, "status.conditions": "type", "status.addresses": "type"},
    "services": {"spec.ports": "port", "status.conditions": "type"},
    "namespaces": {"status.conditions": "type"},
    "serviceaccounts": {"secrets": "name", "imagePullSecrets": "name"},
}


def merge(resource: Resource, obj: Object, patch: Object) -> Object:
    """The object after the patch. Raises ApiError 400 for a patch that cannot be understood."""
    keys = {**_COMMON, **MERGE_KEYS.get(resource.id, {})}
    return _struct(obj, patch, "", keys)


def _struct(target: Object, patch: Object, path: str, keys: dict[str, str]) -> Object:
    if patch.get(_PATCH) == "replace":
        return {key: value for key, value in patch.items() if key != _PATCH}
    if patch.get(_PATCH) == "delete":
        return {}
    result = dict(target)
    if isinstance(patch.get(_RETAIN), list):
        result = {key: value for key, value in result.items() if key in patch[_RETAIN]}
    for key, value in patch.items():
        if key in (_PATCH, _RETAIN) or key.startswith((_ORDER, _DELETE_VALUES)):
            continue
        if value is None:
            result.pop(key, None)
            continue
        below = f"{path}.{key}" if path else key
        result[key] = _value(result.get(key), value, below, keys)
    for key, value in patch.items():
        if key.startswith(_DELETE_VALUES):
            name = key.removeprefix(_DELETE_VALUES)
            result[name] = [item for item in result.get(name) or [] if item not in value]
    for key, value in patch.items():
        if key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            below = f"{path}.{name}" if path else name
            if isinstance(result.get(name), list) and isinstance(value, list):
                result[name] = _ordered(result[name], value, keys.get(below, SET))
    return result


def _value(current: Any, value: Any, path: str, keys: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return _struct(current if isinstance(current, dict) else {}, value, path, keys)
    if isinstance(value, list) and path in keys:
        return _list(current if isinstance(current, list) else [], value, path, keys)
    return value


def _list(current: list[Any], patch: list[Any], path: str, keys: dict[str, str]) -> list[Any]:
    merge_key = keys[path]
    if merge_key == SET:
        return current + [item for item in patch if item not in current]
    if any(isinstance(item, dict) and item.get(_PATCH) == "replace" for item in patch):
        return [item for item in patch if item.get(_PATCH) != "replace"]
    result = list(current)
    for item in patch:
        if not isinstance(item, dict) or merge_key not in item:
            raise bad_request(f"{path}: the patch has an element without its merge key {merge_key!r}")
        found = next((i for i, old in enumerate(result) if old.get(merge_key) == item[merge_key]), None)
        if item.get(_PATCH) == "delete":
            result = [old for old in result if old.get(merge_key) != item[merge_key]]
        elif found is None:
            result.append(_struct({}, item, path, keys))
        else:
            result[found] = _struct(result[found], item, path, keys)
    return result


def _ordered(items: list[Any], order: list[Any], merge_key: str) -> list[Any]:
    """Sorted as the patch says; what it does not name stays behind the item it followed."""

    def name(item: Any) -> Any:
        return item.get(merge_key) if merge_key and isinstance(item, dict) else item

    rank = {str(name(item)): index for index, item in enumerate(order)}
    position, placed = -1.0, []
    for index, item in enumerate(items):
        own = rank.get(str(name(item)))
        position = float(own) if own is not None else position
        placed.append((position, own is None, index, item))
    return [item for *_, item in sorted(placed, key=lambda entry: entry[:3])]
