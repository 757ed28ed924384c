"""The controllers of DaemonSets, Deployments and StatefulSets, and the end of pods whose owner is gone.

Run by the supervisor while the lab has the embedded API (a real kube-controller-manager does this itself). Level-triggered:
looks at everything again whenever a workload, pod or node changes.
"""

import asyncio
import contextlib
import json
import logging
import secrets
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec

from k8s_ovs.errors import KubeConflict, KubeError, KubeNotFound
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.workloads import claims, rollout
from k8s_ovs.lab.workloads.rollout import HASH, NewPod, OwnPod, Plan, Raw
from k8s_ovs.sources.kube.credentials import Credentials
from k8s_ovs.sources.kube.objects import Condition, KubeObject, KubeStruct, ObjectMeta, Resource
from k8s_ovs.sources.kube.reflector import Deleted, Reflector, Upserted

log = logging.getLogger(__name__)

_AGAIN = 1.0


class _PodSpec(KubeStruct, frozen=True, kw_only=True):
    node_name: str = ""


class _ConditionAt(Condition, frozen=True, kw_only=True):
    last_transition_time: str = ""


class _PodStatus(KubeStruct, frozen=True, kw_only=True):
    conditions: tuple[_ConditionAt, ...] | None = None


class _Pod(KubeObject, frozen=True, kw_only=True):
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _Meta(ObjectMeta, frozen=True, kw_only=True):
    generation: int = 0


class _Workload(KubeObject, frozen=True, kw_only=True):
    metadata: _Meta
    spec: Raw
    status: Raw = msgspec.field(default_factory=dict)


class _NodeOnly(KubeObject, frozen=True, kw_only=True):
    pass


PODS = Resource("api/v1", "pods", "Pod", namespaced=True, type=_Pod)
NODES = Resource("api/v1", "nodes", "Node", namespaced=False, type=_NodeOnly)
DAEMON_SETS = Resource("apis/apps/v1", "daemonsets", "DaemonSet", namespaced=True, type=_Workload)
DEPLOYMENTS = Resource("apis/apps/v1", "deployments", "Deployment", namespaced=True, type=_Workload)
STATEFUL_SETS = Resource("apis/apps/v1", "statefulsets", "StatefulSet", namespaced=True, type=_Workload)
_WATCHED: tuple[Resource[Any], ...] = (PODS, NODES, DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS)
_OWNERS: tuple[Resource[Any], ...] = (DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS)


