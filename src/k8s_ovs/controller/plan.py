"""What the two planners share: a plan, and what an operator has to be told.

Pure. Made by `subnets` and `tenants`, carried out by `worker`, told by `report`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from k8s_ovs.sources.store import Change, Snapshot

MAX_OPERATIONS = 100
"""Host subnets, or Namespaces with all their records, in one change: a round stays short."""


class ProblemKind(StrEnum):
    """What is wrong; the value is the reason of the Kubernetes Event and the label of the metric."""

    NO_ADDRESS = "NodeWithoutAddress"
    UNUSABLE_ADDRESS = "NodeAddressUnusable"
    SHARED_ADDRESS = "NodeAddressShared"
    TAKEN_ADDRESS = "NodeAddressTaken"
    SHARED_NAME = "HostNameShared"
    FOREIGN_SUBNET = "SubnetForeign"
    OVERLAPPING_SUBNET = "SubnetOverlap"
    NO_SUBNET_LEFT = "SubnetsExhausted"
    NO_VNI_LEFT = "VnisExhausted"
    REFUSED_REQUEST = "TenantRequestRefused"
    NODE_BEHIND = "TenantChangedWithoutNode"
    MALFORMED_RECORD = "RecordMalformed"
    AGENT_SILENT = "AgentSilent"
    AGENT_NOT_READY = "AgentNotReady"


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """What a problem is about: `kind` is "Node", "Namespace" or, for a record of the store, "Record"."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that only an operator can put right. It stops nothing else."""

    subject: Subject
    kind: ProblemKind
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"


def node_problem(kind: ProblemKind, node: str, message: str, remedy: str) -> Problem:
    """A problem of a Node; the message begins with its name."""
    return Problem(Subject("Node", node), kind, f"node {node}: {message}", remedy)


def namespace_problem(kind: ProblemKind, namespace: str, message: str, remedy: str) -> Problem:
    """A problem of a Namespace; the message begins with its name."""
    return Problem(Subject("Namespace", namespace), kind, f"namespace {namespace}: {message}", remedy)


def record_problem(kind: ProblemKind, key: str, message: str, remedy: str) -> Problem:
    """A problem of a record; `key` is its key, or the end of it that tells it from others."""
    return Problem(Subject("Record", key), kind, f"{key}: {message}", remedy)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write now, and what is wrong.

    `change` is None if all is as it should be; else it is one transaction, and what remains is planned after
    it from a new snapshot. `allocated` counts the subnets or VNIs that it gives. `absent` names the Nodes or
    Namespaces whose absence it rests on: records are deleted because of it. `free` is what is left of the
    pool now.
    """

    change: Change | None
    problems: tuple[Problem, ...]
    free: int
    allocated: int = 0
    absent: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Malformed:
    """The keys of malformed records, taken apart: the planners must not write there."""

    host_ips: frozenset[IPv4Address]
    namespaces: frozenset[str]

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Malformed":
        """From the snapshot's problems, whose keys end in subnets/HOSTIP or netnamespaces/NAMESPACE."""
        parts = [key.rsplit("/", 2)[-2:] for key in snapshot.problems]
        pairs = [(part[0], part[1]) for part in parts if len(part) == 2]
        return cls(
            frozenset(_addresses(name for kind, name in pairs if kind == "subnets")),
            frozenset(name for kind, name in pairs if kind == "netnamespaces"),
        )


def record_problems(snapshot: Snapshot) -> tuple[Problem, ...]:
    """The malformed records of a snapshot, as problems."""
    return tuple(
        record_problem(
            ProblemKind.MALFORMED_RECORD,
            key,
            error.reason,
            error.remedy or "write it anew, or delete it",
        )
        for key, error in sorted(snapshot.problems.items())
    )


def _addresses(texts: Iterable[str]) -> Iterable[IPv4Address]:
    for text in texts:
        try:
            yield IPv4Address(text)
        except ValueError:
            continue  # no host has such a key; the record is reported all the same
