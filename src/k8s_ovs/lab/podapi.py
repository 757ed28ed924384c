"""What a kubelet and a scheduler write to the Kubernetes API: Nodes, Pod status, bindings, last deletions, events.

Used by the kubelet and its workers. Raises KubeError's kinds, except where it says that it does not.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from k8s_ovs.errors import KubeError
from k8s_ovs.lab import objects
from k8s_ovs.lab.objects import NODES, PODS, LabPod
from k8s_ovs.sources.kube.client import DEFAULT_TIMEOUT, KubeClient
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK
from k8s_ovs.sources.kube.credentials import Credentials
from k8s_ovs.sources.kube.objects import ObjectReference
from k8s_ovs.sources.kube.transport import Call, Transport

log = logging.getLogger(__name__)


class PodApi:
    """`async with PodApi(credentials) as api`. `client` is the product's own client, for reading.

    `token_seconds` is how long tokens of service accounts live that are asked for here.
    """

    def __init__(self, credentials: Credentials, *, token_seconds: int = 3607) -> None:
        self.token_seconds = token_seconds
        self.client = KubeClient(credentials, component="kubelet")
        self._transport = Transport(credentials, agent="kubelet", timeout=DEFAULT_TIMEOUT, clock=SYSTEM_CLOCK)

    async def __aenter__(self) -> "PodApi":
        await self.client.__aenter__()
        await self._transport.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()
        await self.client.__aexit__(None, None, None)

    async def create_node(self, body: dict[str, Any]) -> None:
        """Register a Node. Raises KubeConflict if it exists."""
        await self._send("POST", NODES.path(), body)

    async def set_node_status(self, name: str, status: dict[str, Any]) -> None:
        """Set addresses and conditions of a Node."""
        await self.client.patch(NODES, name, {"status": status}, subresource="status")

    async def set_status(self, pod: LabPod, status: dict[str, Any]) -> None:
        """Set the status of this very Pod (another of the same name is a KubeConflict)."""
        meta = pod.metadata
        body = {"metadata": {"uid": meta.uid}, "status": status}
        await self.client.patch(PODS, meta.name, body, meta.namespace, subresource="status")

    async def bind(self, pod: LabPod, node: str) -> None:
        """Give the Pod to a node."""
        meta = pod.metadata
        path = PODS.path(namespace=meta.namespace, name=meta.name, subresource="binding")
        await self._send("POST", path, objects.binding(pod, node))

    async def delete_now(self, pod: LabPod) -> None:
        """The kubelet's last word on a Pod that is being deleted: nothing of it is left on the node."""
        meta = pod.metadata
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": meta.uid},
        }
        await self._send("DELETE", PODS.path(namespace=meta.namespace, name=meta.name), options)

    async def tell(self, pod: LabPod, reason: str, message: str) -> None:
        """A Warning event on the Pod. An event that cannot be written is a line in the log and no more."""
        meta = pod.metadata
        about = ObjectReference(
            kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid, api_version="v1"
        )
        try:
            await self.client.create_event(about, reason, message, warning=True)
        except KubeError as err:
            log.warning("pod %s: event %s not written: %s", pod.title, reason, err)

    async def read(self, path: str) -> dict[str, Any]:
        """One object or list as the API has it."""
        found: dict[str, Any] = json.loads(await self._transport.send(Call("GET", path)))
        return found

    async def post(self, path: str, body: dict[str, Any], query: Mapping[str, str] | None = None) -> bytes:
        """Create something; the answer."""
        return await self._transport.send(Call("POST", path, query or {}, json.dumps(body).encode()))

    async def delete(self, path: str, options: dict[str, Any]) -> None:
        """Delete something."""
        await self._send("DELETE", path, options)

    async def _send(self, method: str, path: str, body: dict[str, Any]) -> None:
        await self._transport.send(Call(method, path, body=json.dumps(body).encode()))
