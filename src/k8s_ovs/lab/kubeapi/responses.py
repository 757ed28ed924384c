"""Answers on the wire: JSON bodies, errors, lists and tables, and what the client's Accept header asks for.

Called by the server and the handlers.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import yaml
from aiohttp import web

from k8s_ovs.lab.kubeapi import protobuf, tables
from k8s_ovs.lab.kubeapi.answers import ApiError, bad_request
from k8s_ovs.lab.kubeapi.resources import Object, Resource
from k8s_ovs.lab.kubeapi.store import Entry

JSON = "application/json"


def json_answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A response with a JSON body; bytes are JSON already."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return web.Response(body=raw, status=status, content_type=JSON, headers=headers)


def error_answer(err: ApiError) -> web.Response:
    """The `metav1.Status` of an error."""
    seconds = err.details.get("retryAfterSeconds")
    headers = {"Retry-After": str(seconds)} if seconds is not None else None
    return json_answer(err.status(), err.code, headers)


def warning_headers(texts: Sequence[str]) -> dict[str, str] | None:
    """Warnings as kubectl prints them (RFC 7234, code 299)."""
    if not texts:
        return None
    return {
        "Warning": ", ".join('299 - "{}"'.format(t.replace("\\", "\\\\").replace('"', '\\"')) for t in texts)
    }


def wants_table(request: web.Request) -> bool:
    """Whether the client prefers a `meta.k8s.io/v1` Table, as `kubectl get` does."""
    first = request.headers.get("Accept", "").split(",")[0].replace(" ", "")
    return "as=Table" in first and "v=v1" in first.split(";")


def check_accept(request: web.Request) -> None:
    """Raise ApiError 406 when the client takes nothing that this server can say."""
    accept = request.headers.get("Accept", "")
    kinds = [part.split(";")[0].strip() for part in accept.split(",")]
    if accept and not any(kind in (JSON, "*/*", "application/*") for kind in kinds):
        raise ApiError(
            406, "NotAcceptable", f"only the following media types are accepted: {JSON} (asked for: {accept})"
        )


async def read_object(request: web.Request) -> Object:
    """The object in the body, JSON, YAML or Kubernetes' protobuf. Raises ApiError 400 and 415."""
    body = await request.read()
    kind = request.content_type
    if kind == protobuf.MEDIA_TYPE:
        return protobuf.decode(body)
    try:
        value = yaml.safe_load(body) if kind == "application/yaml" else msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError) as err:
        raise bad_request(f"the body of the request cannot be decoded: {err}") from err
    if not isinstance(value, dict):
        raise bad_request("the body of the request is no object")
    return value


def list_body(resource: Resource, entries: Sequence[Entry], metadata: Object) -> bytes:
    """A list object. Its items have no apiVersion and kind, as with the real API server."""
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
    return b'%s,"items":[%s]}' % (msgspec.json.encode(head)[:-1], b",".join(entry.item for entry in entries))


def table_body(resource: Resource, entries: Sequence[Entry], include: str, metadata: Object) -> bytes:
    """A Table of the same."""
    return msgspec.json.encode(tables.table(resource, entries, include or "Metadata", metadata))


def one(request: web.Request, entry: Entry, status: int = 200, warnings: Sequence[str] = ()) -> web.Response:
    """One object, or a Table with its row."""
    if request.method == "GET" and wants_table(request):
        metadata = {"resourceVersion": str(entry.revision)}
        return json_answer(
            table_body(entry.resource, [entry], request.query.get("includeObject", ""), metadata)
        )
    return json_answer(entry.raw, status, warning_headers(warnings))
