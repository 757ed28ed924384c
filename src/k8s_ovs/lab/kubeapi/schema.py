"""Which fields an object may have and of what type: the check that turns a typing error into a clear answer.

Called by the registry with every object that a client sends. Types that are wrong are refused; fields that are
unknown are taken out and named, so that the caller can refuse them (fieldValidation=Strict, what kubectl asks for)
or warn. The tables are in schemas.py.
"""

from dataclasses import dataclass
from typing import Any

from k8s_ovs.lab.kubeapi.answers import bad_request
from k8s_ovs.lab.kubeapi.resources import Object, Resource
from k8s_ovs.lab.kubeapi.schemas import ANY, INT_OR_STRING, QUANTITY, SCHEMAS, Map


@dataclass(frozen=True, slots=True)
class _Mismatch(Exception):
    path: str
    wanted: str
    got: str


_WORDS = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def conform(resource: Resource, obj: Object) -> list[str]:
    """Check types and take out what is unknown or null, in place; the answer is the paths of the unknown fields.

    Raises ApiError 400 for a value of the wrong type.
    """
    unknown: list[str] = []
    try:
        _struct(obj, SCHEMAS[resource.id], "", unknown)
    except _Mismatch as err:
        raise bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f"{err.path}: must be {err.wanted}, not {err.got}"
        ) from None
    return unknown


def strict_error(resource: Resource, unknown: list[str]) -> str:
    """The text for unknown fields, as the real API server words it."""
    fields = ", ".join(f'unknown field "{path}"' for path in unknown)
    return (
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
        f"strict decoding error: {fields}"
    )


def _struct(value: Object, schema: dict[str, Any], path: str, unknown: list[str]) -> None:
    for key in list(value):
        below = f"{path}.{key}" if path else key
        if key not in schema:
            unknown.append(below)
            del value[key]
        elif value[key] is None:
            del value[key]
        else:
            _check(value[key], schema[key], below, unknown)


def _check(value: Any, schema: Any, path: str, unknown: list[str]) -> None:
    if schema is ANY:
        return
    if isinstance(schema, dict):
        _expect(value, dict, path)
        _struct(value, schema, path, unknown)
    elif isinstance(schema, list):
        _expect(value, list, path)
        for index, item in enumerate(value):
            _check(item, schema[0], f"{path}[{index}]", unknown)
    elif isinstance(schema, Map):
        _expect(value, dict, path)
        for key, item in value.items():
            if item is None and schema.values is str:
                value[key] = ""  # what Go decodes null into
            else:
                _check(item, schema.values, f"{path}.{key}", unknown)
    elif schema is INT_OR_STRING or schema is QUANTITY:
        if isinstance(value, bool) or not isinstance(
            value, (int, str) if schema is INT_OR_STRING else (int, float, str)
        ):
            raise _Mismatch(path, "a number or a string", _WORDS[type(value)])
    else:
        _expect(value, schema, path)


def _expect(value: Any, wanted: type, path: str) -> None:
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise _Mismatch(path, _WORDS[wanted], _WORDS[type(value)])
