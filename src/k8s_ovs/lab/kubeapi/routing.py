"""From a URL path to the resource, Namespace, name and subresource that it means.

Called by the server. Pure.
"""

from dataclasses import dataclass

from k8s_ovs.lab.kubeapi.resources import BY_PATH, Key, Resource


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about; without a name it is the collection."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        """Where the object lives in the store."""
        return (self.namespace, self.name)


def parse(path: str) -> Target | None:
    """The target of a path below /api/v1 or /apis/GROUP/VERSION; None when nothing is there."""
    parts = path.strip("/").split("/")
    if parts[:1] == ["api"] and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if (
        rest[0] == "namespaces"
        and len(rest) > 2
        and not (rest[2] in ("status", "finalize") and len(rest) == 3)
    ):
        return _target(BY_PATH.get((group, version, rest[2])), rest[1], rest[3:])
    return _target(BY_PATH.get((group, version, rest[0])), "", rest[1:])


def _target(resource: Resource | None, namespace: str, rest: list[str]) -> Target | None:
    if resource is None or len(rest) > 2 or (namespace and not resource.namespaced):
        return None
    name, subresource = (*rest, "", "")[:2]
    if name and resource.namespaced and not namespace:
        return None
    if subresource and subresource not in ("status" if resource.status else "", *resource.subresources):
        return None
    return Target(resource, namespace, name, subresource)
