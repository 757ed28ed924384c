"""What the verbs mean: create, update and patch with the rules of each kind; deletion is in deletion.py.

Called by the HTTP handlers and the built-in controllers with decoded objects. Answers entries of the store; raises
ApiError for everything that a client did wrong.
"""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network

from k8s_ovs.lab.kubeapi import answers, defaults, schema, strategy, validation, workloads
from k8s_ovs.lab.kubeapi.nodeports import NodePorts
from k8s_ovs.lab.kubeapi.resources import (
    NAMESPACES,
    PODS,
    SERVICES,
    WORKLOADS,
    Key,
    Object,
    Resource,
    field,
    key_of,
    meta,
)
from k8s_ovs.lab.kubeapi.services import ClusterIps
from k8s_ovs.lab.kubeapi.store import Entry, Store

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def now() -> str:
    """The time as `metav1.Time` is written."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Query parameters of a write. `warnings` collects texts for the Warning header."""

    strict: bool = False
    dry_run: bool = False
    subresource: str = ""
    warnings: list[str] | None = None


PLAIN = WriteOptions()


class Registry:
    """The API's objects with the rules that writes have to keep."""

    def __init__(self, store: Store, service_cidr: IPv4Network) -> None:
        self.store = store
        self.cluster_ips = ClusterIps(store, service_cidr)
        self.node_ports = NodePorts(store)

    def get(self, resource: Resource, key: Key) -> Entry:
        """The object. Raises ApiError 404."""
        entry = self.store.get(resource, key)
        if entry is None:
            raise answers.not_found(resource, key[1])
        return entry

    def create(self, resource: Resource, namespace: str, obj: Object, options: WriteOptions = PLAIN) -> Entry:
        """Create the object, which the registry may change. Raises ApiError."""
        self._conform(resource, obj, options)
        self._place(resource, namespace, obj)
        own = meta(obj)
        if own.pop("resourceVersion", ""):
            raise answers.bad_request("resourceVersion should not be set on objects to be created")
        generated = not own.get("name") and bool(own.get("generateName"))
        if generated:
            own["name"] = own["generateName"][:58] + "".join(secrets.choice(_ALPHABET) for _ in range(5))
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"):
            own.pop(name, None)
        own["uid"] = str(uuid.uuid4())
        own["creationTimestamp"] = now()
        if resource.namespaced:
            self._check_namespace(resource, namespace, own.get("name", ""))
        strategy.prepare_create(resource, obj)
        self._admit(resource, obj, None)
        if self.store.get(resource, key_of(resource, obj)) is not None:
            raise answers.already_exists(resource, own["name"])
        return self._commit(resource, obj, options)

    def update(
        self, resource: Resource, key: Key, obj: Object, options: WriteOptions = PLAIN
    ) -> tuple[Entry, bool]:
        """Replace the object (or its status); the answer tells whether it was created. Raises ApiError."""
        old = self.store.get(resource, key)
        if old is None:
            if resource.create_on_update and not options.subresource:
                meta(obj).pop("resourceVersion", None)
                meta(obj).setdefault("name", key[1])
                return self.create(resource, key[0], obj, options), True
            raise answers.not_found(resource, key[1])
        self._conform(resource, obj, options)
        self._place(resource, key[0], obj)
        if meta(obj).get("name", key[1]) != key[1]:
            raise answers.bad_request(
                f"the name of the object ({meta(obj)['name']}) does not match the name on the URL ({key[1]})"
            )
        if not meta(obj).get("resourceVersion") and not resource.unconditional_update:
            raise answers.invalid(
                resource.kind,
                resource.group,
                key[1],
                [answers.Problem.invalid("metadata.resourceVersion", 0, "must be specified for an update")],
            )
        return self._replace(resource, old, obj, options), False

    def patch(
        self, resource: Resource, key: Key, change: Callable[[Object], Object], options: WriteOptions = PLAIN
    ) -> Entry:
        """Replace the object by what `change` makes of a copy of it. Raises ApiError."""
        old = self.get(resource, key)
        obj = change(old.copy())
        if not isinstance(obj, dict):
            raise answers.bad_request("the patch does not leave an object")
        self._conform(resource, obj, options)
        self._place(resource, key[0], obj)
        return self._replace(resource, old, obj, options)

    def bind(self, key: Key, binding: Object, options: WriteOptions = PLAIN) -> None:
        """Put a pod on a node, once. Raises ApiError 409 when it is on one already."""
        old = self.get(PODS, key)
        node = field(binding, "target.name")
        if not isinstance(node, str) or not node:
            raise answers.invalid("Binding", "", key[1], [answers.Problem.required("target.name")])
        if meta(old.obj).get("deletionTimestamp"):
            raise answers.conflict(
                PODS, key[1], f"pod {key[1]} is being deleted, cannot be assigned to a host"
            )
        if taken := field(old.obj, "spec.nodeName"):
            raise answers.conflict(PODS, key[1], f'pod {key[1]} is already assigned to node "{taken}"')
        pod = old.copy()
        pod["spec"]["nodeName"] = node
        conditions = pod["status"].setdefault("conditions", [])
        conditions[:] = [c for c in conditions if c.get("type") != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()})
        self._commit(PODS, pod, options)

    def _conform(self, resource: Resource, obj: Object, options: WriteOptions) -> None:
        kind, version = obj.get("kind", resource.kind), obj.get("apiVersion", resource.api_version)
        if kind != resource.kind or version != resource.api_version:
            raise answers.bad_request(
                f"the object provided is of {version} {kind}, but the path takes {resource.api_version} {resource.kind}"
            )
        obj.setdefault("metadata", {})
        unknown = schema.conform(resource, obj)
        if unknown and options.strict:
            raise answers.bad_request(schema.strict_error(resource, unknown))
        if unknown and options.warnings is not None:
            options.warnings.extend(f'unknown field "{path}"' for path in unknown)

    @staticmethod
    def _place(resource: Resource, namespace: str, obj: Object) -> None:
        obj.setdefault("metadata", {})
        if not resource.namespaced:
            meta(obj).pop("namespace", None)
        elif meta(obj).setdefault("namespace", namespace) != namespace:
            raise answers.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        entry = self.store.get(NAMESPACES, ("", namespace))
        if entry is None:
            raise answers.not_found(NAMESPACES, namespace)
        if meta(entry.obj).get("deletionTimestamp"):
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise answers.forbidden(resource, name, why, [cause])

    def _replace(self, resource: Resource, old: Entry, obj: Object, options: WriteOptions) -> Entry:
        own, before = meta(obj), meta(old.obj)
        if own.get("resourceVersion") and own["resourceVersion"] != before["resourceVersion"]:
            raise answers.conflict(resource, old.key[1])
        if own.get("uid") and own["uid"] != before["uid"]:
            raise answers.conflict(
                resource,
                old.key[1],
                f"Precondition failed: UID in precondition: {own['uid']}, UID in object meta: {before['uid']}",
            )
        strategy.prepare_update(resource, obj, old.obj, options.subresource)
        self._admit(resource, obj, old.obj)
        if resource in WORKLOADS:
            workloads.prepare_update(obj, old.obj)
        if _same(obj, old.obj):
            return old
        if strategy.is_released(obj):
            return old if options.dry_run else self.store.remove(resource, old.key)
        return self._commit(resource, obj, options)

    def _admit(self, resource: Resource, obj: Object, old: Object | None) -> None:
        defaults.fill(resource, obj)
        defaults.omit_empty(meta(obj))
        problems = validation.validate(resource, obj)
        if old is not None:
            problems += strategy.check_update(resource, obj, old)
        if problems:
            raise answers.invalid(resource.kind, resource.group, meta(obj).get("name", ""), problems)
        if resource is SERVICES:
            self.cluster_ips.assign(obj, old)
            self.node_ports.assign(obj, old)

    def _commit(self, resource: Resource, obj: Object, options: WriteOptions) -> Entry:
        if options.dry_run:
            return Entry.build(resource, obj, self.store.revision)
        return self.store.put(resource, obj)


def _same(new: Object, old: Object) -> bool:
    """Equal but for the revision: then nothing is written and nobody is told."""
    ours = {**new, "metadata": {**meta(new), "resourceVersion": ""}}
    return ours == {**old, "metadata": {**meta(old), "resourceVersion": ""}}
