"""What a change of tenants would do: who newly reaches whom, and who no longer does.

Called by `k8s-ovs tenant … --dry-run`. It asks the oracle (`model.tenancy`) about what is and about what would be, and
tells the difference. Pure; it neither reads records nor decides whether a request may be made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from k8s_ovs.config import Mode
from k8s_ovs.model.alloc import VniAllocator
from k8s_ovs.model.tenancy import may_reach, pod, service
from k8s_ovs.model.types import GLOBAL_VNI, Tenant, Vni

Tenancies = Mapping[str, Vni]
"""The VNI of each Namespace."""


@dataclass(frozen=True, slots=True)
class Workloads:
    """What lives in the Namespaces: names of pods (not those of the host's network) and of Services with an address."""

    pods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    services: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, order=True)
class Reach:
    """A way that opens or closes: from the pods of `source` to the pods and Services of `destination`.

    The names are those that `Workloads` knows. A Service that is open to all is never among them.
    """

    source: str
    destination: str
    source_pods: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """Ways that open and ways that close, in the order of names; a way and its opposite are two."""

    opened: tuple[Reach, ...] = ()
    closed: tuple[Reach, ...] = ()

    @property
    def empty(self) -> bool:
        """Nothing would change."""
        return not self.opened and not self.closed


def tenancies_of(tenants: Iterable[Tenant]) -> dict[str, Vni]:
    """The VNI of each Namespace once every change that is under way has been completed."""
    return {tenant.name: tenant.vni if tenant.change is None else tenant.change.new for tenant in tenants}


def after_join(tenancies: Tenancies, name: str, other: str) -> dict[str, Vni]:
    """What `name` joining `other` leads to."""
    return {**tenancies, name: tenancies[other]}


def after_isolate(tenancies: Tenancies, name: str) -> dict[str, Vni]:
    """What isolating `name` leads to: a VNI of its own, or nothing new if it shares none.

    The new VNI stands for the one that the controller will choose; it need not be the same.
    """
    own = tenancies[name]
    shared = own == GLOBAL_VNI or any(vni == own for namespace, vni in tenancies.items() if namespace != name)
    return {**tenancies, name: VniAllocator().allocate(tenancies.values())} if shared else dict(tenancies)


def after_global(tenancies: Tenancies, name: str) -> dict[str, Vni]:
    """What making `name` global leads to."""
    return {**tenancies, name: GLOBAL_VNI}


def preview(before: Tenancies, after: Tenancies, workloads: Workloads, mode: Mode) -> Preview:
    """The difference that `after` makes, for all pairs of the Namespaces of `after`. Costs O(Namespaces) for one change."""
    opened: list[Reach] = []
    closed: list[Reach] = []
    for source, destination in _affected(before, after):
        for found, was, becomes in ((opened, before, after), (closed, after, before)):
            reach = _newly(source, destination, was, becomes, workloads, mode)
            if reach is not None:
                found.append(reach)
    return Preview(tuple(sorted(opened)), tuple(sorted(closed)))


def _affected(before: Tenancies, after: Tenancies) -> Iterator[tuple[str, str]]:
    """Pairs of Namespaces at least one of which gets another VNI."""
    changed = {name for name, vni in after.items() if before.get(name) != vni}
    for name in changed:
        for other in after:
            if other != name:
                yield name, other
                if other not in changed:
                    yield other, name


def _newly(
    source: str,
    destination: str,
    before: Tenancies,
    after: Tenancies,
    workloads: Workloads,
    mode: Mode,
) -> Reach | None:
    """What pods of `source` reach in `destination` with `after` and do not with `before`."""

    def reaches(name: str, tenancies: Tenancies) -> bool:
        client, owner = pod(tenancies.get(source)), tenancies.get(destination)
        return may_reach(client, service(owner, destination, name) if name else pod(owner), mode)

    def is_new(name: str = "") -> bool:
        return reaches(name, after) and not reaches(name, before)

    services = tuple(name for name in workloads.services.get(destination, ()) if is_new(name))
    if not is_new():
        return None
    return Reach(
        source,
        destination,
        workloads.pods.get(source, ()),
        workloads.pods.get(destination, ()),
        services,
    )
