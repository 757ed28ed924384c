"""What the API server fills in: the defaults of Pods, Services, Nodes and Namespaces that kubectl and agents see.

Called by the registry before validation. Changes the object it is given; touches nothing that is set.
"""

import base64
from collections.abc import Callable
from typing import Any

from k8s_ovs.lab.kubeapi import workloads
from k8s_ovs.lab.kubeapi.resources import WORKLOADS, Object, Resource, meta


def fill(resource: Resource, obj: Object) -> None:
    """Set the defaults of the resource's kind."""
    if resource in WORKLOADS:
        workloads.fill(resource, obj)
        _pod(obj["spec"].setdefault("template", {}))
    filler = _FILLERS.get(resource.id)
    if filler:
        filler(obj)


def omit_empty(metadata: Object) -> None:
    """Drop what ObjectMeta leaves out when it holds nothing; a change to it is none then."""
    for name in ("annotations", "labels", "finalizers", "ownerReferences"):
        if not metadata.get(name, True):
            del metadata[name]


def _default(target: Object, **values: Any) -> None:
    for key, value in values.items():
        if target.get(key) is None:
            target[key] = value


def _dicts(value: Any) -> list[Object]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _pod(pod: Object) -> None:
    spec = pod.setdefault("spec", {})
    _default(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
        enableServiceLinks=True,
    )
    for group in ("containers", "initContainers"):
        for container in _dicts(spec.get(group)):
            image = container.get("image")
            latest = isinstance(image, str) and (
                ":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")
            )
            _default(
                container,
                imagePullPolicy="Always" if latest else "IfNotPresent",
                terminationMessagePath="/dev/termination-log",
                terminationMessagePolicy="File",
                resources={},
            )
            for port in _dicts(container.get("ports")):
                _default(port, protocol="TCP")
                if spec.get("hostNetwork"):
                    _default(port, hostPort=port.get("containerPort"))


def _service(service: Object) -> None:
    spec = service.setdefault("spec", {})
    _default(spec, type="ClusterIP", sessionAffinity="None")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.get("sessionAffinityConfig") or {}
        _default(config, clientIP={"timeoutSeconds": 10800})
        spec["sessionAffinityConfig"] = config
    if spec["type"] != "ExternalName":
        _default(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _default(spec, externalTrafficPolicy="Cluster")
    for port in _dicts(spec.get("ports")):
        _default(port, protocol="TCP", targetPort=port.get("port"))
    _default(service, status={"loadBalancer": {}})


def _node(node: Object) -> None:
    _default(node, spec={}, status={})
    labels = meta(node).setdefault("labels", {})
    if isinstance(labels, dict):
        _default(labels, **{"kubernetes.io/hostname": meta(node).get("name", "")})


def _namespace(namespace: Object) -> None:
    _default(namespace.setdefault("spec", {}), finalizers=["kubernetes"])
    _default(namespace.setdefault("status", {}), phase="Active")
    name = meta(namespace).get("name", "")
    labels = meta(namespace).get("labels")
    if labels is None or isinstance(labels, dict):
        meta(namespace)["labels"] = {**(labels or {}), "kubernetes.io/metadata.name": name}


def _secret(secret: Object) -> None:
    _default(secret, type="Opaque")
    plain = secret.pop("stringData", None)
    if isinstance(plain, dict):
        encoded = {k: base64.b64encode(str(v).encode()).decode() for k, v in plain.items()}
        secret["data"] = {**(secret.get("data") or {}), **encoded}


def _endpoints(endpoints: Object) -> None:
    for subset in _dicts(endpoints.get("subsets")):
        for port in _dicts(subset.get("ports")):
            _default(port, protocol="TCP")


def _endpoint_slice(slice_: Object) -> None:
    slice_.setdefault("endpoints", None)  # the API writes null for none
    slice_.setdefault("ports", None)
    for port in _dicts(slice_["ports"]):
        _default(port, name="", protocol="TCP")


_FILLERS: dict[str, Callable[[Object], None]] = {
    "pods": _pod,
    "services": _service,
    "nodes": _node,
    "namespaces": _namespace,
    "secrets": _secret,
    "endpoints": _endpoints,
    "discovery.k8s.io/endpointslices": _endpoint_slice,
}
