"""Kubernetes' protobuf bodies of the few kinds that kubectl creates from compiled-in types.

Called by responses.py: since 1.31 `kubectl create namespace` (and configmap, secret, service, serviceaccount, drain's
deletions) sends protobuf and does not fall back to JSON. Everything else comes as JSON, and all answers are JSON.
Source: the generated.proto files of k8s.io/api and k8s.io/apimachinery; the envelope is runtime.Unknown behind the
octets "k8s" and a zero.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from k8s_ovs.lab.kubeapi.answers import ApiError, bad_request, unsupported_media
from k8s_ovs.lab.kubeapi.resources import Object

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"


@dataclass(frozen=True, slots=True)
class _Field:
    """A field: its JSON name, and its kind: "str", "bytes", "int", "bool", a table for a message, or special."""

    name: str
    kind: Any = "str"
    repeated: bool = False
    map: bool = False


_Table = dict[int, _Field]

_TIME = "time"
_PORT_OR_NAME = "int-or-string"

_META: _Table = {
    1: _Field("name"),
    2: _Field("generateName"),
    3: _Field("namespace"),
    5: _Field("uid"),
    6: _Field("resourceVersion"),
    8: _Field("creationTimestamp", _TIME),
    11: _Field("labels", map=True),
    12: _Field("annotations", map=True),
    13: _Field(
        "ownerReferences",
        {
            1: _Field("kind"),
            3: _Field("name"),
            4: _Field("uid"),
            5: _Field("apiVersion"),
            6: _Field("controller", "bool"),
            7: _Field("blockOwnerDeletion", "bool"),
        },
        repeated=True,
    ),
    14: _Field("finalizers", repeated=True),
}
_METADATA = _Field("metadata", _META)
_SERVICE_PORT: _Table = {
    1: _Field("name"),
    2: _Field("protocol"),
    3: _Field("port", "int"),
    4: _Field("targetPort", _PORT_OR_NAME),
    5: _Field("nodePort", "int"),
    6: _Field("appProtocol"),
}
_SERVICE_SPEC: _Table = {
    1: _Field("ports", _SERVICE_PORT, repeated=True),
    2: _Field("selector", map=True),
    3: _Field("clusterIP"),
    4: _Field("type"),
    5: _Field("externalIPs", repeated=True),
    7: _Field("sessionAffinity"),
    8: _Field("loadBalancerIP"),
    9: _Field("loadBalancerSourceRanges", repeated=True),
    10: _Field("externalName"),
    11: _Field("externalTrafficPolicy"),
    13: _Field("publishNotReadyAddresses", "bool"),
    14: _Field("sessionAffinityConfig", {1: _Field("clientIP", {1: _Field("timeoutSeconds", "int")})}),
    17: _Field("ipFamilyPolicy"),
    18: _Field("clusterIPs", repeated=True),
    19: _Field("ipFamilies", repeated=True),
    22: _Field("internalTrafficPolicy"),
}
_REFERENCE: _Table = {1: _Field("kind"), 2: _Field("namespace"), 3: _Field("name"), 4: _Field("uid")}

_KINDS: dict[tuple[str, str], _Table] = {
    ("v1", "Namespace"): {1: _METADATA, 2: _Field("spec", {1: _Field("finalizers", repeated=True)})},
    ("v1", "ConfigMap"): {
        1: _METADATA,
        2: _Field("data", map=True),
        3: _Field("binaryData", "bytes", map=True),
        4: _Field("immutable", "bool"),
    },
    ("v1", "Secret"): {
        1: _METADATA,
        2: _Field("data", "bytes", map=True),
        3: _Field("type"),
        4: _Field("stringData", map=True),
        5: _Field("immutable", "bool"),
    },
    ("v1", "ServiceAccount"): {
        1: _METADATA,
        2: _Field("secrets", _REFERENCE, repeated=True),
        3: _Field("imagePullSecrets", {1: _Field("name")}, repeated=True),
    },
    ("v1", "Service"): {1: _METADATA, 2: _Field("spec", _SERVICE_SPEC)},
}
_DELETE_OPTIONS: _Table = {
    1: _Field("gracePeriodSeconds", "int!"),
    2: _Field("preconditions", {1: _Field("uid"), 2: _Field("resourceVersion")}),
    4: _Field("propagationPolicy"),
    5: _Field("dryRun", repeated=True),
}


def decode(body: bytes) -> Object:
    """The object in a protobuf body. Raises ApiError 415 for kinds that come as JSON otherwise, 400 for no protobuf."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body of the request is no Kubernetes protobuf: it does not begin with k8s\\0")
    envelope = _message(
        body[len(_MAGIC) :],
        {1: _Field("type", {1: _Field("apiVersion"), 2: _Field("kind")}), 2: _Field("raw", "raw")},
    )
    version, kind = envelope["type"].get("apiVersion", ""), envelope["type"].get("kind", "")
    table = _DELETE_OPTIONS if kind == "DeleteOptions" else _KINDS.get((version, kind))
    if table is None:
        raise unsupported_media(
            f"this embedded API server takes {version} {kind} as JSON or YAML, not as protobuf"
        )
    return {"apiVersion": version, "kind": kind, **_message(envelope.get("raw", b""), table)}


def _message(data: bytes, table: _Table) -> Object:
    """A message as JSON has it: fields with zero values are left out, as Go leaves them out (omitempty)."""
    result: Object = {}
    for number, value in _fields(data):
        field = table.get(number)
        if field is None:
            continue
        if field.map:
            entry = _message(value, {1: _Field("key"), 2: _Field("value", field.kind)})
            result.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", "")
        elif field.repeated:
            result.setdefault(field.name, []).append(_value(value, field.kind))
        else:
            decoded = _value(value, field.kind)
            if decoded or field.kind == "int!":
                result[field.name] = decoded
    return result


def _value(value: Any, kind: Any) -> Any:
    if isinstance(kind, dict):
        return _message(value, kind)
    if kind == "str":
        return value.decode()
    if kind == "bytes":
        return base64.b64encode(value).decode()
    if kind == "bool":
        return bool(value)
    if kind == _TIME:
        return None  # the server sets the times itself
    if kind == _PORT_OR_NAME:
        parts = _message(value, {1: _Field("type", "int"), 2: _Field("number", "int"), 3: _Field("text")})
        return parts.get("text", "") if parts.get("type") else parts.get("number", 0)
    return value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: varints as int, the rest as bytes. Raises ApiError 400 when data is cut off."""
    position = 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            wire = tag & 7
            if wire == 0:
                value, position = _varint(data, position)
                yield tag >> 3, value - (1 << 64) if value >> 63 else value
                continue
            if wire == 2:
                size, position = _varint(data, position)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise bad_request(f"the protobuf body has a field of unknown wire type {wire}")
            position += size
            if position > len(data):
                raise _cut_off()
            yield tag >> 3, data[position - size : position]
    except IndexError:
        raise _cut_off() from None


def _cut_off() -> ApiError:
    return bad_request("the protobuf body is cut off")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = data[position]
        position += 1
        value |= (octet & 0x7F) << shift
        shift += 7
        if not octet & 0x80:
            return value, position
