"""Which Namespace has which VNI: the plan from what is recorded to what should be.

Called by `worker` with a snapshot and the Namespaces; pure, and the same for any order of its input. Rules:

- Multitenant mode: a Namespace gets a record with a VNI of its own; `kube-system` gets 0, which is global. A
VNI
  that is given is never changed here, whoever wrote it.
- Subnet mode: every VNI is 0 by definition, so that no record is needed and none is made. Those that exist
stay:
  after a switch back to multitenant mode the tenants are what they were.
- In both modes the record of a Namespace that is gone is deleted.
- A record with an Action is a request. None is supported yet: it stays as it is and is reported.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.batch import Writes, next_batch
from k8s_ovs.controller.plan import (
    MAX_OPERATIONS,
    Malformed,
    Plan,
    Problem,
    ProblemKind,
    namespace_problem,
)
from k8s_ovs.errors import ExhaustedError
from k8s_ovs.model.alloc import VniAllocator
from k8s_ovs.model.types import GLOBAL_NAMESPACE, GLOBAL_VNI, MAX_VNI, MIN_TENANT_VNI, NetNamespace, Vni
from k8s_ovs.sources.store import Change, Snapshot

Records = Mapping[str, NetNamespace]


def plan_tenants(
    snapshot: Snapshot,
    namespaces: Iterable[str],
    config: NetworkConfig,
    held: Collection[Vni] = (),
    *,
    limit: int = MAX_OPERATIONS,
    allocator: VniAllocator | None = None,
) -> Plan:
    """The next change of net namespaces, with at most `limit` writes.

    `held` are VNIs that no readable record shows but that may be in use: those of records that became
    malformed. `allocator` knows where the last plan stopped, so that a VNI that was just freed is not the next to be
    given; it goes on from there whether or not the plan is carried out.
    """
    living = set(namespaces)
    records = snapshot.net_namespaces
    malformed = Malformed.of(snapshot).namespaces
    taken = {record.net_id for record in records.values() if record.net_id is not None} | set(held)
    free = MAX_VNI - MIN_TENANT_VNI + 1 - sum(1 for vni in taken if vni >= MIN_TENANT_VNI)
    gone = sorted(name for name in records if name not in living)
    wanting: list[str] = []
    if config.mode is Mode.MULTITENANT:
        wanting = [name for name in sorted(living - malformed) if _wants_vni(records.get(name))]
    given, problems = _give(wanting[:limit], records, taken, allocator or VniAllocator())
    batch = next_batch({**given, **dict.fromkeys(gone)}, {}, limit)
    problems += _judge(records, living, config.mode)
    return Plan(
        _change(snapshot, batch),
        tuple(sorted(problems)),
        free=free,
        allocated=sum(1 for record in batch.values() if record is not None and record.net_id != GLOBAL_VNI),
        absent=[name for name, record in batch.items() if record is None],
    )


def _wants_vni(record: NetNamespace | None) -> bool:
    return record is None or (record.net_id is None and not record.action)


def _give(
    names: Iterable[str], records: Records, taken: set[Vni], allocator: VniAllocator
) -> tuple[Writes[str, NetNamespace], list[Problem]]:
    """A VNI for each of `names`; those that get none are problems. Adds to `taken`."""
    writes: Writes[str, NetNamespace] = {}
    problems = []
    for name in names:
        try:
            vni = GLOBAL_VNI if name == GLOBAL_NAMESPACE else allocator.allocate(taken)
        except ExhaustedError as err:
            message, remedy = f"gets no VNI: {err.message}", err.remedy or "delete Namespaces, or join some"
            problems.append(namespace_problem(ProblemKind.NO_VNI_LEFT, name, message, remedy))
            continue
        taken.add(vni)
        writes[name] = replace(records.get(name) or NetNamespace(name, None), net_id=vni)
    return writes, problems


def _change(snapshot: Snapshot, batch: Writes[str, NetNamespace]) -> Change | None:
    if not batch:
        return None
    return Change(
        based_on=snapshot.revision,
        put_namespaces=[record for record in batch.values() if record is not None],
        delete_namespaces=[key for key, record in batch.items() if record is None],
    )


def _judge(records: Records, living: Collection[str], mode: Mode) -> Iterator[Problem]:
    """Requests that are not served, and VNIs that are shared although nobody asked us to join anything."""
    sharing: defaultdict[Vni, list[str]] = defaultdict(list)
    for name in sorted(records):
        record = records[name]
        if name not in living:
            continue
        if record.action:
            yield namespace_problem(
                ProblemKind.UNSUPPORTED_ACTION,
                name,
                f"the request {record.action!r} in its record is not supported"
                + (" in single-tenant mode" if mode is Mode.SUBNET else " yet"),
                'write the record with "Action":""',
            )
        if record.net_id is not None and record.net_id != GLOBAL_VNI:
            sharing[record.net_id].append(name)
    for vni, names in sharing.items():
        for name in names if len(names) > 1 else ():
            others = ", ".join(other for other in names if other != name)
            yield namespace_problem(
                ProblemKind.SHARED_VNI,
                name,
                f"has the VNI {vni} that namespace {others} has too, so their pods reach each other",
                "write one of the records without NetID to get another VNI, unless this is meant",
            )
