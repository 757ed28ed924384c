"""Discovery: what this server serves, in the two forms that clients ask for.

Called by the server for /api, /apis and below. Pure. The aggregated form (one document for all groups) is what kubectl
asks for since 1.27; the plain lists are for everybody else.
"""

from k8s_ovs.lab.kubeapi.resources import GROUPS, RESOURCES, Object, Resource

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

GIT_VERSION = "v1.33.0+k8s-ovs-lab"
VERSION: Object = {
    "major": "1",
    "minor": "33",
    "gitVersion": GIT_VERSION,
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
"""kubectl warns when its own minor version is more than one away from this one."""


def _subresources(resource: Resource) -> list[tuple[str, str, list[str]]]:
    """Name, kind and verbs."""
    found = [("status", resource.kind, ["get", "patch", "update"])] if resource.status else []
    kinds = {
        "binding": ("Binding", ["create"]),
        "finalize": (resource.kind, ["update"]),
        "token": ("TokenRequest", ["create"]),
    }
    return found + [(name, *kinds[name]) for name in resource.subresources]


def _versions() -> list[tuple[str, str]]:
    return list(dict.fromkeys((resource.group, resource.version) for resource in RESOURCES))


def api_versions() -> Object:
    """GET /api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    }


def group_list() -> Object:
    """GET /apis."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in GROUPS if name]}


def group(name: str) -> Object | None:
    """GET /apis/GROUP; None for a group that is not served."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name)} if name and name in GROUPS else None


def _group(name: str) -> Object:
    versions = [
        {"groupVersion": f"{name}/{version}", "version": version}
        for own, version in _versions()
        if own == name
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resource_list(group_name: str, version: str) -> Object | None:
    """GET /api/v1 or /apis/GROUP/VERSION; None for what is not served."""
    found = [r for r in RESOURCES if (r.group, r.version) == (group_name, version)]
    if not found:
        return None
    resources: list[Object] = []
    for resource in found:
        entry: Object = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": VERBS,
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        resources.append(entry)
        resources += [
            {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind,
                "verbs": verbs,
            }
            for name, kind, verbs in _subresources(resource)
        ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": found[0].api_version,
        "resources": resources,
    }


def aggregated(*, core: bool) -> Object:
    """GET /api or /apis in the aggregated form (apidiscovery.k8s.io/v2)."""
    items = []
    for name in GROUPS:
        if bool(name) == core:
            continue
        versions = [
            {"version": version, "freshness": "Current", "resources": _aggregated_resources(name, version)}
            for own, version in _versions()
            if own == name
        ]
        items.append({"metadata": {"name": name, "creationTimestamp": None}, "versions": versions})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _aggregated_resources(group_name: str, version: str) -> list[Object]:
    return [_aggregated_resource(r) for r in RESOURCES if (r.group, r.version) == (group_name, version)]


def _aggregated_resource(resource: Resource) -> Object:
    def kind(name: str) -> Object:
        return {"group": resource.group, "version": resource.version, "kind": name}

    entry: Object = {
        "resource": resource.plural,
        "responseKind": kind(resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": VERBS,
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if found := _subresources(resource):
        entry["subresources"] = [
            {"subresource": name, "responseKind": kind(own), "verbs": verbs} for name, own, verbs in found
        ]
    return entry
