"""A Pod's specification as far as the workload runner follows it; what it does not know is refused, never skipped.

Called by the pod worker, and by `lab up --from-manifests` for every template before anything is started. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from k8s_ovs.errors import LabError
from k8s_ovs.lab.placing import OPERATORS

Raw = dict[str, Any]
IMAGE_PREFIX = "k8s-ovs/"
"""Whose containers run as processes: images of this project."""

_POD = frozenset(
    [
        "containers",
        "initContainers",
        "volumes",
        "hostNetwork",
        "nodeName",
        "nodeSelector",
        "affinity",
        "tolerations",
        "serviceAccountName",
        "serviceAccount",
        "priorityClassName",
        "priority",
        "preemptionPolicy",
        "restartPolicy",
        "dnsPolicy",
        "schedulerName",
        "securityContext",
        "enableServiceLinks",
        "terminationGracePeriodSeconds",
        "automountServiceAccountToken",
        "topologySpreadConstraints",
        "hostPID",
    ]
)
_CONTAINER = frozenset(
    [
        "name",
        "image",
        "imagePullPolicy",
        "command",
        "args",
        "workingDir",
        "env",
        "envFrom",
        "ports",
        "resources",
        "volumeMounts",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "securityContext",
        "terminationMessagePath",
        "terminationMessagePolicy",
    ]
)
_MOUNT = frozenset(("name", "mountPath", "readOnly", "mountPropagation", "subPath"))
_PROBE = frozenset(
    [
        "httpGet",
        "exec",
        "tcpSocket",
        "initialDelaySeconds",
        "periodSeconds",
        "timeoutSeconds",
        "successThreshold",
        "failureThreshold",
        "terminationGracePeriodSeconds",
    ]
)
_SECURITY = frozenset(
    [
        "privileged",
        "capabilities",
        "readOnlyRootFilesystem",
        "runAsUser",
        "runAsGroup",
        "runAsNonRoot",
        "allowPrivilegeEscalation",
        "seccompProfile",
        "seLinuxOptions",
        "appArmorProfile",
        "procMount",
        "fsGroup",
    ]
)
VOLUMES = frozenset(
    ["hostPath", "configMap", "secret", "emptyDir", "projected", "downwardAPI", "persistentVolumeClaim"]
)


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe; exactly one of the three ways of asking is set. Seconds and counts as in the API."""

    http: Mapping[str, Any] | None = None
    command: tuple[str, ...] | None = None
    tcp: Mapping[str, Any] | None = None
    initial_delay: float = 0
    period: float = 10
    timeout: float = 1
    successes: int = 1
    failures: int = 3


@dataclass(frozen=True, slots=True)
class Security:
    """What the process may do: pod's and container's securityContext together."""

    privileged: bool = False
    added: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    read_only_root: bool = False
    user: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """One container; `env` and `env_from` are the API's own lists."""

    name: str
    image: str
    argv: tuple[str, ...]
    env: tuple[Raw, ...] = ()
    env_from: tuple[Raw, ...] = ()
    mounts: tuple[Raw, ...] = ()
    ports: tuple[Raw, ...] = ()
    directory: str = "/"
    security: Security = Security()
    probes: Mapping[str, Probe] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What the runner needs of a pod's specification."""

    init: tuple[Container, ...]
    containers: tuple[Container, ...]
    volumes: Mapping[str, Raw]
    account: str
    token: bool
    grace: float
    fs_group: int | None = None


def parse(spec: Raw, title: str) -> PodSpec:
    """Read the `spec` of a Pod or of a template. Raises LabError for everything that the lab cannot do as it says."""
    _known(spec, _POD, title)
    if not spec.get("hostNetwork"):
        raise LabError(
            f"{title}: hostNetwork is not set", remedy="the lab runs pods of the host's network only"
        )
    if spec.get("restartPolicy", "Always") != "Always":
        raise LabError(f"{title}: restartPolicy {spec['restartPolicy']}", remedy="the lab knows Always")
    _check_affinity(spec.get("affinity") or {}, f"{title}: affinity")
    volumes = {entry["name"]: entry for entry in spec.get("volumes") or ()}
    for name, volume in volumes.items():
        _known(volume, VOLUMES | {"name"}, f"{title}: volume {name}")
        if len(volume) != 2:
            raise LabError(
                f"{title}: volume {name} must have one source, not {sorted(set(volume) - {'name'})}"
            )
    pod_security = spec.get("securityContext") or {}
    _known(pod_security, _SECURITY, f"{title}: securityContext")
    init = tuple(_container(c, volumes, pod_security, title) for c in spec.get("initContainers") or ())
    containers = tuple(_container(c, volumes, pod_security, title) for c in spec.get("containers") or ())
    if any(container.probes for container in init):
        raise LabError(f"{title}: an init container has probes")
    return PodSpec(
        init=init,
        containers=containers,
        volumes=volumes,
        account=spec.get("serviceAccountName") or "default",
        token=spec.get("automountServiceAccountToken", True),
        fs_group=pod_security.get("fsGroup"),
        grace=float(spec.get("terminationGracePeriodSeconds", 30)),
    )


