"""What `kubectl get` prints: every resource as a `meta.k8s.io/v1` Table with its usual columns.

Called by the HTTP handlers when a client asks for tables. Pure. Column names, order and cell texts follow the
printers of the real API server (pkg/printers/internalversion); the pod columns are in podtable.py.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from k8s_ovs.lab.kubeapi import podtable, workloads
from k8s_ovs.lab.kubeapi.durations import age
from k8s_ovs.lab.kubeapi.resources import Object, Resource, field, meta
from k8s_ovs.lab.kubeapi.store import Entry

NONE = "<none>"
_ROLE = "node-role.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `wide` ones show with -o wide only."""

    name: str
    cell: Callable[[Object], Any]
    wide: bool = False
    type: str = "string"

    def definition(self) -> Object:
        """The TableColumnDefinition."""
        return {
            "name": self.name,
            "type": self.type,
            "format": "name" if self.name == "Name" else "",
            "description": self.name,
            "priority": 1 if self.wide else 0,
        }


def columns(resource: Resource) -> tuple[Column, ...]:
    """The columns of a resource."""
    return _COLUMNS[resource.id]


def row(resource: Resource, entry: Entry, include: str) -> Object:
    """One TableRow; `include` is None, Metadata or Object, what comes along for kubectl's own use."""
    cells = [column.cell(entry.obj) for column in columns(resource)]
    if include == "None":
        return {"cells": cells}
    if include == "Object":
        return {"cells": cells, "object": entry.obj}
    partial = {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": entry.obj["metadata"],
    }
    return {"cells": cells, "object": partial}


def table(
    resource: Resource, entries: Iterable[Entry], include: str, metadata: Object, *, header: bool = True
) -> Object:
    """The Table; without `header` it has no column definitions, as in all but the first event of a watch."""
    answer: Object = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    answer["columnDefinitions"] = [column.definition() for column in columns(resource)] if header else None
    answer["rows"] = [row(resource, entry, include) for entry in entries]
    return answer


def _name(obj: Object) -> str:
    return str(meta(obj).get("name", ""))


def _age(obj: Object) -> str:
    return age(meta(obj).get("creationTimestamp"))


def _at(path: str, missing: str = NONE) -> Callable[[Object], Any]:
    return lambda obj: field(obj, path) or missing


def _count(*paths: str) -> Callable[[Object], int]:
    return lambda obj: sum(len(field(obj, path) or ()) for path in paths)


def _more(items: list[str], most: int = 3) -> str:
    """The first few, and how many there are besides."""
    if not items:
        return NONE
    extra = len(items) - most
    return ",".join(items[:most]) + (f" + {extra} more..." if extra > 0 else "")


def _node_status(node: Object) -> str:
    ready = next((c for c in field(node, "status.conditions") or [] if c.get("type") == "Ready"), None)
    words = ["Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"]
    if field(node, "spec.unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_roles(node: Object) -> str:
    labels = meta(node).get("labels") or {}
    roles = {key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE)}
    if other := labels.get("kubernetes.io/role"):
        roles.add(other)
    return ",".join(sorted(roles)) or NONE


def _node_address(kind: str) -> Callable[[Object], str]:
    def cell(node: Object) -> str:
        addresses = field(node, "status.addresses") or []
        return next((a.get("address", "") for a in addresses if a.get("type") == kind), NONE)

    return cell


def _service_external(service: Object) -> str:
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName") or NONE)
    addresses = list(spec.get("externalIPs") or [])
    if spec.get("type") == "LoadBalancer":
        ingress = field(service, "status.loadBalancer.ingress") or []
        addresses += [str(item.get("ip") or item.get("hostname")) for item in ingress]
        return ",".join(addresses) or "<pending>"
    return ",".join(addresses) or NONE


