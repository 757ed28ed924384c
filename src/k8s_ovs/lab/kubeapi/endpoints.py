"""Which pods stand behind a Service, and how that is written: Endpoints subsets and EndpointSlice endpoints.

Called by the endpoints controller. Pure. Source: the endpoint and endpointslice controllers of Kubernetes; conditions
as the EndpointSlice API reference defines them (ready = serving and not terminating, unless the Service publishes
not-ready addresses).
"""

from ipaddress import AddressValueError, IPv4Address

import msgspec

from k8s_ovs.lab.kubeapi.resources import Object, field, meta
from k8s_ovs.lab.kubeapi.store import Entry

Ports = tuple[tuple[str, int, str, str], ...]
"""(name, number, protocol, application protocol) of each port; pods with different numbers come in different groups."""

HEADLESS = "service.kubernetes.io/headless"


def selected(service: Object, pods: list[Entry]) -> list[Object]:
    """The pods that the Service selects and that have an IPv4 address and have not ended, terminating ones included."""
    selector = field(service, "spec.selector") or {}
    found = []
    for entry in pods:
        labels = meta(entry.obj).get("labels") or {}
        if any(labels.get(key) != value for key, value in selector.items()):
            continue
        if field(entry.obj, "status.phase") in ("Succeeded", "Failed") or not _is_ipv4(_ip(entry.obj)):
            continue
        found.append(entry.obj)
    return found


def is_headless(service: Object) -> bool:
    """A Service without a cluster IP of its own."""
    return bool(field(service, "spec.clusterIP") == "None")


def slice_groups(service: Object, pods: list[Object]) -> dict[Ports, list[Object]]:
    """EndpointSlice endpoints of the pods, by the ports that they have in common."""
    groups: dict[Ports, list[Object]] = {}
    for pod in pods:
        groups.setdefault(_ports(service, pod), []).append(_endpoint(service, pod))
    return groups


def slice_ports(ports: Ports) -> list[Object] | None:
    """The `ports` of a slice; none is null, as the API writes it."""
    return [_port(port) for port in ports] or None


def subsets(service: Object, pods: list[Object]) -> list[Object]:
    """The subsets of the Endpoints object, ready and not ready apart."""
    groups: dict[Ports, tuple[list[Object], list[Object]]] = {}
    for pod in pods:
        if meta(pod).get("deletionTimestamp") and not _publishes_all(service):
            continue
        ready, waiting = groups.setdefault(_ports(service, pod), ([], []))
        (ready if _publishes_all(service) or _is_ready(pod) else waiting).append(_address(service, pod))
    result = []
    for ports, (ready, waiting) in sorted(groups.items()):
        subset: Object = {}
        for name, addresses in (("addresses", ready), ("notReadyAddresses", waiting)):
            if addresses:
                subset[name] = sorted(addresses, key=lambda address: IPv4Address(address["ip"]))
        listed = [_port(port) for port in ports]
        for port in listed:
            if not port["name"]:
                del port["name"]
        if listed:
            subset["ports"] = listed
        result.append(subset)
    return result


def mirrored(endpoints: Object) -> dict[Ports, list[Object]]:
    """Endpoints that somebody wrote by hand, as slice endpoints by their ports."""
    groups: dict[Ports, list[Object]] = {}
    for subset in endpoints.get("subsets") or []:
        ports = tuple(
            (p.get("name", ""), p.get("port", 0), p.get("protocol", "TCP"), p.get("appProtocol", ""))
            for p in subset.get("ports") or []
        )
        for name, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(name) or []:
                endpoint: Object = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
                endpoint |= {k: address[k] for k in ("hostname", "nodeName", "targetRef") if address.get(k)}
                groups.setdefault(ports, []).append(endpoint)
    return groups


def identity(endpoint: Object) -> bytes:
    """What makes an endpoint the same one when its conditions change: its addresses and the pod behind."""
    return msgspec.json.encode([endpoint.get("addresses"), field(endpoint, "targetRef.uid")])


def _ip(pod: Object) -> str:
    return str(field(pod, "status.podIP") or "")


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _is_ready(pod: Object) -> bool:
    conditions = field(pod, "status.conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _publishes_all(service: Object) -> bool:
    return bool(field(service, "spec.publishNotReadyAddresses"))


def _ports(service: Object, pod: Object) -> Ports:
    found = []
    for port in field(service, "spec.ports") or []:
        number = _number(port, pod)
        if number:
            found.append(
                (port.get("name", ""), number, port.get("protocol", "TCP"), port.get("appProtocol", ""))
            )
    return tuple(found)


def _number(port: Object, pod: Object) -> int:
    """The pod's port that a Service port means; 0 when the pod has none of that name and protocol."""
    target = port.get("targetPort") or port.get("port", 0)
    if isinstance(target, int):
        return target
    for container in field(pod, "spec.containers") or []:
        for own in container.get("ports") or []:
            if own.get("name") == target and own.get("protocol", "TCP") == port.get("protocol", "TCP"):
                return int(own.get("containerPort", 0))
    return 0


def _port(port: tuple[str, int, str, str]) -> Object:
    name, number, protocol, application = port
    answer: Object = {"name": name, "port": number, "protocol": protocol}
    return {**answer, "appProtocol": application} if application else answer


def _reference(pod: Object) -> Object:
    own = meta(pod)
    return {"kind": "Pod", "namespace": own["namespace"], "name": own["name"], "uid": own["uid"]}


def _hostname(service: Object, pod: Object) -> str:
    hostname = field(pod, "spec.hostname")
    return str(hostname) if hostname and field(pod, "spec.subdomain") == meta(service).get("name") else ""


def _endpoint(service: Object, pod: Object) -> Object:
    serving, terminating = _is_ready(pod), bool(meta(pod).get("deletionTimestamp"))
    endpoint: Object = {
        "addresses": [_ip(pod)],
        "conditions": {
            "ready": _publishes_all(service) or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": _reference(pod),
    }
    return _with_place(endpoint, service, pod)


def _address(service: Object, pod: Object) -> Object:
    return _with_place({"ip": _ip(pod), "targetRef": _reference(pod)}, service, pod)


def _with_place(endpoint: Object, service: Object, pod: Object) -> Object:
    if node := field(pod, "spec.nodeName"):
        endpoint["nodeName"] = node
    if hostname := _hostname(service, pod):
        endpoint["hostname"] = hostname
    return endpoint
