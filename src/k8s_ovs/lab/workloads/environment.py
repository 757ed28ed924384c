"""The environment of a container: env, envFrom, the downward API, and references to ConfigMaps and Secrets.

Called by the pod worker with the objects already read. Pure. As kubelet does it: `$(NAME)` of what was defined before is
replaced, `$$(NAME)` is left, what is defined later wins.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k8s_ovs.errors import LabError
from k8s_ovs.lab.workloads.spec import Container, PodSpec, Raw

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(\$|\(([^()]+)\))")
_FIELD = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class Missing(LabError):
    """A ConfigMap, Secret or key that a container needs is not there (yet): kubelet waits for it."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What values are taken from. ConfigMaps and Secrets by name, decoded; None: not there."""

    pod: Raw
    node_ip: str
    config_maps: Mapping[str, Mapping[str, str] | None]
    secrets: Mapping[str, Mapping[str, bytes] | None]
    service: tuple[str, str] = ("", "")

    def values(self, kind: str, name: str) -> Mapping[str, str] | None:
        """A ConfigMap's or Secret's values as text."""
        if kind == "ConfigMap":
            return self.config_maps.get(name)
        secret = self.secrets.get(name)
        return None if secret is None else {key: value.decode() for key, value in secret.items()}


def references(spec: PodSpec) -> set[tuple[str, str]]:
    """The ConfigMaps and Secrets that a pod names: (kind, name)."""
    found: set[tuple[str, str]] = set()
    for container in (*spec.init, *spec.containers):
        for source in container.env_from:
            found |= {(kind, raw["name"]) for kind, raw, _ in _from(source)}
        for entry in container.env:
            value = entry.get("valueFrom") or {}
            found |= (
                {("ConfigMap", value["configMapKeyRef"]["name"])} if "configMapKeyRef" in value else set()
            )
            found |= {("Secret", value["secretKeyRef"]["name"])} if "secretKeyRef" in value else set()
    for volume in spec.volumes.values():
        parts = (volume.get("projected") or {}).get("sources") or [volume]
        for part in parts:
            if "configMap" in part:
                found.add(("ConfigMap", part["configMap"]["name"]))
            if "secret" in part:
                found.add(("Secret", part["secret"].get("secretName") or part["secret"]["name"]))
    return found


def decode_secret(secret: Raw) -> dict[str, bytes]:
    """The data of a Secret object."""
    return {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}


def build(container: Container, sources: Sources) -> dict[str, str]:
    """The whole environment. Raises Missing, and LabError for what the lab does not know."""
    host, port = sources.service
    environment = {
        "PATH": PATH,
        "HOME": "/root",
        "HOSTNAME": str(sources.pod["spec"].get("nodeName", "")),
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
    }
    for source in container.env_from:
        for kind, raw, prefix in _from(source):
            values = sources.values(kind, raw["name"])
            if values is None and not raw.get("optional"):
                raise Missing(f'{kind.lower()} "{raw["name"]}" not found')
            environment |= {prefix + key: value for key, value in (values or {}).items()}
    for entry in container.env:
        value = _value(entry, sources, environment)
        if value is not None:
            environment[entry["name"]] = value
    return environment


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where NAME is known, as in command and args."""

    def one(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return environment.get(match[2], match[0])

    return _REFERENCE.sub(one, text)


def _from(source: Raw) -> Iterator[tuple[str, Raw, str]]:
    kinds = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
    unknown = set(source) - set(kinds) - {"prefix"}
    if unknown:
        raise LabError(f"envFrom: {sorted(unknown)} is not known to the lab")
    for name, kind in kinds.items():
        if name in source:
            yield kind, source[name], source.get("prefix", "")


def _value(entry: Raw, sources: Sources, environment: Mapping[str, str]) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(str(entry.get("value", "")), environment)
    (kind, raw), *more = source.items()
    if more:
        raise LabError(f"env {entry['name']}: valueFrom must have one source")
    if kind == "fieldRef":
        return field_value(raw["fieldPath"], sources)
    if kind in ("configMapKeyRef", "secretKeyRef"):
        what = "ConfigMap" if kind == "configMapKeyRef" else "Secret"
        values = sources.values(what, raw["name"])
        if values is not None and raw["key"] in values:
            return values[raw["key"]]
        if raw.get("optional"):
            return None
        lacks = f"couldn't find key {raw['key']} in {what} {raw['name']}"
        raise Missing(f'{what.lower()} "{raw["name"]}" not found' if values is None else lacks)
    raise LabError(f"env {entry['name']}: {kind} is not known to the lab")


def field_value(path: str, sources: Sources) -> str:
    """The downward API. Raises LabError for a path that it does not have."""
    pod: dict[str, Any] = sources.pod
    meta = pod["metadata"]
    if match := _FIELD.fullmatch(path):
        return str((meta.get(match[1]) or {}).get(match[2], ""))
    fields = {
        "metadata.name": meta.get("name"),
        "metadata.namespace": meta.get("namespace"),
        "metadata.uid": meta.get("uid"),
        "spec.nodeName": pod["spec"].get("nodeName"),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
        "status.hostIP": sources.node_ip,
        "status.podIP": sources.node_ip,  # of the host's network
    }
    if path not in fields:
        raise LabError(f"fieldPath {path} is not known to the lab", remedy=f"it knows {', '.join(fields)}")
    return str(fields[path] or "")
