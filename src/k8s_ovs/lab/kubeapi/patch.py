"""JSON patch (RFC 6902) and JSON merge patch (RFC 7386), and the choice among the kinds of patch.

Called by the HTTP handlers. Pure. Strategic merge is in strategic.py.
"""

import copy
from typing import Any

import msgspec
import yaml

from k8s_ovs.lab.kubeapi import strategic
from k8s_ovs.lab.kubeapi.answers import ApiError, bad_request, unsupported_media
from k8s_ovs.lab.kubeapi.resources import Object, Resource

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
KINDS = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)


def decode(content_type: str, body: bytes) -> Any:
    """The patch of a request. Raises ApiError 400 for what is no JSON, 415 for kinds of patch that are not served."""
    if content_type == APPLY_PATCH:
        raise unsupported_media(
            "this embedded API server does not do server-side apply: use kubectl apply without --server-side"
        )
    if content_type not in KINDS:
        raise unsupported_media(
            f"the body of the request was in an unknown format - accepted media types include: {', '.join(KINDS)}"
        )
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        try:
            value = yaml.safe_load(body)
        except yaml.YAMLError as err:
            raise bad_request(f"error decoding patch: {err}") from err
    wanted = list if content_type == JSON_PATCH else dict
    if not isinstance(value, wanted):
        raise bad_request(f"error decoding patch: {content_type} must be a JSON {wanted.__name__}")
    return value


def apply(resource: Resource, content_type: str, patch: Any, obj: Object) -> Object:
    """The object after the patch; `obj` may be changed. Raises ApiError 422 when it does not fit."""
    if content_type == JSON_PATCH:
        patched = json_patch(obj, patch)
    elif content_type == MERGE_PATCH:
        patched = merge(obj, patch)
    else:
        patched = strategic.merge(resource, obj, patch)
    if not isinstance(patched, dict):
        raise bad_request("the patch does not leave an object")
    return patched


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(obj: Any, operations: list[Any]) -> Any:
    """RFC 6902: the operations in order; all of them or ApiError 422."""
    root: Any = {"": obj}
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise _unfit(f"operation {operation!r} has no path")
        _operate(root, operation)
    return root[""]


def _operate(root: Any, operation: Object) -> None:
    name, path = operation.get("op"), _pointer(operation["path"])
    if name in ("add", "replace", "test") and "value" not in operation:
        raise _unfit(f"{name} {operation['path']} has no value")
    if name == "add":
        _add(root, path, copy.deepcopy(operation["value"]))
    elif name == "remove":
        _remove(root, path)
    elif name == "replace":
        _find(root, path)
        if len(path) > 1:
            _remove(root, path)
        _add(root, path, copy.deepcopy(operation["value"]))
    elif name == "test":
        if _find(root, path) != operation["value"]:
            raise _unfit(f"testing value {operation['path']} failed")
    elif name in ("move", "copy"):
        source = _pointer(str(operation.get("from", "")))
        value = copy.deepcopy(_find(root, source))
        if name == "move":
            _remove(root, source)
        _add(root, path, value)
    else:
        raise _unfit(f"unknown operation {name!r}")


def _unfit(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")


def _pointer(text: str) -> list[str]:
    """RFC 6901, below the artificial root whose one key is the empty string."""
    if text and not text.startswith("/"):
        raise _unfit(f"path {text!r} does not start with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")]


def _step(value: Any, part: str, path: list[str]) -> Any:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    raise _unfit(f"{'/'.join(path) or '/'} does not exist")


def _find(root: Any, path: list[str]) -> Any:
    value = root
    for part in path:
        value = _step(value, part, path)
    return value


def _add(root: Any, path: list[str], value: Any) -> None:
    parent = _find(root, path[:-1])
    last = path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list) and (last == "-" or (last.isdecimal() and int(last) <= len(parent))):
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        raise _unfit(f"{'/'.join(path)} cannot be added")


def _remove(root: Any, path: list[str]) -> None:
    _find(root, path)
    parent = _find(root, path[:-1])
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        del parent[int(path[-1])]
