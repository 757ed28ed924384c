"""OpenAPI, as much as kubectl looks at: that writes take `fieldValidation`, so that the server checks fields.

Called by the server for /openapi/v3 and /openapi/v2. Pure. With this, `kubectl apply` and `create` leave validation to
the server (schema.py); the merge rules of the built-in kinds kubectl has compiled in. There are no schemas here, so
`kubectl explain` has nothing to show.
"""

from typing import Any

from k8s_ovs.lab.kubeapi.discovery import GIT_VERSION
from k8s_ovs.lab.kubeapi.resources import RESOURCES, Object, Resource

V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"


def _root(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def v3_index() -> Object:
    """GET /openapi/v3: where each group's document is."""
    roots = dict.fromkeys(_root(r.group, r.version) for r in RESOURCES)
    return {
        "paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}?hash={GIT_VERSION}"} for root in roots}
    }


def v3(root: str) -> Object | None:
    """GET /openapi/v3/ROOT; None for a group that is not served."""
    found = [r for r in RESOURCES if _root(r.group, r.version) == root]
    if not found:
        return None
    paths: Object = {}
    for resource in found:
        namespace = "{namespace}" if resource.namespaced else ""
        paths[resource.path(namespace)] = {"post": _operation(resource, "post")}
        paths[resource.path(namespace, "{name}")] = {
            "put": _operation(resource, "put"),
            "patch": _operation(resource, "patch"),
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "k8s-ovs lab", "version": GIT_VERSION},
        "paths": paths,
        "components": {"schemas": {}},
    }


def _operation(resource: Resource, action: str) -> Object:
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        for name in ("dryRun", "fieldManager", "fieldValidation")
    ]
    return {
        "operationId": f"{action}{resource.kind}",
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {
            "group": resource.group,
            "version": resource.version,
            "kind": resource.kind,
        },
    }


def v2() -> Object:
    """GET /openapi/v2 as JSON: valid, and empty."""
    info: dict[str, Any] = {"title": "k8s-ovs lab", "version": GIT_VERSION}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}


def v2_protobuf() -> bytes:
    """The same in protobuf (gnostic's openapi.v2.Document): field 1 swagger, field 2 info, field 8 paths."""

    def text(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    info = text(1, b"k8s-ovs lab") + text(2, GIT_VERSION.encode())
    return text(1, b"2.0") + text(2, info) + text(8, b"")
