"""DaemonSets, Deployments, StatefulSets and what an installation brings besides: fields, defaults, rules, columns.

Read by the modules that have the other kinds (defaults, validation, strategy, tables). Pure. Nothing here runs a pod:
that is done by whoever watches these objects (k8s_ovs.lab.workloads).
"""

from typing import Any

from k8s_ovs.lab.kubeapi.answers import Problem
from k8s_ovs.lab.kubeapi.rbac import role_problem
from k8s_ovs.lab.kubeapi.resources import DEPLOYMENTS, STATEFUL_SETS, Object, Resource, field, meta

TEMPLATE = "spec.template."


def prepare_create(obj: Object) -> None:
    """The first generation."""
    meta(obj)["generation"] = 1


def prepare_update(obj: Object, old: Object) -> None:
    """The generation counts changes of the specification: controllers tell by it what they have seen."""
    before = meta(old).get("generation", 1)
    meta(obj)["generation"] = before + (obj.get("spec") != old.get("spec"))


def fill(resource: Resource, obj: Object) -> None:
    """Defaults beside those of the pod template."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("revisionHistoryLimit", 10)
    if resource is DEPLOYMENTS:
        spec.setdefault("replicas", 1)
        spec.setdefault("progressDeadlineSeconds", 600)
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", "25%")
            rolling.setdefault("maxSurge", "25%")
        return
    update = spec.setdefault("updateStrategy", {})
    update.setdefault("type", "RollingUpdate")
    if resource is STATEFUL_SETS:
        spec.setdefault("replicas", 1)
        spec.setdefault("podManagementPolicy", "OrderedReady")
    elif update["type"] == "RollingUpdate":
        rolling = update.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)


def check(workload: Object) -> list[Problem]:
    """Selector and template belong together."""
    spec = workload.get("spec") or {}
    if not spec.get("selector"):
        return [Problem.required("spec.selector")]
    wanted = field(spec, "selector.matchLabels") or {}
    labels = field(spec, "template.metadata.labels") or {}
    problems = []
    if any(labels.get(name) != value for name, value in wanted.items()):
        text = "`selector` does not match template `labels`"
        problems.append(Problem.invalid("spec.template.metadata.labels", labels, text))
    template = field(spec, "template.spec") or {}
    if template.get("restartPolicy", "Always") != "Always":
        problems.append(
            Problem.unsupported("spec.template.spec.restartPolicy", template["restartPolicy"], ("Always",))
        )
    if not template.get("containers"):
        problems.append(Problem.required("spec.template.spec.containers"))
    return problems


def check_update(obj: Object, old: Object) -> list[Problem]:
    """Selectors are for good."""
    if field(obj, "spec.selector") == field(old, "spec.selector"):
        return []
    return [Problem.invalid("spec.selector", field(obj, "spec.selector"), "field is immutable")]


def check_role(role: Object) -> list[Problem]:
    """Each rule says what may be done, and with what."""
    problems: list[Problem] = []
    for index, rule in enumerate(role.get("rules") or []):
        if not rule.get("verbs"):
            problems.append(
                Problem.required(f"rules[{index}].verbs", "verbs must contain at least one value")
            )
        if rule.get("nonResourceURLs"):
            continue
        for name in ("apiGroups", "resources"):
            if not rule.get(name):
                text = f"resource rules must supply at least one {'api group' if name == 'apiGroups' else 'resource'}"
                problems.append(Problem.required(f"rules[{index}].{name}", text))
    return problems


def check_binding(binding: Object) -> list[Problem]:
    """A role is named, and service accounts with their Namespace."""
    problem = role_problem(binding)
    problems = [Problem.invalid("roleRef", binding.get("roleRef"), problem)] if problem else []
    for index, subject in enumerate(binding.get("subjects") or []):
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            problems.append(Problem.required(f"subjects[{index}].namespace"))
    return problems


def ready_of(obj: Object) -> str:
    """The Ready column of Deployments and StatefulSets."""
    return f"{field(obj, 'status.readyReplicas') or 0}/{field(obj, 'spec.replicas')}"


def number(path: str) -> Any:
    """A cell with a number that is 0 when it is missing."""
    return lambda obj: field(obj, path) or 0


def role_of(binding: Object) -> str:
    """The Role column of bindings."""
    return f"{field(binding, 'roleRef.kind')}/{field(binding, 'roleRef.name')}"
