"""Which Namespace is which tenant: the plan from what is recorded to what should be.

Called by `rounds` with a snapshot and the Namespaces; pure but for what `Patience` remembers. Rules:

- Multitenant mode: a Namespace gets a tenant with a VNI of its own; `kube-system` gets 0, which is global. What counts is
  the ledger (`tenants/`), which only this controller writes; a net namespace says the same to people and takes their
  requests. A NetID that is written by hand counts once: when the Namespace has no tenant yet, and nobody else has it.
- With no ledger at all (a first start over the records of an older version) every NetID counts, and equal ones are
  joined Namespaces.
- A request changes a tenant step by step, each one applied by every node before the next (`changes`).
- Single-tenant mode: every tenant is global by definition; no ledger is made, and requests are refused. What exists
  stays: after a switch back to multitenant mode the tenants are what they were.
- In both modes what belongs to a Namespace that is gone is deleted. One that was made anew under its name before anybody
  noticed is another tenant: it gets a VNI of its own at once, and nothing of what its predecessor was joined with.
- A malformed record stays as it is; its Namespace keeps its tenant.
- A Namespace whose tenant the store has lost (it was put back to an older state) gets the VNI that it had, if that is known.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.changes import Patience, advanced
from k8s_ovs.controller.plan import (
    MAX_OPERATIONS,
    Malformed,
    Plan,
    Problem,
    ProblemKind,
    namespace_problem,
)
from k8s_ovs.controller.requests import JOIN, Refusal, Wait, answer, begun, judge, used
from k8s_ovs.errors import ExhaustedError
from k8s_ovs.model.alloc import VniAllocator
from k8s_ovs.model.types import (
    GLOBAL_NAMESPACE,
    GLOBAL_VNI,
    MAX_VNI,
    MIN_TENANT_VNI,
    NetNamespace,
    Tenant,
    Vni,
)
from k8s_ovs.sources.records import ForbiddenNetId, error_of
from k8s_ovs.sources.store import MAX_NEEDS, Change, Snapshot

_REFUSED_REMEDY = "write another request; the next one that is accepted takes the Error away"


@dataclass(slots=True)
class TenantMemory:
    """What a reign keeps from plan to plan. `new_id` names a change, 8 hex digits, never the same twice."""

    new_id: Callable[[], str]
    allocator: VniAllocator = field(default_factory=VniAllocator)
    patience: Patience = field(default_factory=Patience)
    former: Mapping[str, Vni] = field(default_factory=dict)
    """What each living Namespace is known to have had, or to have still on some node: a store that was restored forgets."""
    busy: Collection[Vni] = ()
    """What some node goes on using without a record: for nobody new."""


@dataclass(frozen=True, slots=True)
class TenantPlan(Plan):
    """A Plan, and when to look again although nothing has changed (seconds of the plan's clock).

    `durations` are the seconds that each change took which this plan completes; `refused` counts requests.
    """

    wake_at: float = inf
    durations: Sequence[float] = ()
    refused: int = 0

    @property
    def completed(self) -> int:
        """How many changes this plan completes."""
        return len(self.durations)


def plan_tenants(
    snapshot: Snapshot,
    namespaces: Iterable[str] | Mapping[str, str],
    config: NetworkConfig,
    memory: TenantMemory,
    now: float,
    *,
    limit: int = MAX_OPERATIONS,
    sure: bool = False,
) -> TenantPlan:
    """The next change of tenants and net namespaces, of about `limit` Namespaces.

    A first start adopts what is recorded as a whole: afterwards a NetID that somebody else has is refused.

    `now` is in seconds of a clock that never goes back; `namespaces` may have a uid for each. With `sure`, only what does
    not rest on the absence of a Namespace: for when nobody can be asked whether it is really gone.
    """
    living = namespaces if isinstance(namespaces, Mapping) else dict.fromkeys(namespaces, "")
    draft = _Draft(snapshot, living, memory, now, limit)
    draft.sure = sure
    if not sure:
        draft.bury()
    if config.mode is Mode.MULTITENANT:
        draft.recognize()
        draft.adopt()
        for name in sorted(draft.living & draft.tenants.keys()):
            if draft.full:
                break
            draft.settle(name)
    else:
        draft.refuse_all("in single-tenant mode every Namespace reaches every other")
    return draft.plan()


class _Draft:
    """One plan in the making. `tenants` and `records` are as they will be."""

    def __init__(
        self, snapshot: Snapshot, living: Mapping[str, str], memory: TenantMemory, now: float, limit: int
    ) -> None:
        self.living = living.keys()
        self._uids = living
        self.tenants = dict(snapshot.tenants)
        self._records = dict(snapshot.net_namespaces)
        self._snapshot = snapshot
        self._memory = memory
        self._now = now
        self._limit = limit
        self._malformed = Malformed.of(snapshot).namespaces
        self._put_tenants: dict[str, Tenant] = {}
        self._put_records: dict[str, NetNamespace] = {}
        self._needs_tenants: set[str] = set()
        self._needs_records: set[str] = set()
        """What this plan builds upon, of what there was: nobody may have deleted it meanwhile."""
        self._gone: list[str] = []
        self._problems: list[Problem] = []
        self._allocated = 0
        self._durations: list[float] = []
        self._missed: list[str] = []
        self.sure = False
        self._wake_at = inf
        self._held: dict[Vni, set[str]] = {}
        """Every VNI of a tenant, before or after this plan, and whose: what it frees is given away only after it."""
        for tenant in self.tenants.values():
            self._hold(tenant)
        self._named = {record.net_id for record in self._records.values() if record.net_id is not None}
        self._forbidden = {
            error.record.name: error
            for error in snapshot.problems.values()
            if isinstance(error, ForbiddenNetId)
        }

    @property
    def full(self) -> bool:
        """No further Namespace fits: one that begins a join needs three records."""
        written = max(len(self._put_tenants), len(self._put_records)) + len(self._gone)
        needed = len(self._needs_tenants) + len(self._needs_records)
        return written >= self._limit or needed > MAX_NEEDS - 3

    def bury(self) -> None:
        """Delete what belongs to Namespaces that are gone."""
        for name in sorted((self.tenants.keys() | self._records.keys()) - self.living)[: self._limit]:
            self._gone.append(name)
            self.tenants.pop(name, None)
            self._records.pop(name, None)

    def adopt(self) -> None:
        """Give a tenant to every Namespace that has none."""
        if not self._snapshot.tenants:
            for name in sorted(self.living & self._records.keys()):
                if (wanted := self._records[name].net_id) is not None:
                    self._put(self._tenant(name, wanted))
        for name in sorted(self.living - self.tenants.keys()):
            if self.full:
                break
            if name not in self._malformed or name in self._forbidden:
                self._make(name, self._records.get(name))

    def recognize(self) -> None:
        """Tell Namespaces from those that had their names before them."""
        for name in sorted(self.living & self.tenants.keys()):
            tenant, uid = self.tenants[name], self._uids[name]
            if self.full:
                break
            if uid and not tenant.uid:
                self._put(replace(tenant, uid=uid))
            elif uid not in ("", tenant.uid):
                self._succeed(name)

    def _succeed(self, name: str) -> None:
        """Another Namespace has the name now. What it asks for itself is served later."""
        record = self._records.get(name)
        try:
            vni = GLOBAL_VNI if name == GLOBAL_NAMESPACE else self._new_vni()
        except ExhaustedError as err:
            self._problems.append(_no_vni(name, err))
            return
        tenant = self._tenant(name, vni)
        self._put(tenant)
        if record is not None and record.action:
            self._put_record(replace(record, net_id=vni))
        elif name not in self._malformed:
            self._put_record(answer(tenant, record))
        self._allocated += vni != GLOBAL_VNI

    def _tenant(self, name: str, vni: Vni) -> Tenant:
        return Tenant(name, vni, uid=self._uids[name])

    def settle(self, name: str) -> None:
        """Serve the request of a Namespace, or lead its change one step further."""
        tenant, record = self.tenants[name], self._records.get(name)
        if tenant.change is not None:
            self._lead(tenant, record)
        elif record is None:
            self._answer_missing(tenant)
        elif record.action or record.net_id != tenant.vni or record.other:
            self._serve(tenant, record)

    def refuse_all(self, reason: str) -> None:
        """Answer every request with the same refusal."""
        for name in sorted(self.living & self._records.keys()):
            record = self._records[name]
            if record.action and not self.full:
                refusal = Refusal(reason, "nothing needs to be joined")
                refused = replace(record, action="", other="")
                self._put_record(replace(refused, extra={**refused.extra, "Error": str(refusal)}))

    def plan(self) -> TenantPlan:
        """What was drafted."""
        taken = {vni for tenant in self._snapshot.tenants.values() for vni in used(tenant)} - {GLOBAL_VNI}
        patience = self._memory.patience
        patience.forget(self._snapshot)
        self._problems += patience.problems(self._snapshot)
        self._problems += _refusals(self._records[name] for name in self.living & self._records.keys())
        return TenantPlan(
            self._change(),
            tuple(sorted(self._problems)),
            free=MAX_VNI - MIN_TENANT_VNI + 1 - len(taken),
            allocated=self._allocated,
            absent=[*self._gone, *self._missed],
            wake_at=self._wake_at,
            durations=self._durations,
            refused=sum(bool(error_of(record)) for record in self._put_records.values()),
        )

    def _change(self) -> Change | None:
        if not (self._put_tenants or self._put_records or self._gone):
            return None
        return Change(
            based_on=self._snapshot.revision,
            put_namespaces=list(self._put_records.values()),
            delete_namespaces=self._gone,
            put_tenants=list(self._put_tenants.values()),
            delete_tenants=self._gone,
            needs_tenants=sorted(self._needs_tenants),
            needs_namespaces=sorted(self._needs_records),
        )

    def _make(self, name: str, record: NetNamespace | None) -> None:
        """A new tenant, with the NetID of the record if it may have it."""
        wanted = record.net_id if record is not None else None
        error = ""
        if wanted is not None and wanted not in self._held and wanted != GLOBAL_VNI:
            self._put(self._tenant(name, wanted))
            return
        try:
            given = GLOBAL_VNI if name == GLOBAL_NAMESPACE else self._former(name)
            vni = self._new_vni() if given is None else given
        except ExhaustedError as err:
            self._problems.append(_no_vni(name, err))
            return
        if name in self._forbidden:
            record, error = self._forbidden[name].record, f"{self._forbidden[name].reason}, {name} got {vni}"
        elif wanted is not None and wanted != vni:
            error = (
                f"NetID {wanted} is taken or global, {name} got {vni}: who wants that one asks with an Action"
            )
        tenant = self._tenant(name, vni)
        self._put(tenant)
        asking = record is not None and record.action and not error
        if record is not None and asking:
            self._put_record(replace(record, net_id=vni))
        else:
            self._put_record(answer(tenant, record, error))
        self._allocated += given is None

    def _former(self, name: str) -> Vni | None:
        """The VNI that the Namespace had before the store forgot it, unless it is somebody else's now."""
        vni = self._memory.former.get(name)
        if vni is None or vni == GLOBAL_VNI:
            return vni
        ours = all(self._memory.former.get(holder) == vni for holder in self._held.get(vni, ()))
        return vni if ours else None

    def _answer_missing(self, tenant: Tenant) -> None:
        """The record was deleted by hand, or holds a NetID that nobody may have, or nobody can read it."""
        forbidden = self._forbidden.get(tenant.name)
        if forbidden is not None:
            refusal = Refusal(forbidden.reason, f"leave NetID out, or write {tenant.vni}")
            self._put_record(answer(tenant, forbidden.record, str(refusal)))
        elif tenant.name not in self._malformed:
            self._put_record(answer(tenant, None))

    def _serve(self, tenant: Tenant, record: NetNamespace) -> None:
        other = record.other
        if record.action == JOIN and other in self.living and other not in self.tenants:
            return  # that Namespace gets its tenant as soon as that is possible
        if record.action == JOIN and other not in self.tenants:
            if self.sure:
                return
            self._missed.append(other)  # the watch may lag behind who has just created it
        verdict = judge(record, self.tenants, self._new_vni)
        match verdict:
            case Refusal():
                self._put_record(answer(tenant, record, str(verdict)))
            case Wait(exhausted):
                if exhausted is not None:
                    self._problems.append(_no_vni(tenant.name, exhausted))
            case vni if vni == tenant.vni:
                self._put_record(answer(tenant, record))
            case vni:
                self._put(begun(tenant, record, vni, self._memory.new_id()))
                self._needs_records |= {tenant.name} & self._snapshot.net_namespaces.keys()
                self._needs_tenants |= {other} & self._snapshot.tenants.keys()
                self._allocated += record.action == "isolate"

    def _lead(self, tenant: Tenant, record: NetNamespace | None) -> None:
        patience = self._memory.patience
        if not patience.through(tenant, self._snapshot, self._now):
            self._wake_at = min(self._wake_at, patience.wake_at(tenant, self._snapshot, self._now))
            return
        further = advanced(tenant)
        self._put(further)
        change = tenant.change
        if further.change is not None or change is None:
            return
        self._durations.append(self._memory.patience.age(tenant, self._now))
        if record is None:
            self._answer_missing(further)
        elif record.net_id not in (None, change.old, change.new):
            return  # refused by the next plan
        elif not record.action or (record.action, record.other) == (change.action, change.other):
            self._put_record(answer(further, record))
        elif record.net_id == change.old:
            # Another request came meanwhile; what it says of the NetID was true when it was written.
            self._put_record(replace(record, net_id=further.vni))

    def _new_vni(self) -> Vni:
        memory = self._memory
        return memory.allocator.allocate({*self._held, *self._named, *memory.former.values(), *memory.busy})

    def _put(self, tenant: Tenant) -> None:
        self._needs_tenants |= {tenant.name} & self._snapshot.tenants.keys()
        self.tenants[tenant.name] = self._put_tenants[tenant.name] = tenant
        self._hold(tenant)

    def _hold(self, tenant: Tenant) -> None:
        for vni in used(tenant):
            self._held.setdefault(vni, set()).add(tenant.name)

    def _put_record(self, record: NetNamespace) -> None:
        self._records[record.name] = self._put_records[record.name] = record


def _refusals(records: Iterable[NetNamespace]) -> Iterator[Problem]:
    for record in records:
        if error := error_of(record):
            message = f"its last request was refused ({error})"
            yield namespace_problem(ProblemKind.REFUSED_REQUEST, record.name, message, _REFUSED_REMEDY)


def _no_vni(name: str, err: ExhaustedError) -> Problem:
    message, remedy = f"gets no VNI: {err.message}", err.remedy or "delete Namespaces, or join some"
    return namespace_problem(ProblemKind.NO_VNI_LEFT, name, message, remedy)
