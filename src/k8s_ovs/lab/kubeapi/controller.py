"""The endpoints controller: keeps Endpoints and EndpointSlices of every Service in step with its pods.

Runs inside the API server, on the event loop. Level-triggered: a change of a Service, a pod or a hand-written
Endpoints object marks the Services it may concern, and those are computed anew a moment later from what is in the store.
Services without a selector keep their hand-written Endpoints, which are mirrored into slices.
"""

import asyncio
import logging

from k8s_ovs.lab.kubeapi import endpoints, slices
from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.registry import Registry
from k8s_ovs.lab.kubeapi.resources import (
    ENDPOINT_SLICES,
    ENDPOINTS,
    PODS,
    SERVICES,
    Key,
    Object,
    Resource,
    field,
    meta,
)
from k8s_ovs.lab.kubeapi.store import Change, Entry

_LOG = logging.getLogger(__name__)

DELAY = 0.01
"""Seconds that changes are gathered for before a Service is computed anew."""
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
_MANAGED = "endpoints.kubernetes.io/managed-by"
_MANAGER = "endpoint-controller"


class EndpointsController:
    """Writes the Endpoints and EndpointSlices of Services; `close` ends it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._dirty: set[Key] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe = [
            self._store.subscribe(SERVICES, lambda change: self._mark(change.entry.key)),
            self._store.subscribe(ENDPOINTS, lambda change: self._mark(change.entry.key)),
            self._store.subscribe(ENDPOINT_SLICES, self._hear_slice),
            self._store.subscribe(PODS, self._hear_pod),
        ]
        for resource in (SERVICES, ENDPOINTS):
            for entry in self._store.entries(resource):
                self._mark(entry.key)

    def close(self) -> None:
        """Hear no more, write no more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        if self._timer is not None:
            self._timer.cancel()

    def _hear_slice(self, change: Change) -> None:
        own = meta(change.entry.obj).get("labels") or {}
        if own.get(slices.MANAGED_BY) in (slices.CONTROLLER, slices.MIRROR):
            self._mark((change.entry.key[0], own.get(slices.SERVICE_NAME, "")))

    def _hear_pod(self, change: Change) -> None:
        versions = [entry.obj for entry in (change.entry, change.previous) if entry]
        for service in self._store.entries(SERVICES, change.entry.key[0]):
            selector = field(service.obj, "spec.selector")
            if selector and any(_selects(selector, pod) for pod in versions):
                self._mark(service.key)

    def _mark(self, key: Key) -> None:
        self._dirty.add(key)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._reconcile_all)

    def _reconcile_all(self) -> None:
        self._timer = None
        keys, self._dirty = self._dirty, set()
        for key in sorted(keys):
            try:
                self._reconcile(key)
            except ApiError as err:  # a terminating Namespace, a full disk; the next change tries again
                _LOG.info("endpoints of %s/%s: %s", *key, err)

    def _reconcile(self, key: Key) -> None:
        service = self._store.get(SERVICES, key)
        if service is None:
            self._remove_all(key)
            return
        written = self._store.get(ENDPOINTS, key)
        if field(service.obj, "spec.selector"):
            pods = endpoints.selected(service.obj, self._store.entries(PODS, key[0]))
            self._write_endpoints(service.obj, written, endpoints.subsets(service.obj, pods))
            groups = endpoints.slice_groups(service.obj, pods)
            self._write_slices(service.obj, slices.CONTROLLER, groups)
        elif written is None or _skips(written.obj):
            for entry in self._slices(key, slices.MIRROR):
                self._store.remove(ENDPOINT_SLICES, entry.key)
        else:
            self._write_slices(service.obj, slices.MIRROR, endpoints.mirrored(written.obj))

    def _remove_all(self, key: Key) -> None:
        """The Service is gone: so is what was written for it."""
        written = self._store.get(ENDPOINTS, key)
        if written is not None and _MANAGED in (meta(written.obj).get("labels") or {}):
            self._store.remove(ENDPOINTS, key)
        for manager in (slices.CONTROLLER, slices.MIRROR):
            for entry in self._slices(key, manager):
                self._store.remove(ENDPOINT_SLICES, entry.key)

    def _slices(self, key: Key, manager: str) -> list[Entry]:
        wanted = {slices.SERVICE_NAME: key[1], slices.MANAGED_BY: manager}
        return [e for e in self._store.entries(ENDPOINT_SLICES, key[0]) if _selects(wanted, e.obj)]

    def _write_endpoints(self, service: Object, old: Entry | None, subsets: list[Object]) -> None:
        own = meta(service)
        labels = {**(own.get("labels") or {}), _MANAGED: _MANAGER}
        if endpoints.is_headless(service):
            labels[endpoints.HEADLESS] = ""
        fresh: Object = {"metadata": {"name": own["name"], "namespace": own["namespace"]}}
        obj = old.copy() if old else fresh
        meta(obj)["labels"] = labels
        obj.pop("subsets", None)
        if subsets:
            obj["subsets"] = subsets
        self._write(ENDPOINTS, old.key if old else None, obj)

    def _write_slices(
        self, service: Object, manager: str, groups: dict[endpoints.Ports, list[Object]]
    ) -> None:
        own = meta(service)
        key = (own["namespace"], own["name"])
        plan = slices.plan(service, manager, self._slices(key, manager), groups)
        for obj in plan.write:
            name = meta(obj).get("name")
            self._write(ENDPOINT_SLICES, (own["namespace"], name) if name else None, obj)
        for entry in plan.remove:
            self._store.remove(ENDPOINT_SLICES, entry.key)

    def _write(self, resource: Resource, key: Key | None, obj: Object) -> None:
        if key is None:
            self._registry.create(resource, meta(obj)["namespace"], obj)
        else:
            self._registry.update(resource, key, obj)


def _selects(selector: dict[str, str], obj: Object) -> bool:
    labels = meta(obj).get("labels") or {}
    return all(labels.get(key) == value for key, value in selector.items())


def _skips(written: Object) -> bool:
    """Endpoints that are not to be mirrored: marked so, or left behind by a selector that is gone."""
    labels = meta(written).get("labels") or {}
    return labels.get(SKIP_MIRROR) == "true" or _MANAGED in labels
