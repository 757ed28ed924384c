"""Which resources this API serves: one record each, and the fields that selectors may name.

Read by every other module of this package; holds no state.
"""

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as decoded JSON. Objects in the store are shared: copy before changing one."""

Key = tuple[str, str]
"""(namespace, name); the namespace is "" for cluster-wide resources."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource: how it is called, where it lives, which parts of it are separate.

    `fields` maps the labels of field selectors to paths in the object, beyond metadata.name and metadata.namespace.
    `status` says that writes to the object leave `status` alone, and writes to `/status` touch nothing else.
    """

    group: str
    version: str
    plural: str
    kind: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    status: bool = False
    categories: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    unconditional_update: bool = True
    create_on_update: bool = False
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """`apiVersion` of its objects: "v1", "coordination.k8s.io/v1"."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """The name that kubectl accepts for one object."""
        return self.kind.lower()

    @property
    def qualified(self) -> str:
        """Plural and group as the API's messages name it: "pods", "leases.coordination.k8s.io"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def id(self) -> str:
        """A unique name: "pods", "coordination.k8s.io/leases"."""
        return f"{self.group}/{self.plural}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "") -> str:
        """URL path of the collection or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


NAMESPACES = Resource(
    "",
    "v1",
    "namespaces",
    "Namespace",
    ("ns",),
    namespaced=False,
    status=True,
    fields=("status.phase",),
    subresources=("finalize",),
)
NODES = Resource(
    "", "v1", "nodes", "Node", ("no",), namespaced=False, status=True, fields=("spec.unschedulable",)
)
PODS = Resource(
    "",
    "v1",
    "pods",
    "Pod",
    ("po",),
    status=True,
    categories=("all",),
    fields=(
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    subresources=("binding",),
)
SERVICES = Resource(
    "",
    "v1",
    "services",
    "Service",
    ("svc",),
    status=True,
    categories=("all",),
    fields=("spec.clusterIP", "spec.type"),
)
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints", ("ep",), create_on_update=True)
EVENTS = Resource(
    "",
    "v1",
    "events",
    "Event",
    ("ev",),
    create_on_update=True,
    fields=(
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", ("cm",))
SECRETS = Resource("", "v1", "secrets", "Secret", fields=("type",))
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", ("sa",), subresources=("token",))
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES = Resource(
    "coordination.k8s.io", "v1", "leases", "Lease", unconditional_update=False, create_on_update=True
)
_APPS, _RBAC = "apps", "rbac.authorization.k8s.io"
DAEMON_SETS = Resource(_APPS, "v1", "daemonsets", "DaemonSet", ("ds",), status=True, categories=("all",))
DEPLOYMENTS = Resource(
    _APPS, "v1", "deployments", "Deployment", ("deploy",), status=True, categories=("all",)
)
STATEFUL_SETS = Resource(
    _APPS, "v1", "statefulsets", "StatefulSet", ("sts",), status=True, categories=("all",)
)
WORKLOADS = (DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS)
ROLES = Resource(_RBAC, "v1", "roles", "Role")
CLUSTER_ROLES = Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
ROLE_BINDINGS = Resource(_RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE_BINDINGS = Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
PRIORITY_CLASSES = Resource(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", ("pc",), namespaced=False
)
DISRUPTION_BUDGETS = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", ("pdb",), status=True
)
VOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume", ("pv",), namespaced=False, status=True)
VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", ("pvc",), status=True)
STORAGE_CLASSES = Resource(
    "storage.k8s.io", "v1", "storageclasses", "StorageClass", ("sc",), namespaced=False
)

RESOURCES: tuple[Resource, ...] = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    ENDPOINTS,
    EVENTS,
    CONFIG_MAPS,
    SECRETS,
    SERVICE_ACCOUNTS,
    ENDPOINT_SLICES,
    LEASES,
    VOLUMES,
    VOLUME_CLAIMS,
    *WORKLOADS,
    ROLES,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    CLUSTER_ROLE_BINDINGS,
    PRIORITY_CLASSES,
    DISRUPTION_BUDGETS,
    STORAGE_CLASSES,
)
BY_ID: dict[str, Resource] = {resource.id: resource for resource in RESOURCES}
BY_PATH: dict[tuple[str, str, str], Resource] = {(r.group, r.version, r.plural): r for r in RESOURCES}
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(r.group for r in RESOURCES))


def meta(obj: Object) -> Object:
    """The object's metadata; an empty one when it has none."""
    value = obj.get("metadata")
    return value if isinstance(value, dict) else {}


def key_of(resource: Resource, obj: Object) -> Key:
    """Where the object lives in the store."""
    return (meta(obj).get("namespace", "") if resource.namespaced else "", meta(obj).get("name", ""))


def field(obj: Object, path: str) -> Any:
    """The value under a dotted path, or None."""
    value: Any = obj
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