def _check_affinity(raw: Raw, where: str) -> None:
    """Nodes by their labels, and pods that avoid each other: what the lab's scheduler looks at."""
    _known(raw, frozenset(("nodeAffinity", "podAntiAffinity")), where)
    nodes = raw.get("nodeAffinity") or {}
    terms = list(
        (nodes.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or ()
    )
    preferred = nodes.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    for term in (*terms, *(entry["preference"] for entry in preferred)):
        _known(term, frozenset(["matchExpressions"]), where)
        for expression in term.get("matchExpressions") or ():
            if expression["operator"] not in OPERATORS:
                raise LabError(f"{where}: operator {expression['operator']} is not known to the lab")


def _container(raw: Raw, volumes: Mapping[str, Raw], pod_security: Raw, title: str) -> Container:
    where = f"{title}: container {raw.get('name')}"
    _known(raw, _CONTAINER, where)
    if not str(raw.get("image", "")).startswith(IMAGE_PREFIX):
        raise LabError(
            f"{where}: image {raw.get('image')!r} is none of this project",
            remedy=f"the lab runs images that begin with {IMAGE_PREFIX}",
        )
    mounts = tuple(raw.get("volumeMounts") or ())
    for mount in mounts:
        _known(mount, _MOUNT, f"{where}: volumeMount")
        if mount["name"] not in volumes:
            raise LabError(f"{where}: volume {mount['name']!r} is not in the pod's volumes")
        if mount.get("mountPropagation", "None") not in ("None", "HostToContainer"):
            raise LabError(f"{where}: mountPropagation {mount['mountPropagation']} is not known to the lab")
    argv = (*(raw.get("command") or ()), *(raw.get("args") or ()))
    if not raw.get("command"):
        argv = ("k8s-ovs", *argv)  # the image's entry point
    kinds = ("livenessProbe", "readinessProbe", "startupProbe")
    return Container(
        name=raw["name"],
        image=raw["image"],
        argv=argv,
        env=tuple(raw.get("env") or ()),
        env_from=tuple(raw.get("envFrom") or ()),
        mounts=mounts,
        ports=tuple(raw.get("ports") or ()),
        directory=raw.get("workingDir") or "/",
        security=_security({**pod_security, **(raw.get("securityContext") or {})}, where),
        probes={kind: _probe(raw[kind], f"{where}: {kind}") for kind in kinds if raw.get(kind)},
    )


def _security(raw: Raw, where: str) -> Security:
    _known(raw, _SECURITY, f"{where}: securityContext")
    capabilities = raw.get("capabilities") or {}
    user = raw.get("runAsUser")
    if raw.get("runAsNonRoot") and not user:
        raise LabError(f"{where}: runAsNonRoot, and the image's user is root", remedy="give runAsUser")
    return Security(
        privileged=bool(raw.get("privileged")),
        added=frozenset(capabilities.get("add") or ()),
        dropped=frozenset(capabilities.get("drop") or ()),
        read_only_root=bool(raw.get("readOnlyRootFilesystem")),
        user=user or None,
        group=raw.get("runAsGroup") or None,
    )


def _probe(raw: Raw, where: str) -> Probe:
    _known(raw, _PROBE, where)
    ways = [way for way in ("httpGet", "exec", "tcpSocket") if raw.get(way) is not None]
    if len(ways) != 1:
        raise LabError(f"{where}: one of httpGet, exec and tcpSocket is wanted, not {ways}")
    return Probe(
        http=raw.get("httpGet"),
        command=tuple(raw["exec"]["command"]) if "exec" in raw else None,
        tcp=raw.get("tcpSocket"),
        initial_delay=raw.get("initialDelaySeconds", 0),
        period=raw.get("periodSeconds", 10),
        timeout=raw.get("timeoutSeconds", 1),
        successes=raw.get("successThreshold", 1),
        failures=raw.get("failureThreshold", 3),
    )


def _known(raw: Raw, fields: frozenset[str], where: str) -> None:
    unknown = sorted(set(raw) - fields)
    if unknown:
        raise LabError(
            f"{where}: {', '.join(unknown)} is not known to the lab",
            remedy="leave it out, or teach k8s_ovs.lab.workloads what it means",
        )