def _service_ports(service: Object) -> str:
    texts = []
    for port in field(service, "spec.ports") or []:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        texts.append(f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(texts) or NONE


def _labels(path: str) -> Callable[[Object], str]:
    return lambda obj: ",".join(f"{k}={v}" for k, v in sorted((field(obj, path) or {}).items())) or NONE


def _endpoints(endpoints: Object) -> str:
    found: list[str] = []
    for subset in endpoints.get("subsets") or []:
        ips = [address.get("ip", "") for address in subset.get("addresses") or []]
        ports = subset.get("ports") or []
        found += [f"{ip}:{port.get('port')}" for port in ports for ip in ips] if ports else ips
    return _more(found)


def _slice_ports(slice_: Object) -> str:
    ports = slice_.get("ports")
    return _more([str(port.get("port", "*")) for port in ports]) if ports else "<unset>"


def _slice_endpoints(slice_: Object) -> str:
    found = [address for e in slice_.get("endpoints") or [] for address in e.get("addresses") or []]
    return _more(found) if found else "<unset>"


def _event_seen(event: Object) -> str:
    when = field(event, "series.lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return age(when or meta(event).get("creationTimestamp"))


def _event_first(event: Object) -> str:
    return age(event.get("firstTimestamp") or event.get("eventTime") or meta(event).get("creationTimestamp"))


def _event_object(event: Object) -> str:
    about = event.get("involvedObject") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


def _event_source(event: Object) -> str:
    source = event.get("source") or {}
    words = [source.get("component") or event.get("reportingComponent") or "", source.get("host") or ""]
    return ", ".join(word for word in words if word)


_NAME = Column("Name", _name)
_AGE = Column("Age", _age)
_CREATED = Column("Created At", _at("metadata.creationTimestamp"))

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "namespaces": (_NAME, Column("Status", _at("status.phase", "")), _AGE),
    "nodes": (
        _NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        _AGE,
        Column("Version", _at("status.nodeInfo.kubeletVersion", "")),
        Column("Internal-IP", _node_address("InternalIP"), wide=True),
        Column("External-IP", _node_address("ExternalIP"), wide=True),
        Column("OS-Image", _at("status.nodeInfo.osImage", "<unknown>"), wide=True),
        Column("Kernel-Version", _at("status.nodeInfo.kernelVersion", "<unknown>"), wide=True),
        Column("Container-Runtime", _at("status.nodeInfo.containerRuntimeVersion", "<unknown>"), wide=True),
    ),
    "pods": (
        _NAME,
        Column("Ready", podtable.ready),
        Column("Status", podtable.status),
        Column("Restarts", podtable.restarts),
        _AGE,
        Column("IP", _at("status.podIP"), wide=True),
        Column("Node", _at("spec.nodeName"), wide=True),
        Column("Nominated Node", _at("status.nominatedNodeName"), wide=True),
        Column("Readiness Gates", podtable.gates, wide=True),
    ),
    "services": (
        _NAME,
        Column("Type", _at("spec.type", "")),
        Column("Cluster-IP", _at("spec.clusterIP")),
        Column("External-IP", _service_external),
        Column("Port(s)", _service_ports),
        _AGE,
        Column("Selector", _labels("spec.selector"), wide=True),
    ),
    "endpoints": (_NAME, Column("Endpoints", _endpoints), _AGE),
    "events": (
        Column("Last Seen", _event_seen),
        Column("Type", _at("type", "")),
        Column("Reason", _at("reason", "")),
        Column("Object", _event_object),
        Column("Subobject", _at("involvedObject.fieldPath", ""), wide=True),
        Column("Source", _event_source, wide=True),
        Column("Message", lambda event: str(event.get("message") or "").strip()),
        Column("First Seen", _event_first, wide=True),
        Column("Count", lambda event: field(event, "series.count") or event.get("count") or 1, wide=True),
        Column("Name", _name, wide=True),
    ),
    "configmaps": (_NAME, Column("Data", _count("data", "binaryData"), type="integer"), _AGE),
    "secrets": (_NAME, Column("Type", _at("type", "")), Column("Data", _count("data"), type="integer"), _AGE),
    "serviceaccounts": (_NAME, Column("Secrets", _count("secrets"), type="integer"), _AGE),
    "discovery.k8s.io/endpointslices": (
        _NAME,
        Column("AddressType", _at("addressType", "")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        _AGE,
    ),
    "apps/daemonsets": (
        _NAME,
        Column("Desired", workloads.number("status.desiredNumberScheduled"), type="integer"),
        Column("Current", workloads.number("status.currentNumberScheduled"), type="integer"),
        Column("Ready", workloads.number("status.numberReady"), type="integer"),
        Column("Up-to-date", workloads.number("status.updatedNumberScheduled"), type="integer"),
        Column("Available", workloads.number("status.numberAvailable"), type="integer"),
        Column("Node Selector", _labels("spec.template.spec.nodeSelector")),
        _AGE,
    ),
    "apps/deployments": (
        _NAME,
        Column("Ready", workloads.ready_of),
        Column("Up-to-date", workloads.number("status.updatedReplicas"), type="integer"),
        Column("Available", workloads.number("status.availableReplicas"), type="integer"),
        _AGE,
    ),
    "apps/statefulsets": (_NAME, Column("Ready", workloads.ready_of), _AGE),
    "rbac.authorization.k8s.io/roles": (_NAME, _CREATED),
    "rbac.authorization.k8s.io/clusterroles": (_NAME, _CREATED),
    "rbac.authorization.k8s.io/rolebindings": (_NAME, Column("Role", workloads.role_of), _AGE),
    "rbac.authorization.k8s.io/clusterrolebindings": (_NAME, Column("Role", workloads.role_of), _AGE),
    "scheduling.k8s.io/priorityclasses": (_NAME, Column("Value", workloads.number("value")), _AGE),
    "policy/poddisruptionbudgets": (
        _NAME,
        Column("Min Available", _at("spec.minAvailable", "N/A")),
        Column("Max Unavailable", _at("spec.maxUnavailable", "N/A")),
        _AGE,
    ),
    "persistentvolumes": (_NAME, Column("Status", _at("status.phase", "")), _AGE),
    "persistentvolumeclaims": (_NAME, Column("Status", _at("status.phase", "")), _AGE),
    "storage.k8s.io/storageclasses": (_NAME, Column("Provisioner", _at("provisioner", "")), _AGE),
    "coordination.k8s.io/leases": (_NAME, Column("Holder", _at("spec.holderIdentity", "")), _AGE),
}