class WorkloadControllers:
    """All three of them."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._known: dict[str, dict[tuple[str, str], Any]] = {r.plural: {} for r in _WATCHED}
        self._synced: set[str] = set()
        self._due = asyncio.Event()
        self._claims = claims.ClaimKeeper()

    async def run(self) -> None:
        """Work until cancelled; outages of the API are waited out."""
        async with PodApi(self._credentials) as api, asyncio.TaskGroup() as tasks:
            for resource in _WATCHED:
                tasks.create_task(self._watch(api, resource), name=f"watch {resource.plural}")
            while True:
                try:
                    async with asyncio.timeout(_AGAIN):
                        await self._due.wait()
                except TimeoutError:
                    pass
                self._due.clear()
                if len(self._synced) == len(_WATCHED):
                    await self._look(api)

    async def _watch(self, api: PodApi, resource: Resource[Any]) -> None:
        known = self._known[resource.plural]
        async with aclosing(Reflector(api.client, resource).watch()) as batches:
            async for batch in batches:
                for change in batch:
                    if isinstance(change, Upserted):
                        known[change.object.key] = change.object
                    elif isinstance(change, Deleted):
                        known.pop((change.namespace, change.name), None)
                    else:
                        self._synced.add(resource.plural)
                self._due.set()

    async def _look(self, api: PodApi) -> None:
        try:
            await self._collect(api)
            for resource in _OWNERS:
                for workload in list(self._known[resource.plural].values()):
                    if workload.metadata.deletion_timestamp is None:
                        await self._reconcile(api, resource, workload)
        except KubeError as err:
            log.warning("workloads: %s", err)
            self._due.set()
            await asyncio.sleep(_AGAIN)

    async def _collect(self, api: PodApi) -> None:
        """Delete pods and claims whose owner is gone, as the garbage collector does."""
        kinds = {resource.kind for resource in _OWNERS}
        living = {
            workload.metadata.uid
            for resource in _OWNERS
            for workload in self._known[resource.plural].values()
        }
        for pod in list(self._known["pods"].values()):
            owners = [owner for owner in pod.metadata.owner_references or () if owner.kind in kinds]
            if owners and not any(owner.uid in living for owner in owners):
                await self._delete(api, pod)
        await self._claims.collect(api, living)

    async def _reconcile(self, api: PodApi, resource: Resource[Any], workload: _Workload) -> None:
        spec, own = workload.spec, self._own(workload)
        if resource is DAEMON_SETS:
            plan = rollout.daemon_set(spec, own, self._nodes(spec))
        elif resource is DEPLOYMENTS:
            plan = rollout.deployment(spec, own)
        else:
            plan = rollout.stateful_set(workload.metadata.name, spec, own)
            await self._claims.keep(api, {"metadata": msgspec.to_builtins(workload.metadata), "spec": spec})
        for old in plan.delete:
            pod = self._known["pods"].get((workload.metadata.namespace, old.name))
            if pod is not None:
                await self._delete(api, pod)
        for new in plan.create:
            await self._create(api, resource, workload, new)
        await self._tell(api, resource, workload, plan)

    def _own(self, workload: _Workload) -> list[OwnPod]:
        seconds = float(workload.spec.get("minReadySeconds", 0))
        return [
            _own_pod(pod, seconds)
            for pod in self._known["pods"].values()
            if any(owner.uid == workload.metadata.uid for owner in pod.metadata.owner_references or ())
        ]

    def _nodes(self, spec: Raw) -> list[str]:
        """The nodes that the template's nodeSelector allows. DaemonSets tolerate a node that is not ready."""
        selector = (spec["template"]["spec"].get("nodeSelector") or {}).items()
        return sorted(
            node.metadata.name
            for node in self._known["nodes"].values()
            if all((node.metadata.labels or {}).get(label) == value for label, value in selector)
        )

    async def _delete(self, api: PodApi, pod: _Pod) -> None:
        if pod.metadata.deletion_timestamp is not None:
            return
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": pod.metadata.uid},
        }
        meta = pod.metadata
        try:
            await api.delete(PODS.path(namespace=meta.namespace, name=meta.name), body)
        except (KubeNotFound, KubeConflict):
            self._due.set()

    async def _create(self, api: PodApi, resource: Resource[Any], workload: _Workload, new: NewPod) -> None:
        created = json.loads(
            await api.post(
                PODS.path(namespace=workload.metadata.namespace), pod_of(resource.kind, workload, new)
            )
        )
        meta = created["metadata"]
        # Known before the watch tells, or the next look would make another one.
        owners = {"metadata": meta, "spec": {"nodeName": new.node}}
        self._known["pods"].setdefault((meta["namespace"], meta["name"]), msgspec.convert(owners, _Pod))

    async def _tell(self, api: PodApi, resource: Resource[Any], workload: _Workload, plan: Plan) -> None:
        meta = workload.metadata
        status = {**plan.status, "observedGeneration": meta.generation}
        known = workload.status
        if all(known.get(name, 0) == value for name, value in status.items()):
            return
        with contextlib.suppress(KubeNotFound, KubeConflict):  # the watch tells
            await api.client.patch(
                resource, meta.name, {"status": status}, meta.namespace, subresource="status"
            )


def pod_of(kind: str, workload: _Workload, new: NewPod) -> Raw:
    """The Pod that a workload creates from its template."""
    template = workload.spec["template"]
    meta = workload.metadata
    labels = {**(template.get("metadata", {}).get("labels") or {}), HASH: rollout.template_hash(template)}
    spec = {**template["spec"], **({"nodeName": new.node} if new.node else {})}
    name = new.name or f"{meta.name}-{secrets.token_hex(3)}"
    if kind == STATEFUL_SETS.kind:
        labels["statefulset.kubernetes.io/pod-name"] = name
        spec = claims.with_claims(spec, workload.spec.get("volumeClaimTemplates") or (), name)
    owner = {"apiVersion": "apps/v1", "kind": kind, "name": meta.name, "uid": meta.uid, "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": meta.namespace,
            "labels": labels,
            "annotations": template.get("metadata", {}).get("annotations") or {},
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def _own_pod(pod: _Pod, seconds: float) -> OwnPod:
    ready = next((c for c in pod.status.conditions or () if c.type == "Ready" and c.status == "True"), None)
    return OwnPod(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        node=pod.spec.node_name,
        hash=(pod.metadata.labels or {}).get(HASH, ""),
        ready=ready is not None,
        available=ready is not None and _age(ready.last_transition_time) >= seconds,
        deleting=pod.metadata.deletion_timestamp is not None,
    )


def _age(when: str) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
    except ValueError:
        return 0.0
