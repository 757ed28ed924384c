"""Host subnets in memory and one plan on them, for the tests of the controller's planner of subnets."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.plan import Plan, ProblemKind
from k8s_ovs.controller.subnets import plan_subnets
from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import HostSubnet
from k8s_ovs.sources.store import Snapshot

CONFIG = NetworkConfig(
    "k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
)


def ip(text: str) -> IPv4Address:
    return IPv4Address(text)


def net(text: str) -> IPv4Network:
    return IPv4Network(text)


def node(name: str, *addresses: str) -> HostNode:
    return HostNode(name, tuple(map(ip, addresses)))


def record(
    host: str, address: str, subnet: str | None, *, assign: bool = False, **extra: object
) -> HostSubnet:
    return HostSubnet(host, ip(address), net(subnet) if subnet else None, assign, extra)


def snapshot(*records: HostSubnet, problems: Iterable[str] = ()) -> Snapshot:
    errors = {key: RecordError(key, "not JSON", remedy="write it anew") for key in problems}
    return Snapshot(7, {r.host_ip: r for r in records}, {}, errors)


def plan(
    nodes: Iterable[HostNode],
    *records: HostSubnet,
    config: NetworkConfig = CONFIG,
    problems: Iterable[str] = (),
    held: Iterable[str] = (),
    former: Mapping[str, str] = {},
    limit: int = 100,
) -> Plan:
    return plan_subnets(
        snapshot(*records, problems=problems),
        nodes,
        config,
        [net(each) for each in held],
        former={name: net(each) for name, each in former.items()},
        limit=limit,
    )


def puts(result: Plan) -> dict[str, tuple[str, str, bool]]:
    """What is written: key -> host, subnet, assign."""
    assert result.change is not None
    assert result.change.based_on == 7
    return {str(r.host_ip): (r.host, str(r.subnet), r.assign) for r in result.change.put_subnets}


def deletes(result: Plan) -> set[str]:
    assert result.change is not None
    return {str(key) for key in result.change.delete_subnets}


def kinds(result: Plan) -> dict[str, ProblemKind]:
    return {problem.subject.name: problem.kind for problem in result.problems}
