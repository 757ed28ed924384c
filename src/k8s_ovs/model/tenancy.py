"""Who may talk to whom: the oracle. The contract of the design, written once, as code.

Used by the lab's matrix, by `tenant … --dry-run`, and by every end-to-end and property test. It knows modes and VNIs,
and nothing of switches, flows or records.
"""

from dataclasses import dataclass
from enum import StrEnum

from k8s_ovs.config import Mode
from k8s_ovs.model.types import GLOBAL_VNI, OPEN_TO_ALL, Vni


class Kind(StrEnum):
    """What a party is."""

    POD = "pod"
    SERVICE = "service"
    HOST = "host"
    EXTERNAL_HOST = "external host"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a connection: a kind, a tenant (pods and Services only), and a name for the explanation.

    `vni` None means that the Namespace has no tenant record yet. `open_to_all` marks the `kubernetes` Service of the
    Namespace `default`.
    """

    kind: Kind
    vni: Vni | None = None
    name: str = ""
    open_to_all: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


def pod(vni: Vni | None, name: str = "") -> Party:
    """A pod of a tenant."""
    return Party(Kind.POD, vni, name)


def service(vni: Vni | None, namespace: str = "", name: str = "") -> Party:
    """A Service of a tenant; default/kubernetes is open to all."""
    open_to_all = (namespace, name) == OPEN_TO_ALL
    return Party(Kind.SERVICE, vni, f"{namespace}/{name}", open_to_all=open_to_all)


def host(name: str = "") -> Party:
    """A node, acting for itself."""
    return Party(Kind.HOST, GLOBAL_VNI, name)


def external_host(name: str = "") -> Party:
    """A host outside Kubernetes that has a host subnet and an agent."""
    return Party(Kind.EXTERNAL_HOST, GLOBAL_VNI, name)


def outside(name: str = "") -> Party:
    """Anybody beyond the cluster network. As a source: as far as a host lets it in, which then acts for it."""
    return Party(Kind.OUTSIDE, GLOBAL_VNI, name)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed or not, and why, for people."""

    allowed: bool
    why: str


def judge(source: Party, destination: Party, mode: Mode) -> Verdict:
    """Whether `source` may open a connection to `destination`, and why."""
    if source.kind is Kind.SERVICE:
        raise ValueError("a Service opens no connections: ask for the pods behind it")
    if destination.kind in (Kind.OUTSIDE, Kind.HOST, Kind.EXTERNAL_HOST) and source.kind is not Kind.POD:
        return Verdict(True, f"{source} and {destination} are not pods: nothing of ours is between them")
    if mode is Mode.SUBNET:
        return Verdict(True, "single-tenant mode: everybody reaches everybody")
    for party in (source, destination):
        if party.vni is None and not party.open_to_all:
            return Verdict(False, f"the Namespace of {party} has no tenant record yet")
    if destination.kind is Kind.OUTSIDE:
        return Verdict(True, "outside the cluster network all pods may go")
    if destination.open_to_all:
        return Verdict(True, f"{destination} is open to all")
    return _compare(source, destination)


def _compare(source: Party, destination: Party) -> Verdict:
    for party in (source, destination):
        if party.vni == GLOBAL_VNI:
            return Verdict(True, f"{party} is global (VNI 0)")
    if source.vni == destination.vni:
        return Verdict(True, f"{source} and {destination} are one tenant (VNI {source.vni})")
    return Verdict(
        False,
        f"{source} is tenant {source.vni}, {destination} is tenant {destination.vni}, neither is global",
    )


def may_reach(source: Party, destination: Party, mode: Mode) -> bool:
    """Whether `source` may open a connection to `destination`."""
    return judge(source, destination, mode).allowed
