"""What a net namespace asks for: judged against the tenants that there are. Pure; called by `tenants`.

A request is a record with an Action. It is answered by the record with the NetID that counts and an empty Action; a
request that is refused gets that answer at once, with the reason under the key "Error".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from k8s_ovs.errors import ExhaustedError
from k8s_ovs.model.types import GLOBAL_VNI, NetNamespace, Tenant, TenantChange, TenantStep, Vni
from k8s_ovs.sources.records import with_error

JOIN, ISOLATE, GLOBAL = "join", "isolate", "global"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request cannot be served, and what to do."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Wait:
    """The request has to wait until another change is complete, or a VNI is free."""

    exhausted: ExhaustedError | None = None


Verdict = Refusal | Wait | Vni
"""The VNI is the one that the Namespace is to have; its own if nothing has to change."""


def answer(tenant: Tenant, record: NetNamespace | None, error: str = "") -> NetNamespace:
    """The record that says what counts, with the keys of others that `record` has."""
    extra = record.extra if record is not None else {}
    return with_error(NetNamespace(tenant.name, tenant.vni, extra=extra), error)


def judge(record: NetNamespace, tenants: Mapping[str, Tenant], new_vni: Callable[[], Vni]) -> Verdict:
    """What becomes of the request in `record`; its Namespace has a tenant that does not change at the moment.

    `new_vni` gives a free VNI and raises ExhaustedError; it is called only for an isolation that changes something.
    """
    own = tenants[record.name]
    if record.net_id is not None and record.net_id != own.vni:
        return Refusal(
            f"NetID {record.net_id} is not that of {record.name}, which is {own.vni}",
            f"leave NetID out, or write {own.vni}; who wants another one asks with an Action",
        )
    match record.action:
        case "join":
            return _join(record, tenants)
        case "isolate":
            return _isolate(own, tenants, new_vni)
        case "global":
            return GLOBAL_VNI
        case _:
            return own.vni


def begun(tenant: Tenant, record: NetNamespace, new: Vni, identity: str) -> Tenant:
    """The tenant with a change to `new` that has just begun."""
    change = TenantChange(identity, TenantStep.ACCEPT, tenant.vni, new, record.action, record.other)
    return replace(tenant, change=change)


def _join(record: NetNamespace, tenants: Mapping[str, Tenant]) -> Verdict:
    if record.other == record.name:
        return Refusal(f"{record.name} cannot join itself", "name another Namespace, or isolate it")
    other = tenants.get(record.other)
    if other is None:
        return Refusal(f"there is no Namespace {record.other}", "create it first, or name one that exists")
    return Wait() if other.change is not None else other.vni


def _isolate(own: Tenant, tenants: Mapping[str, Tenant], new_vni: Callable[[], Vni]) -> Verdict:
    shares = any(own.vni in used(other) for other in tenants.values() if other.name != own.name)
    if own.vni != GLOBAL_VNI and not shares:
        return own.vni
    try:
        return new_vni()
    except ExhaustedError as err:
        return Wait(err)


def used(tenant: Tenant) -> tuple[Vni, ...]:
    """The VNIs that a tenant holds: both of them while it changes."""
    if tenant.change is None:
        return (tenant.vni,)
    return (tenant.change.old, tenant.change.new)
