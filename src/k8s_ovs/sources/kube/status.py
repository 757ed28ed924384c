"""What the API server's error answers mean (meta/v1 Status), as errors of errors.py.

Used by the client for HTTP statuses and by the reflector for ERROR events inside a watch: both go through `error_from`.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from k8s_ovs.errors import KubeConflict, KubeDenied, KubeError, KubeGone, KubeNotFound, KubeUnavailable
from k8s_ovs.sources.kube.objects import KubeStruct

TOO_LARGE = "ResourceVersionTooLarge"
"""Cause in a Status: the server has not reached the version asked for. After a restore from a backup it never will."""
UNAVAILABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
EXCERPT = 300
"""How much of an answer that is no Status is worth showing, in characters."""


class StatusCause(KubeStruct, frozen=True, kw_only=True):
    """One cause of a failure."""

    reason: str = ""
    message: str = ""


class StatusDetails(KubeStruct, frozen=True, kw_only=True):
    """More about a failure; `retry_after_seconds` is the server's wish."""

    causes: tuple[StatusCause, ...] | None = None
    retry_after_seconds: int = 0


class Status(KubeStruct, frozen=True, kw_only=True):
    """The body of an error answer, or the object of an ERROR event."""

    message: str = ""
    reason: str = ""
    details: StatusDetails | None = None
    code: int = 0

    def has_cause(self, reason: str) -> bool:
        """Whether one of the causes has this reason."""
        causes = self.details.causes if self.details else None
        return any(cause.reason == reason for cause in causes or ())


_DECODER = msgspec.json.Decoder(Status)


def status_from(body: bytes | msgspec.Raw, *, code: int = 0) -> Status:
    """Read a Status; an answer that is none (a proxy's HTML, nothing) becomes one with an excerpt as its message."""
    try:
        status = _DECODER.decode(body)
    except msgspec.MsgspecError:
        text = bytes(body).decode(errors="replace").strip()
        return Status(message=text[:EXCERPT], code=code)
    return msgspec.structs.replace(status, code=status.code or code)


def error_from(what: str, status: Status, *, origin: str) -> KubeError:
    """The error for a failed call: `what` was tried ("GET URL"), `origin` says where the credentials come from."""
    code = status.code
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:
        phrase = "unknown status"
    reason = status.reason or phrase
    message = f"{what}: {code} {reason}" + (f": {status.message}" if status.message else "")
    if code == HTTPStatus.GONE or status.has_cause(TOO_LARGE):
        return KubeGone(message, status=code, reason=reason)
    if code == HTTPStatus.UNAUTHORIZED:
        remedy = f"renew the credentials in {origin}"
        return KubeDenied(message, status=code, reason=reason, remedy=remedy)
    if code == HTTPStatus.FORBIDDEN:
        remedy = f"grant this right to the identity of {origin} (a ClusterRole and its binding)"
        return KubeDenied(message, status=code, reason=reason, remedy=remedy)
    if code == HTTPStatus.NOT_FOUND:
        return KubeNotFound(message, status=code, reason=reason)
    if code == HTTPStatus.CONFLICT:
        return KubeConflict(message, status=code, reason=reason)
    if code in UNAVAILABLE_STATUSES:
        return KubeUnavailable(message, status=code, reason=reason)
    return KubeError(message, status=code, reason=reason)


def retry_after(code: int, headers: Mapping[str, str], *, safe: bool) -> float | None:
    """Seconds to wait before the same call may be sent again, or None if it must not be repeated here.

    429 means that the server did nothing, so every call may be repeated; 503 with Retry-After only a `safe` (reading)
    one. A date in Retry-After (RFC 9110, section 10.2.3) is something that Kubernetes does not send: one second then.
    """
    wish = headers.get("Retry-After")
    if code != HTTPStatus.TOO_MANY_REQUESTS and not (
        safe and wish and code == HTTPStatus.SERVICE_UNAVAILABLE
    ):
        return None
    try:
        return max(float(wish or 1), 1.0)
    except ValueError:
        return 1.0


def body_of(api_version: str, kind: str, obj: object) -> bytes:
    """The JSON of an object to send: our Structs do not carry apiVersion and kind, the API wants them."""
    fields = msgspec.to_builtins(obj)
    return json.dumps({"apiVersion": api_version, "kind": kind, **fields}).encode()
