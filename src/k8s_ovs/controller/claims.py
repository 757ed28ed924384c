"""Which Node may have the record under which address. The first half of planning host subnets; pure.

Called by `subnets`. A Node whose claim is refused keeps what it has; the reason is a problem for the
operator.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from k8s_ovs.config import NetworkConfig
from k8s_ovs.controller.plan import Problem, ProblemKind, node_problem
from k8s_ovs.model.types import HostSubnet

Records = Mapping[IPv4Address, HostSubnet]


@dataclass(frozen=True, slots=True)
class HostNode:
    """What the plan needs of a Node: its name and its InternalIP addresses (IPv4), in the Node's order."""

    name: str
    addresses: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Claims:
    """The address of each Node that has an undisputed one, by name, and what is wrong with the others."""

    addresses: Mapping[str, IPv4Address]
    problems: tuple[Problem, ...]


def resolve_claims(nodes: Mapping[str, HostNode], records: Records, config: NetworkConfig) -> Claims:
    """Decide for every Node; `nodes` by name."""
    problems: list[Problem] = []
    wanted: dict[str, IPv4Address] = {}
    for name in sorted(nodes):
        choice = _choose(nodes[name], records, config)
        if isinstance(choice, Problem):
            problems.append(choice)
        else:
            wanted[name] = choice
    problems.extend(_drop_shared(wanted, records))
    problems.extend(_drop_occupied(wanted, records, nodes))
    return Claims(wanted, tuple(problems))


def _choose(node: HostNode, records: Records, config: NetworkConfig) -> IPv4Address | Problem:
    """The address that the node is known by, so that a second one moves no record; else its first usable."""
    usable = [a for a in node.addresses if a not in config.network and a not in config.service_network]
    if not node.addresses:
        return node_problem(
            ProblemKind.NO_ADDRESS,
            node.name,
            "has no IPv4 address of type InternalIP, so it gets no subnet",
            "start its kubelet with --node-ip, or see why the kubelet does not report one",
        )
    if not usable:
        return node_problem(
            ProblemKind.UNUSABLE_ADDRESS,
            node.name,
            f"its address {node.addresses[0]} is inside the pod network {config.network} "
            f"or the Service network {config.service_network}",
            "give the kubelet another --node-ip, or choose networks that the nodes are not in",
        )
    known = [a for a in usable if a in records and _is_of(records[a], node.name)]
    address = (known or usable)[0]
    if address in records and records[address].assign:
        return node_problem(
            ProblemKind.TAKEN_ADDRESS,
            node.name,
            f"its address {address} has the record of the external host {records[address].host}",
            f"delete the record subnets/{address}, or write it with Assign false",
        )
    return address


def _is_of(record: HostSubnet, name: str) -> bool:
    return not record.assign and record.host == name


def _drop_shared(wanted: dict[str, IPv4Address], records: Records) -> Iterator[Problem]:
    """Of Nodes with one address, only the one that already has its record may go on; else none may."""
    by_address: defaultdict[IPv4Address, list[str]] = defaultdict(list)
    for name, address in wanted.items():
        by_address[address].append(name)
    for address, names in by_address.items():
        if len(names) == 1:
            continue
        for name in names:
            if address in records and records[address].host == name:
                continue
            del wanted[name]
            others = ", ".join(other for other in names if other != name)
            yield node_problem(
                ProblemKind.SHARED_ADDRESS,
                name,
                f"its address {address} is also that of node {others}",
                "delete the Node that no longer exists, or correct the address of one",
            )


def _drop_occupied(
    wanted: dict[str, IPv4Address], records: Records, nodes: Mapping[str, HostNode]
) -> Iterator[Problem]:
    """An address whose record belongs to a Node that cannot move away stays with that Node.

    Each refusal may block the next Node, so this goes on until nothing changes.
    """
    blocked = True
    while blocked:
        blocked = False
        for name, address in list(wanted.items()):
            holder = records[address].host if address in records else name
            if holder != name and holder in nodes and holder not in wanted:
                del wanted[name]
                blocked = True
                yield node_problem(
                    ProblemKind.TAKEN_ADDRESS,
                    name,
                    f"its address {address} has the record of node {holder}, which has no usable address now",
                    f"correct the address of node {holder}, or delete that Node",
                )
