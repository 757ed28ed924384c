"""Deleting: grace periods of pods, finalizers, preconditions, and Namespaces that take their objects with them.

Called by the HTTP handlers and, for Namespaces, by the store's listeners.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from k8s_ovs.lab.kubeapi import answers
from k8s_ovs.lab.kubeapi.registry import Registry
from k8s_ovs.lab.kubeapi.resources import NAMESPACES, PODS, RESOURCES, Key, Object, Resource, field, meta
from k8s_ovs.lab.kubeapi.store import Change, Entry, Verb

_LOG = logging.getLogger(__name__)

_KEPT_NAMESPACES = ("default", "kube-system")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a client asks of a deletion; `grace` None means the object's own."""

    grace: int | None = None
    uid: str = ""
    revision: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of it: gone at once, or still there and terminating."""

    entry: Entry
    gone: bool


class Remover:
    """Deletes objects by the rules of their kind."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store

    def delete(self, resource: Resource, key: Key, options: DeleteOptions) -> Deleted:
        """Delete one object, or mark it. Raises ApiError 404, 403 (system Namespaces), 409 (preconditions)."""
        entry = self._registry.get(resource, key)
        own = meta(entry.obj)
        if options.uid and options.uid != own["uid"]:
            why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {own['uid']}"
            raise answers.conflict(resource, key[1], why)
        if options.revision and options.revision != own["resourceVersion"]:
            why = (
                f"Precondition failed: ResourceVersion in precondition: {options.revision}, "
                f"ResourceVersion in object meta: {own['resourceVersion']}"
            )
            raise answers.conflict(resource, key[1], why)
        if resource is NAMESPACES and key[1] in _KEPT_NAMESPACES:
            raise answers.forbidden(resource, key[1], "this namespace may not be deleted")
        if options.dry_run:
            return Deleted(entry, gone=True)
        grace = _grace(resource, entry.obj, options)
        if grace or own.get("finalizers") or resource is NAMESPACES:
            return Deleted(self._mark(entry, grace), gone=False)
        return Deleted(self._store.remove(resource, key), gone=True)

    def _mark(self, entry: Entry, grace: int) -> Entry:
        obj = entry.copy()
        own = meta(obj)
        if own.get("deletionTimestamp") and own.get("deletionGracePeriodSeconds", 0) <= grace:
            return entry
        own["deletionTimestamp"] = (datetime.now(UTC) + timedelta(seconds=grace)).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        own["deletionGracePeriodSeconds"] = grace
        if entry.resource is NAMESPACES:
            del own["deletionGracePeriodSeconds"]
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        return self._store.put(entry.resource, obj)


def _grace(resource: Resource, obj: Object, options: DeleteOptions) -> int:
    """Seconds until the object may go: only a pod on a node has any, until its kubelet asks with 0."""
    if resource is not PODS:
        return 0
    if not field(obj, "spec.nodeName") or field(obj, "status.phase") in ("Succeeded", "Failed"):
        return 0
    if options.grace is not None:
        return max(options.grace, 0)
    own = field(obj, "spec.terminationGracePeriodSeconds")
    return own if isinstance(own, int) else 30


class NamespacePurge:
    """Empties Namespaces that are being deleted, and removes them when nothing is left in them.

    Level-triggered: looks again whenever an object of a terminating Namespace goes, and at start.
    """

    def __init__(self, registry: Registry, remover: Remover) -> None:
        self._store = registry.store
        self._remover = remover
        self._dirty: set[str] = set()
        self._unsubscribe = [self._store.subscribe(r, self._hear) for r in RESOURCES]
        for entry in self._store.entries(NAMESPACES):
            self._mark(entry)

    def close(self) -> None:
        """Hear no more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    def _hear(self, change: Change) -> None:
        if change.entry.resource is NAMESPACES:
            if change.verb is not Verb.DELETED:
                self._mark(change.entry)
        elif change.verb is Verb.DELETED and change.entry.key[0]:
            namespace = self._store.get(NAMESPACES, ("", change.entry.key[0]))
            if namespace is not None:
                self._mark(namespace)

    def _mark(self, namespace: Entry) -> None:
        """Purge from the event loop, not from within the change that was heard of."""
        if not meta(namespace.obj).get("deletionTimestamp"):
            return
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._purge_all)
        self._dirty.add(namespace.key[1])

    def _purge_all(self) -> None:
        names, self._dirty = self._dirty, set()
        for name in sorted(names):
            try:
                self._purge(name)
            except (
                answers.ApiError
            ) as err:  # the journal refuses; the next deletion in it, or a restart, goes on
                _LOG.warning("namespace %s: %s", name, err)

    def _purge(self, name: str) -> None:
        left = 0
        for resource in RESOURCES:
            if not resource.namespaced:
                continue
            for entry in self._store.entries(resource, name):
                if not meta(entry.obj).get("deletionTimestamp"):
                    left += not self._remover.delete(resource, entry.key, DeleteOptions()).gone
                else:
                    left += 1
        namespace = self._store.get(NAMESPACES, ("", name))
        if not left and namespace is not None and not meta(namespace.obj).get("finalizers"):
            self._store.remove(NAMESPACES, namespace.key)
