"""Rules that objects must keep, with the messages of the real API server where people know them.

Called by the registry after the defaults. Returns every problem, not only the first; changes nothing. What the lab has
no use for is not checked.
"""

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from k8s_ovs.lab.kubeapi import workloads
from k8s_ovs.lab.kubeapi.answers import Problem
from k8s_ovs.lab.kubeapi.resources import Object, Resource, field, meta

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_PROTOCOLS = ("SCTP", "TCP", "UDP")

LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation "
    "is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
KEY_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def validate(resource: Resource, obj: Object) -> list[Problem]:
    """All problems of an object whose types are right (see schema.py) and whose defaults are set."""
    problems = _metadata(resource, obj)
    rules = _RULES.get(resource.id)
    return problems + (rules(obj) if rules else [])


def _matches(pattern: re.Pattern[str], text: str, most: int) -> bool:
    return len(text) <= most and pattern.fullmatch(text) is not None


def _metadata(resource: Resource, obj: Object) -> list[Problem]:
    name = meta(obj).get("name", "")
    problems: list[Problem] = []
    if not name:
        return [Problem.required("metadata.name", "name or generateName is required")]
    if resource.id == "namespaces":
        if not _matches(_LABEL, name, 63):
            problems.append(Problem.invalid("metadata.name", name, LABEL_TEXT))
    elif resource.id == "services":
        if not _matches(_LABEL_1035, name, 63):
            problems.append(Problem.invalid("metadata.name", name, LABEL_1035_TEXT))
    elif resource.group == "rbac.authorization.k8s.io":  # path segments: "system:node" is one
        if "/" in name or "%" in name or name in (".", ".."):
            problems.append(Problem.invalid("metadata.name", name, "may not contain '/' or '%'"))
    elif not _matches(_SUBDOMAIN, name, 253):
        problems.append(Problem.invalid("metadata.name", name, SUBDOMAIN_TEXT))
    for key, value in meta(obj).get("labels", {}).items():
        problems += _key(key, "metadata.labels")
        if value and not _matches(_QUALIFIED, value, 63):
            problems.append(Problem.invalid("metadata.labels", value, LABEL_VALUE_TEXT))
    for key in meta(obj).get("annotations", {}):
        problems += _key(key.lower(), "metadata.annotations")
    return problems


def _key(key: str, path: str) -> list[Problem]:
    prefix, slash, name = key.rpartition("/")
    if slash and not _matches(_SUBDOMAIN, prefix, 253):
        return [Problem.invalid(path, key, "prefix part " + SUBDOMAIN_TEXT)]
    return [] if _matches(_QUALIFIED, name, 63) else [Problem.invalid(path, key, KEY_TEXT)]


def _pod(pod: Object) -> list[Problem]:
    spec = pod.get("spec", {})
    problems: list[Problem] = []
    if not spec.get("containers"):
        problems.append(Problem.required("spec.containers"))
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group, [])):
            problems += _container(container, f"spec.{group}[{index}]", names)
    if spec["restartPolicy"] not in ("Always", "OnFailure", "Never"):
        problems.append(
            Problem.unsupported("spec.restartPolicy", spec["restartPolicy"], ("Always", "OnFailure", "Never"))
        )
    if spec["terminationGracePeriodSeconds"] < 0:
        problems.append(
            Problem.invalid(
                "spec.terminationGracePeriodSeconds",
                spec["terminationGracePeriodSeconds"],
                "must be greater than or equal to 0",
            )
        )
    if spec.get("nodeName") and not _matches(_SUBDOMAIN, spec["nodeName"], 253):
        problems.append(Problem.invalid("spec.nodeName", spec["nodeName"], SUBDOMAIN_TEXT))
    return problems


def _container(container: Object, path: str, names: set[str]) -> list[Problem]:
    problems: list[Problem] = []
    name = container.get("name", "")
    if not name:
        problems.append(Problem.required(f"{path}.name"))
    elif not _matches(_LABEL, name, 63):
        problems.append(Problem.invalid(f"{path}.name", name, LABEL_TEXT))
    elif name in names:
        problems.append(Problem.duplicate(f"{path}.name", name))
    names.add(name)
    if not container.get("image", "").strip():
        problems.append(Problem.required(f"{path}.image"))
    for index, port in enumerate(container.get("ports", [])):
        where = f"{path}.ports[{index}]"
        if "containerPort" not in port:
            problems.append(Problem.required(f"{where}.containerPort"))
        else:
            problems += _number(port["containerPort"], f"{where}.containerPort")
        problems += _protocol(port, where)
        if port.get("name") and not _matches(_PORT_NAME, port["name"], 15):
            problems.append(Problem.invalid(f"{where}.name", port["name"], _PORT_NAME_TEXT))
    return problems


_PORT_NAME_TEXT = (
    "must be at most 15 lower case alphanumeric characters or '-', with at least one letter and no '-' at the ends "
    "or doubled"
)


def _number(value: int, path: str) -> list[Problem]:
    return (
        []
        if 1 <= value <= 65535
        else [Problem.invalid(path, value, "must be between 1 and 65535, inclusive")]
    )


def _protocol(port: Object, path: str) -> list[Problem]:
    found = port.get("protocol", "TCP")
    return [] if found in _PROTOCOLS else [Problem.unsupported(f"{path}.protocol", found, _PROTOCOLS)]


