"""Who may do what: roles, bindings and the 403 of the real API server.

Called by the server for each request once it is known who asks. Reads Roles, ClusterRoles and their bindings from the
store at each decision, so that a role that is changed holds at once. Decides nothing by itself but what
`system:masters` (all) and `system:discovery` (what is served here) may do in every cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aiohttp import web

from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    Object,
)
from k8s_ovs.lab.kubeapi.routing import Target
from k8s_ovs.lab.kubeapi.store import Entry, Store

MASTERS = "system:masters"
_RBAC = "rbac.authorization.k8s.io"
_DISCOVERY = ("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/")
"""What the ClusterRole system:discovery grants everybody who is known."""
_WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()


ADMIN = User("kubernetes-admin", (MASTERS, "system:authenticated"))


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to do: a verb on a resource (with its subresource: "pods/status"), or on a bare path."""

    verb: str
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


def wish(request: web.Request, target: Target | None) -> Wish:
    """What a request wants, as the real API server names it (k8s.io/apiserver, RequestInfo)."""
    if target is None:
        return Wish(request.method.lower(), path=request.path)
    name = target.name
    resource = target.resource
    if not name and request.method != "POST":
        name = _single_name(request.query.get("fieldSelector", ""))
    return Wish(
        verb=_verb(request, target),
        group=resource.group,
        resource="/".join(filter(None, (resource.plural, target.subresource))),
        namespace=target.name if resource is NAMESPACES else target.namespace,
        name=name,
    )


def _verb(request: web.Request, target: Target) -> str:
    if request.method in ("GET", "HEAD"):
        if request.query.get("watch", "") in ("true", "1"):
            return "watch"
        return "get" if target.name else "list"
    if request.method == "DELETE":
        return "delete" if target.name else "deletecollection"
    return _WRITES.get(request.method, request.method.lower())


def _single_name(selector: str) -> str:
    """`metadata.name=x` alone is a request for x, so that resourceNames hold for list and watch too."""
    parts = dict(part.replace("==", "=").split("=", 1) for part in selector.split(",") if "=" in part)
    return parts.get("metadata.name", "")


class Authorizer:
    """RBAC over what the store holds."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, user: User, wanted: Wish) -> None:
        """Raise ApiError 403 in Kubernetes' words unless the user may."""
        if not self.allows(user, wanted):
            raise _forbidden(user, wanted)

    def allows(self, user: User, wanted: Wish) -> bool:
        """Whether a rule of a role that is bound to the user grants it."""
        if MASTERS in user.groups:
            return True
        if wanted.path:
            if wanted.verb == "get" and any(fnmatchcase(wanted.path, pattern) for pattern in _DISCOVERY):
                return True
            return any(_grants_path(rule, wanted) for rule in self._rules(user, ""))
        return any(_grants(rule, wanted) for rule in self._rules(user, wanted.namespace))

    def _rules(self, user: User, namespace: str) -> Iterator[Object]:
        bindings = list(self._store.entries(CLUSTER_ROLE_BINDINGS))
        if namespace:
            bindings += self._store.entries(ROLE_BINDINGS, namespace)
        for binding in bindings:
            if any(_is(subject, user, binding.key[0]) for subject in binding.obj.get("subjects") or []):
                role = self._role(binding)
                yield from (role.obj.get("rules") or []) if role is not None else []

    def _role(self, binding: Entry) -> Entry | None:
        """The role that a binding names; one that does not exist grants nothing."""
        reference = binding.obj.get("roleRef") or {}
        name = reference.get("name", "")
        if reference.get("kind") == "Role":
            return self._store.get(ROLES, (binding.key[0], name))
        return self._store.get(CLUSTER_ROLES, ("", name))


def _is(subject: Object, user: User, namespace: str) -> bool:
    name: str = subject.get("name", "")
    match subject.get("kind"):
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
        case "User":
            return user.name == name
        case "Group":
            return name in user.groups
    return False


def _grants(rule: Object, wanted: Wish) -> bool:
    return (
        _has(rule, "verbs", wanted.verb)
        and _has(rule, "apiGroups", wanted.group)
        and (_has(rule, "resources", wanted.resource) or _any_with_subresource(rule, wanted.resource))
        and (not (names := rule.get("resourceNames")) or wanted.name in set(names))
    )


def _any_with_subresource(rule: Object, resource: str) -> bool:
    """`*/status` is the subresource of every resource."""
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in (rule.get("resources") or [])


def _grants_path(rule: Object, wanted: Wish) -> bool:
    paths = rule.get("nonResourceURLs") or []
    found: bool = any(
        path == wanted.path or (path.endswith("*") and wanted.path.startswith(path[:-1])) for path in paths
    )
    return found and _has(rule, "verbs", wanted.verb)


def _has(rule: Object, what: str, value: str) -> bool:
    return bool({"*", value} & set(rule.get(what) or ()))


def _forbidden(user: User, wanted: Wish) -> ApiError:
    """The wording of the real API server (k8s.io/apiserver, responsewriters.Forbidden)."""
    if wanted.path:
        why = f'forbidden: User "{user.name}" cannot {wanted.verb} path "{wanted.path}"'
        return ApiError(403, "Forbidden", why, {})
    plural = wanted.resource.partition("/")[0]
    qualified = f"{plural}.{wanted.group}" if wanted.group else plural
    named = f'{qualified} "{wanted.name}"' if wanted.name else qualified
    where = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    message = (
        f'{named} is forbidden: User "{user.name}" cannot {wanted.verb} resource "{wanted.resource}" '
        f'in API group "{wanted.group}" {where}'
    )
    details = {"name": wanted.name, "group": wanted.group, "kind": plural}
    return ApiError(403, "Forbidden", message, {key: value for key, value in details.items() if value})


def role_problem(binding: Object) -> str:
    """Why a binding's roleRef cannot be, or ""."""
    reference = binding.get("roleRef") or {}
    if reference.get("apiGroup", _RBAC) != _RBAC or reference.get("kind") not in ("Role", "ClusterRole"):
        return "must be a Role or ClusterRole of rbac.authorization.k8s.io"
    return "" if reference.get("name") else "the name of the role is missing"
