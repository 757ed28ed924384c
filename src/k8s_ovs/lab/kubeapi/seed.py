"""What every cluster has from the start: the Namespaces default and kube-system, and the Service default/kubernetes.

Called by the server at each start; makes what is missing and leaves the rest, except that the endpoints of
default/kubernetes always say where the API is now.
"""

from k8s_ovs.lab.kubeapi.controller import SKIP_MIRROR
from k8s_ovs.lab.kubeapi.registry import Registry
from k8s_ovs.lab.kubeapi.resources import ENDPOINT_SLICES, ENDPOINTS, NAMESPACES, SERVICES, Object
from k8s_ovs.lab.kubeapi.slices import SERVICE_NAME

_KEY = ("default", "kubernetes")


def seed(registry: Registry, advertise: tuple[str, int] | None) -> None:
    """Make what is missing; with `advertise`, write the endpoints of default/kubernetes."""
    for name in ("default", "kube-system"):
        if registry.store.get(NAMESPACES, ("", name)) is None:
            registry.create(NAMESPACES, "", {"metadata": {"name": name}})
    if registry.store.get(SERVICES, _KEY) is None:
        registry.create(SERVICES, "default", _service(str(registry.cluster_ips.first), advertise))
    if advertise is not None:
        _advertise(registry, *advertise)


def _service(address: str, advertise: tuple[str, int] | None) -> Object:
    port = advertise[1] if advertise else 6443
    labels = {"component": "apiserver", "provider": "kubernetes"}
    return {
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {"clusterIP": address, "ports": [{"name": "https", "port": 443, "targetPort": port}]},
    }


def _advertise(registry: Registry, host: str, port: int) -> None:
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    written: Object = {
        "metadata": {"name": "kubernetes", "labels": {SKIP_MIRROR: "true"}},
        "subsets": [{"addresses": [{"ip": host}], "ports": ports}],
    }
    registry.update(ENDPOINTS, _KEY, written)
    slice_: Object = {
        "metadata": {"name": "kubernetes", "labels": {SERVICE_NAME: "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
        "ports": ports,
    }
    if registry.store.get(ENDPOINT_SLICES, _KEY) is None:
        registry.create(ENDPOINT_SLICES, "default", slice_)
    else:
        registry.update(ENDPOINT_SLICES, _KEY, slice_)
