"""What a pod worker reads from the API: the whole Pod, ConfigMaps and Secrets, and its service account's token.

Called by the pod worker. The token is asked for as kubelet does it (TokenRequest, bound to the pod), and again when four fifths
of its life are over.
"""

import json
import time
from typing import Any

from k8s_ovs.errors import KubeNotFound
from k8s_ovs.lab.objects import PODS, LabPod
from k8s_ovs.lab.podapi import PodApi
from k8s_ovs.lab.workloads import claims, environment
from k8s_ovs.lab.workloads.spec import PodSpec, Raw

_AGE = 0.8


class PodObjects:
    """Reads for one pod."""

    def __init__(self, api: PodApi, pod: LabPod) -> None:
        self._api = api
        self._pod = pod
        self._token = ""
        self._renew_at = 0.0

    async def read(self) -> Raw:
        """The Pod as the API has it. Raises KubeNotFound, also for another one of the same name."""
        meta = self._pod.metadata
        raw: Raw = await self._api.read(PODS.path(namespace=meta.namespace, name=meta.name))
        if raw["metadata"]["uid"] != meta.uid:
            raise KubeNotFound(f"pod {self._pod.title} is another one by now")
        return raw

    async def sources(
        self, spec: PodSpec
    ) -> tuple[dict[str, dict[str, str] | None], dict[str, dict[str, bytes] | None]]:
        """ConfigMaps and Secrets that the pod names, by name; None for those that are not there."""
        config_maps: dict[str, dict[str, str] | None] = {}
        secrets: dict[str, dict[str, bytes] | None] = {}
        for kind, name in sorted(environment.references(spec)):
            plural = "configmaps" if kind == "ConfigMap" else "secrets"
            try:
                found = await self._api.read(
                    f"/api/v1/namespaces/{self._pod.metadata.namespace}/{plural}/{name}"
                )
            except KubeNotFound:
                found = None
            if kind == "ConfigMap":
                config_maps[name] = None if found is None else dict(found.get("data") or {})
            else:
                secrets[name] = None if found is None else environment.decode_secret(found)
        return config_maps, secrets

    async def claims(self, spec: PodSpec) -> dict[str, Raw]:
        """The hostPath behind each claim that the pod names. Raises Missing while one is not bound, and LabError."""
        names = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in spec.volumes.values()
            if "persistentVolumeClaim" in volume
        ]
        namespace = self._pod.metadata.namespace
        return {name: await claims.host_path_of(self._api, namespace, name) for name in names}

    async def token(self, account: str) -> str:
        """A token of the service account that is good for a while."""
        if time.monotonic() >= self._renew_at:
            meta = self._pod.metadata
            bound = {"kind": "Pod", "apiVersion": "v1", "name": meta.name, "uid": meta.uid}
            seconds = self._api.token_seconds
            body: dict[str, Any] = {"spec": {"expirationSeconds": seconds, "boundObjectRef": bound}}
            path = f"/api/v1/namespaces/{meta.namespace}/serviceaccounts/{account}/token"
            answer = json.loads(await self._api.post(path, body))
            self._token = answer["status"]["token"]
            self._renew_at = time.monotonic() + _AGE * seconds
        return self._token
