"""How a Service's endpoints are spread over EndpointSlices, with as few changes as possible.

Called by the endpoints controller. Pure. At most 100 endpoints in a slice; one port list in a slice; an endpoint stays
in the slice it is in; a Service without endpoints has one empty slice.
"""

from dataclasses import dataclass

import msgspec

from k8s_ovs.lab.kubeapi.endpoints import HEADLESS, Ports, identity, is_headless, slice_ports
from k8s_ovs.lab.kubeapi.resources import Object, meta
from k8s_ovs.lab.kubeapi.store import Entry

MOST = 100
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
MIRROR = "endpointslicemirroring-controller.k8s.io"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write: slices as they should be (those without a name are new), and those to remove."""

    write: list[Object]
    remove: list[Entry]


def labels(service: Object, manager: str) -> dict[str, str]:
    """The labels of a Service's slices: the Service's own, and what says whose they are."""
    own = dict(meta(service).get("labels") or {})
    own |= {SERVICE_NAME: meta(service)["name"], MANAGED_BY: manager}
    return own | {HEADLESS: ""} if is_headless(service) else own


def plan(service: Object, manager: str, existing: list[Entry], groups: dict[Ports, list[Object]]) -> Plan:
    """The slices for these endpoints, given those that exist."""
    left = list(existing)
    write: list[Object] = []
    for ports, endpoints in sorted((groups or {(): []}).items()):
        wanted = msgspec.json.encode(slice_ports(ports))
        same = [e for e in left if not endpoints or msgspec.json.encode(e.obj.get("ports")) == wanted]
        if not endpoints:
            same = same[:1]
        left = [entry for entry in left if entry not in same]
        filled, empty = _distribute(same, endpoints)
        left += empty
        for entry, members in filled:
            write.append(_slice(service, manager, entry, ports, members))
    return Plan(write, left)


def _distribute(
    slices: list[Entry], endpoints: list[Object]
) -> tuple[list[tuple[Entry | None, list[Object]]], list[Entry]]:
    """Members for each slice (None: a new one), and the slices that nothing is left for."""
    waiting = {identity(endpoint): endpoint for endpoint in endpoints}
    kept: list[tuple[Entry | None, list[Object]]] = []
    for entry in slices:
        names = [identity(endpoint) for endpoint in entry.obj.get("endpoints") or []]
        kept.append((entry, [waiting.pop(name) for name in names if name in waiting]))
    rest = list(waiting.values())
    for _, members in kept:
        room = MOST - len(members)
        members.extend(rest[:room])
        rest = rest[room:]
    kept += [(None, rest[start : start + MOST]) for start in range(0, len(rest), MOST)]
    if not kept:
        kept = [(None, [])]
    filled = [item for item in kept if item[1]] or kept[:1]
    return filled, [
        entry for entry, members in kept if entry and not members and (entry, members) not in filled
    ]


def _slice(service: Object, manager: str, entry: Entry | None, ports: Ports, members: list[Object]) -> Object:
    own = meta(service)
    if entry is None:
        obj: Object = {"metadata": {"generateName": f"{own['name']}-", "namespace": own["namespace"]}}
    else:
        obj = entry.copy()
    meta(obj)["labels"] = labels(service, manager)
    meta(obj)["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "name": own["name"],
            "uid": own["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    return obj | {"addressType": "IPv4", "endpoints": members or None, "ports": slice_ports(ports)}
