"""The records of a lab against each other, and against what somebody knows that he has done: pods, tenants, Services.

For `fakes.reality`. The API says what there is; etcd and OVSDB have to follow from it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from fakes.reality_known import Known
from fakes.reality_switch import unequal
from k8s_ovs.lab.cluster import ETCD_PREFIX, NETWORK_NAME, PLACES
from k8s_ovs.lab.objects import LabPod
from k8s_ovs.model.types import GLOBAL_VNI, Attachment, gateway_of

ObjectName = tuple[str, str]
"""Namespace and name."""
GLOBAL = "global"
"""The group of the Namespaces that reach all."""


@dataclass(frozen=True)
class ExpectedPod:
    """A pod that runs: where, and its limits in bits per second."""

    node: str
    ingress: int | None = None
    egress: int | None = None


@dataclass(frozen=True)
class ExpectedService:
    """A Service: its ports as (name, protocol, port), its affinity in seconds, and the names of the pods behind it."""

    ports: frozenset[tuple[str, str, int]]
    affinity: int | None
    pods: frozenset[str]


@dataclass(frozen=True)
class Expected:
    """What somebody knows that there has to be. `groups`: Namespaces of one group are one tenant; others are apart.

    Namespaces and Services that a cluster has from the start are not named; `hosts` are external hosts with a subnet.
    """

    pods: Mapping[ObjectName, ExpectedPod]
    groups: Mapping[str, str]
    services: Mapping[ObjectName, ExpectedService]
    nodes: frozenset[str]
    hosts: frozenset[str] = field(default_factory=frozenset)


def differences(known: Known) -> Iterator[str]:
    """Where API, etcd and OVSDB do not agree, in words."""
    yield from _subnets(known)
    yield from _tenants(known)
    yield from _keys(known)
    yield from _leases(known)
    yield from _namespaces(known)


def _subnets(known: Known) -> Iterator[str]:
    """One host subnet for each Node and each registered external host."""
    records = known.records.host_subnets
    nodes = {(name, address) for name, node in known.nodes.items() for address in node.addresses()}
    held = {(record.host, str(record.host_ip)) for record in records.values() if not record.assign}
    yield from unequal("host subnets of Nodes", map(" ".join, nodes), map(" ".join, held))
    given = [record for record in records.values() if record.subnet is not None]
    if missing := [record.host for record in records.values() if record.subnet is None]:
        yield f"no subnet for {missing}"
    for one, other in combinations(given, 2):
        if one.subnet and other.subnet and one.subnet.overlaps(other.subnet):
            yield f"host subnets of {one.host} and {other.host} overlap: {one.subnet}, {other.subnet}"
    for record in given:
        if record.subnet is not None and not record.subnet.subnet_of(known.config.network):
            yield f"host subnet of {record.host} is {record.subnet}"
    for former in known.records.former.values():
        if former.host in known.nodes:
            yield f"what the Node {former.host} had is still remembered: {former.subnet}"
        for record in given:
            if record.subnet is not None and record.subnet.overlaps(former.subnet):
                yield f"{record.host} has {record.subnet}, which is remembered for {former.host}"
    alive = {str(address) for address in known.records.reports}
    # An external host whose subnet was released lives, and waits for another.
    hosts = {str(host.ip) for host in known.cluster.hosts}
    agents = {str(member.ip) for member in known.cluster.members if member.ip in records}
    yield from unequal("reports of agents", agents, alive - (hosts - agents))


def _tenants(known: Known) -> Iterator[str]:
    """One ledger entry and one net namespace for each Namespace; nothing under way."""
    tenants, answers = known.records.tenants, known.records.net_namespaces
    names = list(known.namespaces)
    yield from unequal("tenants", names, tenants)
    yield from unequal("net namespaces", names, answers)
    for tenant in tenants.values():
        if tenant.change is not None:
            yield f"the tenant of {tenant.name} is still changing: {tenant.change}"
        answer = answers.get(tenant.name)
        if answer is not None and (answer.net_id, answer.action, answer.other) != (tenant.vni, "", ""):
            yield f"net namespace {answer}, and its tenant is {tenant.vni}"
    for problem in known.records.problems.values():
        yield f"etcd: {problem}"


def _keys(known: Known) -> Iterator[str]:
    """Nothing in etcd that is none of these records."""
    root = f"{ETCD_PREFIX}/{NETWORK_NAME}/"
    records = known.records
    wanted = [f"{root}subnets/{address}" for address in records.host_subnets]
    wanted += [f"{root}netnamespaces/{name}" for name in records.net_namespaces]
    wanted += [f"{root}tenants/{name}" for name in records.tenants]
    wanted += [f"{ETCD_PREFIX}/former/{NETWORK_NAME}/{host}" for host in records.former]
    wanted += [f"{ETCD_PREFIX}/agents/{NETWORK_NAME}/{address}" for address in records.reports]
    yield from unequal("keys in etcd", [f"{ETCD_PREFIX}/config", *wanted], known.etcd_keys)


def _leases(known: Known) -> Iterator[str]:
    """One lease for each pod, on its node, with its address; no address twice, none without a pod."""
    holders: defaultdict[str, list[str]] = defaultdict(list)
    seen: list[str] = []
    for member in known.cluster.members:
        record = known.records.host_subnets.get(member.ip)
        for lease in known.leases[member.name]:
            title = f"{lease.namespace}/{lease.pod}"
            seen.append(f"{title} {lease.uid}")
            holders[str(lease.address)].append(title)
            pod = known.pods.get((lease.namespace, lease.pod))
            if pod is None or pod.metadata.uid != lease.uid:
                yield f"leaked: {lease.address} on {member.name} of {title} {lease.uid}, which is no pod"
            elif fault := _disagrees(pod, lease, member.name):
                yield f"pod {title}: {fault}"
            subnet = record.subnet if record is not None else None
            if subnet and (lease.address not in subnet or lease.address == gateway_of(subnet)):
                yield f"pod {title}: {lease.address} is no address for pods of {subnet} ({member.name})"
    for address, titles in holders.items():
        if len(titles) > 1:
            yield f"double: {address} belongs to {', '.join(titles)}"
    pods = [pod for pod in known.pods.values() if not pod.spec.host_network]
    yield from unequal("leases", [f"{pod.title} {pod.metadata.uid}" for pod in pods], seen)


def _disagrees(pod: LabPod, lease: Attachment, node: str) -> str:
    if pod.spec.node_name != node:
        return f"is on {pod.spec.node_name}, and has {lease.address} on {node}"
    if not pod.ready:
        return f"is {pod.status.phase or 'Pending'}, not Ready"
    if pod.status.pod_ip != str(lease.address):
        return f"is told to have {pod.status.pod_ip}, and its lease says {lease.address}"
    return ""


def _namespaces(known: Known) -> Iterator[str]:
    """The network namespaces are the lab's and its pods'."""
    directory = known.cluster.directory / "netns"
    members = [member.name for member in known.cluster.members]
    pods = [lease.netns.rpartition("/")[2] for leases in known.leases.values() for lease in leases]
    held = [path.name for path in directory.iterdir()]
    yield from unequal("network namespaces", [*PLACES, *members, *pods], held)


# -- what somebody knows ----------------------------------------------------------------------------------------------


def unexpected(known: Known, expected: Expected) -> Iterator[str]:
    """Where the records are not what somebody has brought about, in words."""
    pods = {f"{pod.title} on {pod.spec.node_name}" for pod in known.pods.values()}
    wanted = {f"{space}/{name} on {pod.node}" for (space, name), pod in expected.pods.items()}
    yield from unequal("pods in the API", wanted, pods)
    for leases in known.leases.values():
        for lease in leases:
            pod = expected.pods.get((lease.namespace, lease.pod))
            if pod is not None and (pod.ingress, pod.egress) != (lease.limits.ingress, lease.limits.egress):
                yield f"pod {lease.namespace}/{lease.pod}: limits are {lease.limits}, not those of {pod}"
    yield from unequal("Nodes in the API", expected.nodes, known.nodes)
    hosts = [record.host for record in known.records.host_subnets.values() if record.assign]
    yield from unequal("external hosts with a subnet", expected.hosts, hosts)
    yield from _tenancy(known, expected)
    yield from _services(known, expected)


def _tenancy(known: Known, expected: Expected) -> Iterator[str]:
    """Whose VNIs are equal, and who is global."""
    groups = {"default": "default", "kube-system": GLOBAL, **expected.groups}
    yield from unequal("Namespaces in the API", groups, known.namespaces)
    vnis = {name: tenant.vni for name, tenant in known.records.tenants.items() if name in groups}
    for name, vni in vnis.items():
        if (groups[name] == GLOBAL) != (vni == GLOBAL_VNI):
            yield f"Namespace {name} should be of {groups[name]!r}, its VNI is {vni}"
    for one, other in combinations(sorted(vnis), 2):
        if (groups[one] == groups[other]) != (vnis[one] == vnis[other]):
            should, are = f"{groups[one]!r} and {groups[other]!r}", f"{vnis[one]} and {vnis[other]}"
            yield f"Namespaces {one} and {other} should be of {should}, their VNIs are {are}"


def _services(known: Known, expected: Expected) -> Iterator[str]:
    ours = {(each.namespace, each.name): each for each in known.services}
    del ours["default", "kubernetes"]
    yield from unequal("Services in the API", map("/".join, expected.services), map("/".join, ours))
    for key, wanted in expected.services.items():
        if (service := ours.get(key)) is None:
            continue
        ports = {(port.name, port.protocol.name, port.port) for port in service.ports}
        if (ports, service.affinity) != (wanted.ports, wanted.affinity):
            yield f"Service {'/'.join(key)}: {service}, not {wanted}"
        addresses = {
            str(endpoint.address)
            for piece in known.slices
            if (piece.namespace, piece.service) == key
            for endpoint in piece.endpoints
        }
        pods = {
            known.pods[key[0], name].status.pod_ip for name in wanted.pods if (key[0], name) in known.pods
        }
        if addresses != pods:
            yield f"Service {'/'.join(key)}: its endpoints are {sorted(addresses)}, not {sorted(pods)}"
