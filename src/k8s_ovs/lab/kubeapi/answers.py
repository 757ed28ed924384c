"""Errors as the Kubernetes API answers them: a `metav1.Status` with code, reason and details.

Raised by every module of this package, written out by the server. The texts follow the real API server, because
kubectl and people know them.
"""

from typing import Any

from k8s_ovs.errors import LabError
from k8s_ovs.lab.kubeapi.resources import Object, Resource


class ApiError(LabError):
    """A request that is answered with an error; `status()` is the body."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}

    def status(self) -> Object:
        """The `metav1.Status` object."""
        answer: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            answer["details"] = self.details
        answer["code"] = self.code
        return answer


def _details(resource: Resource, name: str, **more: Any) -> Object:
    return {"name": name, "group": resource.group, "kind": resource.plural, **more}


def bad_request(message: str) -> ApiError:
    """400: the request itself makes no sense."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no or a wrong bearer token."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, name: str, why: str, causes: list[Object] | None = None) -> ApiError:
    """403: never allowed, whoever asks."""
    more = {"causes": causes} if causes else {}
    return ApiError(
        403,
        "Forbidden",
        f'{resource.qualified} "{name}" is forbidden: {why}',
        _details(resource, name, **more),
    )


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no object of that name."""
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def no_such_path() -> ApiError:
    """404: no resource under this path."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def not_allowed(verb: str) -> ApiError:
    """405: the resource exists, the verb does not."""
    return ApiError(
        405, "MethodNotAllowed", f"the server does not allow this method on the requested resource ({verb})"
    )


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: a create of something that exists."""
    return ApiError(
        409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(resource, name)
    )


STALE = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(resource: Resource, name: str, why: str = STALE) -> ApiError:
    """409: the object is not what the writer believed."""
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}',
        _details(resource, name),
    )


def expired(message: str) -> ApiError:
    """410: the resourceVersion or continue token is too old."""
    return ApiError(410, "Expired", message)


def unsupported_media(message: str) -> ApiError:
    """415: a body of a kind that this resource does not take."""
    return ApiError(415, "UnsupportedMediaType", message)


def invalid(kind: str, group: str, name: str, problems: list["Problem"]) -> ApiError:
    """422: fields that do not hold; all of them, not only the first."""
    texts = list(dict.fromkeys(problem.text for problem in problems))
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    causes = [{"reason": p.reason, "message": p.cause, "field": p.field} for p in problems]
    return ApiError(
        422,
        "Invalid",
        f'{kind} "{name}" is invalid: {listed}',
        {"name": name, "group": group, "kind": kind, "causes": causes},
    )


class Problem:
    """One field that does not hold, worded as apimachinery's field errors."""

    def __init__(self, path: str, reason: str, cause: str) -> None:
        self.field = path
        self.reason = reason
        self.cause = cause

    @property
    def text(self) -> str:
        """Field and cause in one line."""
        return f"{self.field}: {self.cause}"

    @classmethod
    def required(cls, path: str, detail: str = "") -> "Problem":
        """A field that must be there."""
        return cls(path, "FieldValueRequired", "Required value" + (f": {detail}" if detail else ""))

    @classmethod
    def invalid(cls, path: str, value: Any, detail: str) -> "Problem":
        """A field with a value outside its rules."""
        shown = f'"{value}"' if isinstance(value, str) else _compact(value)
        return cls(path, "FieldValueInvalid", f"Invalid value: {shown}: {detail}")

    @classmethod
    def unsupported(cls, path: str, value: str, allowed: tuple[str, ...]) -> "Problem":
        """A value that is not one of the allowed words."""
        names = ", ".join(f'"{word}"' for word in allowed)
        return cls(path, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {names}')

    @classmethod
    def duplicate(cls, path: str, value: Any) -> "Problem":
        """A value that another element of the list has already."""
        shown = f'"{value}"' if isinstance(value, str) else _compact(value)
        return cls(path, "FieldValueDuplicate", f"Duplicate value: {shown}")

    @classmethod
    def forbidden(cls, path: str, detail: str) -> "Problem":
        """A field that may not be set or changed."""
        return cls(path, "FieldValueForbidden", f"Forbidden: {detail}")


def _compact(value: Any) -> str:
    return "null" if value is None else str(value).replace("'", '"')
