"""Node ports: each port of a Service of type NodePort or LoadBalancer gets one of 30000 to 32767 and keeps it.

Called by the registry when a Service is written. Which are in use is read from the store, as with cluster IPs. The same
number may serve two protocols of one Service, and of several, as in Kubernetes.
"""

from collections.abc import Iterator

from k8s_ovs.lab.kubeapi.answers import ApiError, Problem, invalid
from k8s_ovs.lab.kubeapi.resources import SERVICES, Object, meta
from k8s_ovs.lab.kubeapi.store import Store

FIRST, LAST = 30000, 32767
"""The default of kube-apiserver's --service-node-port-range."""
TYPES = ("NodePort", "LoadBalancer")
Number = tuple[str, int]
"""Protocol and port."""


class NodePorts:
    """The node ports of a cluster."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = FIRST

    def assign(self, service: Object, old: Object | None) -> None:
        """Set `nodePort` in the ports of a Service about to be written. Raises ApiError 422 or 500."""
        spec, before = service["spec"], _by_port(old)
        ports: list[Object] = spec.get("ports") or []
        wanted = spec.get("type") in TYPES and spec.get("allocateLoadBalancerNodePorts") is not False
        used = set(self._used(service))
        for index, port in enumerate(ports):
            kept, asked = before.get(_key(port), 0), port.get("nodePort", 0)
            if spec.get("type") not in TYPES:
                self._drop(service, index, port, kept)
            elif asked:
                self._check(service, index, (port.get("protocol", "TCP"), asked), used)
                used.add((port.get("protocol", "TCP"), asked))
            elif wanted:
                port["nodePort"] = kept or self._free(service, used)
                used.add((port.get("protocol", "TCP"), port["nodePort"]))

    def _used(self, service: Object) -> Iterator[Number]:
        """What other Services have."""
        own = (meta(service).get("namespace"), meta(service).get("name"))
        for entry in self._store.entries(SERVICES):
            if entry.key != own:
                for port in entry.obj["spec"].get("ports") or []:
                    if port.get("nodePort"):
                        yield port.get("protocol", "TCP"), port["nodePort"]

    def _drop(self, service: Object, index: int, port: Object, kept: int) -> None:
        """A Service that is of another type now loses what it had, and may not ask for one."""
        if not (asked := port.pop("nodePort", 0)) or asked == kept:
            return
        path = f"spec.ports[{index}].nodePort"
        message = "may not be used when `type` is 'ClusterIP'"
        cause = Problem(path, "FieldValueForbidden", f"Forbidden: {message}")
        raise invalid("Service", "", meta(service).get("name", ""), [cause])

    def _check(self, service: Object, index: int, number: Number, used: set[Number]) -> None:
        if not FIRST <= number[1] <= LAST:
            reason = f"provided port is not in the valid range. The range of valid ports is {FIRST}-{LAST}"
        elif number in used:
            reason = "provided port is already allocated"
        else:
            return
        problem = Problem.invalid(f"spec.ports[{index}].nodePort", number[1], reason)
        raise invalid("Service", "", meta(service).get("name", ""), [problem])

    def _free(self, service: Object, used: set[Number]) -> int:
        taken, span = {number for _, number in used}, LAST - FIRST + 1
        for step in range(span):
            number = FIRST + (self._next - FIRST + step) % span
            if number not in taken:
                self._next = number + 1
                return number
        name = meta(service).get("name")
        reason = f'failed to allocate a nodePort for "{name}": range {FIRST}-{LAST} is full'
        raise ApiError(500, "InternalError", f"Internal error occurred: {reason}")


def _by_port(service: Object | None) -> dict[Number, int]:
    """The node ports that the Service had, by protocol and port."""
    ports = ((service or {}).get("spec") or {}).get("ports") or []
    return {_key(port): port["nodePort"] for port in ports if port.get("nodePort")}


def _key(port: Object) -> Number:
    return port.get("protocol", "TCP"), port.get("port", 0)
