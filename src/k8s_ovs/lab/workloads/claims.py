"""The volumes of StatefulSets: claims made from volumeClaimTemplates, bound to PersistentVolumes, removed with their owner.

Called by the workload controllers (`ClaimKeeper`) and the pod worker (`host_path_of`). As the real controllers do it for
volumes that somebody has made beforehand; nothing provisions any here, so a claim without a volume that fits stays Pending.
"""

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from k8s_ovs.errors import KubeConflict, KubeNotFound, LabError
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.workloads.environment import Missing
from k8s_ovs.model.quantity import parse_quantity
from k8s_ovs.sources.kube.objects import KubeObject, Resource

Raw = dict[str, Any]
VOLUMES = Resource("api/v1", "persistentvolumes", "PersistentVolume", namespaced=False, type=KubeObject)
CLAIMS = Resource(
    "api/v1", "persistentvolumeclaims", "PersistentVolumeClaim", namespaced=True, type=KubeObject
)


def claim_name(template: Raw, pod: str) -> str:
    """TEMPLATE-POD: data-k8s-ovs-etcd-0."""
    return f"{template['metadata']['name']}-{pod}"


def with_claims(spec: Raw, templates: Collection[Raw], pod: str) -> Raw:
    """A StatefulSet's pod specification with the volumes of its claims; they replace volumes of the same name."""
    names = {template["metadata"]["name"]: claim_name(template, pod) for template in templates}
    kept = [volume for volume in spec.get("volumes") or () if volume["name"] not in names]
    made = [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, claim in names.items()]
    return {**spec, "volumes": [*kept, *made]} if made else spec


def new_claim(workload: Raw, template: Raw, pod: str) -> Raw:
    """The claim of one pod. It goes with the StatefulSet if `whenDeleted` says so; else it stays."""
    meta = {"name": claim_name(template, pod), "namespace": workload["metadata"]["namespace"]}
    meta["labels"] = template["metadata"].get("labels") or {}
    retention = workload["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    if retention.get("whenDeleted", "Retain") == "Delete":
        owner = {name: workload["metadata"][name] for name in ("name", "uid")}
        meta["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "StatefulSet", **owner}]
    return {"apiVersion": "v1", "kind": CLAIMS.kind, "metadata": meta, "spec": template["spec"]}


def fits(volume: Raw, claim: Raw) -> bool:
    """Whether a claim may have a volume: the one kept for it (claimRef) or a free one, of its class, modes and size."""
    has, wants, meta = volume["spec"], claim["spec"], claim["metadata"]
    if reference := has.get("claimRef"):
        same = all(reference.get(name) == meta[name] for name in ("namespace", "name"))
        if not same or reference.get("uid", meta["uid"]) != meta["uid"]:
            return False
    asked = (wants.get("resources") or {}).get("requests") or {}
    return (
        has.get("storageClassName", "") == wants.get("storageClassName", "")
        and set(wants.get("accessModes") or ()) <= set(has.get("accessModes") or ())
        and _size(has.get("capacity")) >= _size(asked)
    )


def _size(quantities: Mapping[str, str] | None) -> Any:
    return parse_quantity((quantities or {}).get("storage", "0"))


async def host_path_of(api: PodApi, namespace: str, name: str) -> Raw:
    """The hostPath behind a claim. Raises Missing while it is not bound, LabError for other kinds of volumes."""
    try:
        claim = await api.read(CLAIMS.path(namespace=namespace, name=name))
        volume_name = claim["spec"].get("volumeName", "")
        if not volume_name or (claim.get("status") or {}).get("phase") != "Bound":
            raise Missing(f'persistentvolumeclaim "{name}" is not bound')
        volume = await api.read(VOLUMES.path(name=volume_name))
    except KubeNotFound as err:
        raise Missing(f'persistentvolumeclaim "{name}": {err}') from err
    found: Raw | None = volume["spec"].get("hostPath")
    if found is None:
        raise LabError(
            f"PersistentVolume {volume_name} is not a hostPath", remedy="the lab knows that kind only"
        )
    return found


class ClaimKeeper:
    """Makes and binds the claims of StatefulSets. `claims` are those that it has to delete with their owner: to its uid."""

    def __init__(self) -> None:
        self._owned: dict[tuple[str, str], str] = {}
        self._bound: set[tuple[str, str]] = set()

    async def keep(self, api: PodApi, workload: Raw) -> None:
        """Make and bind what its pods need. Raises KubeError."""
        meta, spec = workload["metadata"], workload["spec"]
        for index in range(spec.get("replicas", 1)):
            for template in spec.get("volumeClaimTemplates") or ():
                wanted = new_claim(workload, template, f"{meta['name']}-{index}")
                key = (meta["namespace"], wanted["metadata"]["name"])
                if "ownerReferences" in wanted["metadata"]:
                    self._owned[key] = meta["uid"]
                if (meta["uid"], key[1]) not in self._bound and await self._bind(api, wanted):
                    self._bound.add((meta["uid"], key[1]))

    async def collect(self, api: PodApi, living: Collection[str]) -> None:
        """Delete the claims whose owner is gone. Raises KubeError."""
        for (namespace, name), owner in list(self._owned.items()):
            if owner not in living:
                with contextlib.suppress(KubeNotFound):
                    await api.client.delete(CLAIMS, name, namespace)
                del self._owned[namespace, name]

    @staticmethod
    async def _bind(api: PodApi, wanted: Raw) -> bool:
        meta = wanted["metadata"]
        with contextlib.suppress(KubeConflict):  # it is there already
            await api.post(CLAIMS.path(namespace=meta["namespace"]), wanted)
        claim = await api.read(CLAIMS.path(namespace=meta["namespace"], name=meta["name"]))
        volumes = (await api.read(VOLUMES.path()))["items"]
        # What is kept for this claim goes before what anybody may have.
        volumes.sort(key=lambda volume: "claimRef" not in volume["spec"])
        chosen = next((volume for volume in volumes if fits(volume, claim)), None)
        phase = "Pending" if chosen is None else "Bound"
        if chosen is not None:
            reference = {"apiVersion": "v1", "kind": CLAIMS.kind}
            reference |= {name: claim["metadata"][name] for name in ("namespace", "name", "uid")}
            name = chosen["metadata"]["name"]
            await api.client.patch(VOLUMES, name, {"spec": {"claimRef": reference}})
            await api.client.patch(VOLUMES, name, {"status": {"phase": "Bound"}}, subresource="status")
            await api.client.patch(CLAIMS, meta["name"], {"spec": {"volumeName": name}}, meta["namespace"])
        if (claim.get("status") or {}).get("phase") != phase:
            body = {"status": {"phase": phase}}
            await api.client.patch(CLAIMS, meta["name"], body, meta["namespace"], subresource="status")
        return chosen is not None