def _service(service: Object) -> list[Problem]:
    spec = service.get("spec", {})
    problems: list[Problem] = []
    types = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec["type"] not in types:
        problems.append(Problem.unsupported("spec.type", spec["type"], types))
    if spec["sessionAffinity"] not in ("ClientIP", "None"):
        problems.append(
            Problem.unsupported("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
        )
    ports = spec.get("ports", [])
    if spec["type"] == "ExternalName":
        if not spec.get("externalName"):
            problems.append(Problem.required("spec.externalName"))
    elif not ports and spec.get("clusterIP") != "None":
        problems.append(Problem.required("spec.ports"))
    timeout = field(spec, "sessionAffinityConfig.clientIP.timeoutSeconds")
    if isinstance(timeout, int) and not 0 < timeout <= 86400:
        problems.append(
            Problem.invalid(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                timeout,
                "must be greater than 0 and up to 86400",
            )
        )
    return problems + _service_ports(ports)


def _service_ports(ports: list[Object]) -> list[Problem]:
    problems: list[Problem] = []
    names: set[str] = set()
    pairs: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        problems += (
            _number(port["port"], f"{path}.port") if "port" in port else [Problem.required(f"{path}.port")]
        )
        problems += _protocol(port, path)
        target = port.get("targetPort")
        if isinstance(target, int):
            problems += _number(target, f"{path}.targetPort")
        elif isinstance(target, str) and not _matches(_PORT_NAME, target, 15):
            problems.append(Problem.invalid(f"{path}.targetPort", target, _PORT_NAME_TEXT))
        name = port.get("name", "")
        if not name and len(ports) > 1:
            problems.append(Problem.required(f"{path}.name"))
        elif name and name in names:
            problems.append(Problem.duplicate(f"{path}.name", name))
        elif name and not _matches(_LABEL, name, 63):
            problems.append(Problem.invalid(f"{path}.name", name, LABEL_TEXT))
        names.add(name)
        pair = (port.get("port"), port.get("protocol"))
        if pair in pairs:
            problems.append(Problem.duplicate(path, {"port": pair[0], "protocol": pair[1]}))
        pairs.add(pair)
    return problems


def _endpoints(endpoints: Object) -> list[Problem]:
    problems: list[Problem] = []
    for index, subset in enumerate(endpoints.get("subsets", [])):
        path = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            problems.append(Problem.required(path, "must specify `addresses` or `notReadyAddresses`"))
        for group in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(group, [])):
                problems += _ip(address.get("ip", ""), f"{path}.{group}[{number}].ip")
        problems += _ports(subset.get("ports", []), f"{path}.ports")
    return problems


def _endpoint_slice(slice_: Object) -> list[Problem]:
    problems: list[Problem] = []
    kinds = ("FQDN", "IPv4", "IPv6")
    if not slice_.get("addressType"):
        problems.append(Problem.required("addressType"))
    elif slice_["addressType"] not in kinds:
        problems.append(Problem.unsupported("addressType", slice_["addressType"], kinds))
    for index, endpoint in enumerate(slice_["endpoints"] or []):
        path = f"endpoints[{index}].addresses"
        if not endpoint.get("addresses"):
            problems.append(Problem.required(path, "must contain at least 1 address"))
        elif slice_.get("addressType") == "IPv4":
            for number, address in enumerate(endpoint["addresses"]):
                problems += _ip(address, f"{path}[{number}]")
    return problems + _ports(slice_["ports"] or [], "ports")


def _ports(ports: list[Object], path: str) -> list[Problem]:
    problems: list[Problem] = []
    for index, port in enumerate(ports):
        if "port" in port:
            problems += _number(port["port"], f"{path}[{index}].port")
        problems += _protocol(port, f"{path}[{index}]")
        if not port.get("name") and len(ports) > 1 and path.startswith("subsets"):
            problems.append(Problem.required(f"{path}[{index}].name"))
    return problems


def _ip(text: str, path: str) -> list[Problem]:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return [Problem.invalid(path, text, "must be a valid IPv4 address")]
    for bad, why in (
        (address.is_unspecified, "may not be unspecified (0.0.0.0)"),
        (address.is_loopback, "may not be in the loopback range (127.0.0.0/8)"),
        (address.is_link_local, "may not be in the link-local range (169.254.0.0/16)"),
        (address.is_multicast, "may not be in the multicast range (224.0.0.0/4)"),
    ):
        if bad:
            return [Problem.invalid(path, text, why)]
    return []


def _lease(lease: Object) -> list[Problem]:
    spec = lease.get("spec", {})
    problems: list[Problem] = []
    if spec.get("leaseDurationSeconds", 1) <= 0:
        problems.append(
            Problem.invalid(
                "spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0"
            )
        )
    if spec.get("leaseTransitions", 0) < 0:
        problems.append(
            Problem.invalid(
                "spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0"
            )
        )
    return problems


def _event(event: Object) -> list[Problem]:
    own = field(event, "involvedObject.namespace") or "default"
    namespace = meta(event).get("namespace", "")
    if own == namespace:
        return []
    return [Problem.invalid("involvedObject.namespace", own, "does not match event.namespace")]


_RULES: dict[str, Callable[[Object], list[Problem]]] = {
    "pods": _pod,
    "services": _service,
    "endpoints": _endpoints,
    "events": _event,
    "discovery.k8s.io/endpointslices": _endpoint_slice,
    "coordination.k8s.io/leases": _lease,
    "apps/daemonsets": workloads.check,
    "apps/deployments": workloads.check,
    "apps/statefulsets": workloads.check,
    "rbac.authorization.k8s.io/roles": workloads.check_role,
    "rbac.authorization.k8s.io/clusterroles": workloads.check_role,
    "rbac.authorization.k8s.io/rolebindings": workloads.check_binding,
    "rbac.authorization.k8s.io/clusterrolebindings": workloads.check_binding,
}
