"""A request to change a tenant: check it, ask for it, follow it until it is answered.

Called by `cli.tenant`. It writes the net namespace with a compare on what it read, so that of two administrators who ask
at once none overwrites the other unseen. It never writes the tenant itself: that is the controller's.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

from k8s_ovs.cli.output import say
from k8s_ovs.cli.session import Session, commit, following, without_agent
from k8s_ovs.cli.tenant_report import ERROR_KEY, change_row, describe, error_of, malformed, net_ids, progress
from k8s_ovs.config import Mode
from k8s_ovs.controller.changes import STUCK_SECONDS
from k8s_ovs.errors import ConfigError
from k8s_ovs.model.preview import (
    Preview,
    Tenancies,
    Workloads,
    after_global,
    after_isolate,
    after_join,
    preview,
    tenancies_of,
)
from k8s_ovs.model.types import NetNamespace, Vni
from k8s_ovs.sources.store import Change, Snapshot

_EARLIER = 2.0
"""Seconds by which the controller may have seen a step before this command did."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `action` is "join", "isolate" or "global"; `other` the Namespace to join."""

    namespace: str
    action: str
    other: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}: {describe(self.action, self.other)}"

    def is_in(self, record: NetNamespace) -> bool:
        """Whether the record asks for this."""
        return (record.action, record.other if record.action == "join" else "") == (self.action, self.other)

    def applied_to(self, tenancies: Tenancies) -> dict[str, Vni]:
        """What it leads to."""
        if self.action == "join":
            return after_join(tenancies, self.namespace, self.other)
        return (after_isolate if self.action == "isolate" else after_global)(tenancies, self.namespace)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, as far as this command followed it.

    `result` is "unchanged" (there was nothing to do), "asked", "complete", "refused" (by the controller; `error` says
    why), "replaced" (somebody else asked for something else meanwhile) or "timed out". `not_waited_for` are nodes whose
    agent does not live, `not_applied` those whose agent lives and has not applied it, as far as that was seen; `seconds`
    is how long it took.
    """

    request: Request
    result: str
    net_id: int | None = None
    error: str = ""
    not_waited_for: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "namespace": self.request.namespace,
            "action": self.request.action,
            "other": self.request.other,
            "result": self.result,
            "netID": self.net_id,
            "error": self.error or None,
            "notWaitedFor": list(self.not_waited_for),
            "notApplied": list(self.not_applied),
            "seconds": None if self.seconds is None else round(self.seconds, 3),
        }

    def __str__(self) -> str:
        name = self.request.namespace
        match self.result:
            case "unchanged":
                return f"{self.request}: nothing to change, NetID is {self.net_id}"
            case "asked":
                return f"{self.request}: asked for; `k8s-ovs tenant show {name}` tells how far it is"
            case "complete":
                absent = ", ".join(self.not_waited_for)
                left = f"; not waited for, because no agent lives there: {absent}" if absent else ""
                stuck = ", ".join(self.not_applied)
                left += f"; not applied by {stuck}, whose agent lives: see its log" if stuck else ""
                return f"{self.request}: complete after {self.seconds:.1f} s, NetID is {self.net_id}{left}"
            case "timed out":
                return f"{self.request}: not complete after {self.seconds:.0f} s; the request stays"
            case _:
                return f"{self.request}: {self.result}: {self.error}"


def check(snapshot: Snapshot, mode: Mode, request: Request, *, force: bool = False) -> None:
    """Refuse what cannot be done. Raises ConfigError; nothing has been written then."""
    if mode is Mode.SUBNET:
        raise ConfigError(
            f"{request}: the network is in single-tenant mode, everybody reaches everybody",
            remedy="tenants need a network with PluginName k8s-ovs-multitenant",
        )
    if request.namespace == request.other:
        raise ConfigError(f"{request}: a Namespace cannot join itself", remedy="name another one")
    bad, known = malformed(snapshot), net_ids(snapshot, mode)
    for name in filter(None, (request.namespace, request.other)):
        if name in bad and (name == request.namespace or name not in snapshot.tenants):
            raise ConfigError(f"{request}: the record of {name} cannot be read: {bad[name]}")
        if name not in known:
            raise ConfigError(
                f"{request}: there is no Namespace {name}",
                remedy="`k8s-ovs tenant list` shows all; a new one gets its NetID as soon as a controller runs",
            )
        if known[name] is None:
            raise ConfigError(f"{request}: {name} has no NetID yet", remedy="see that a controller runs")
    record = snapshot.net_namespaces.get(request.namespace)
    if record is not None and record.action and not request.is_in(record) and not force:
        raise ConfigError(
            f"{request}: it was already asked to {describe(record.action, record.other)}, which is not complete yet",
            remedy="wait for that, or replace it with --force",
        )


def foresee(snapshot: Snapshot, mode: Mode, request: Request, workloads: Workloads) -> Preview:
    """Who newly reaches whom, and who no longer does; changes that are under way count as completed."""
    before = _tenancies(snapshot, mode)
    return preview(before, request.applied_to(before), workloads, mode)


def _tenancies(snapshot: Snapshot, mode: Mode) -> dict[str, Vni]:
    known = {name: vni for name, vni in net_ids(snapshot, mode).items() if vni is not None}
    return known | tenancies_of(snapshot.tenants.values())


async def ask(session: Session, request: Request, *, force: bool = False) -> Outcome:
    """Write the request, if it asks for something. Raises ConfigError if it is refused, EtcdError if etcd cannot be used."""
    seen: list[NetNamespace | None] = []

    def plan(snapshot: Snapshot) -> Change | None:
        check(snapshot, session.config.mode, request, force=force)
        record = snapshot.net_namespaces.get(request.namespace)
        if seen and seen[0] != record and not force:
            raise ConfigError(
                f"{request}: somebody else has written the record meanwhile",
                remedy="look with `k8s-ovs tenant show`, and ask again",
            )
        seen[:] = [record]
        if record is not None and request.is_in(record):
            return None  # asked for already, by whomever
        if _nothing_to_do(snapshot, session.config.mode, request):
            return None
        return Change(snapshot.revision, put_namespaces=[_record(snapshot, request)])

    if await commit(session.store, plan):
        return Outcome(request, "asked")
    record = seen[0]
    if record is not None and request.is_in(record):
        return Outcome(request, "asked")
    return Outcome(request, "unchanged", net_id=None if record is None else record.net_id)


def _nothing_to_do(snapshot: Snapshot, mode: Mode, request: Request) -> bool:
    """Whether all is as the request wants it, with nothing under way that could make it otherwise."""
    record, tenant = snapshot.net_namespaces.get(request.namespace), snapshot.tenants.get(request.namespace)
    if record is None or tenant is None or record.action or record.net_id != tenant.vni or error_of(record):
        return False
    others = (snapshot.tenants.get(request.other), tenant)
    if any(each is not None and each.change is not None for each in others):
        return False
    before = _tenancies(snapshot, mode)
    return request.applied_to(before) == before


def _record(snapshot: Snapshot, request: Request) -> NetNamespace:
    """The record that asks for it. While a change is under way, the NetID is left out: which one is right changes with it."""
    record = snapshot.net_namespaces.get(request.namespace) or NetNamespace(request.namespace, None)
    tenant = snapshot.tenants.get(request.namespace)
    net_id = record.net_id
    if tenant is not None:
        net_id = tenant.vni if tenant.change is None else None
    extra = {key: value for key, value in record.extra.items() if key != ERROR_KEY}
    return replace(record, net_id=net_id, action=request.action, other=request.other, extra=extra)


async def wait(session: Session, request: Request, begun: float, seconds: float) -> Outcome:
    """Follow the request until it is answered, at most `seconds`; `begun` is time.monotonic() when it was asked."""
    follower = _Follower(request, begun)
    try:
        async with asyncio.timeout(seconds), following(session.store) as snapshot_then:
            while (outcome := follower.look(await snapshot_then())) is None:
                pass
            return outcome
    except TimeoutError:
        return Outcome(request, "timed out", seconds=seconds)


class _Follower:
    """Looks at snapshots until one holds the answer; tells progress on stderr, each line once."""

    def __init__(self, request: Request, begun: float) -> None:
        self._request = request
        self._begun = begun
        self._told = ""
        self._step = ""
        self._step_seen = begun
        self._waiting: tuple[str, ...] = ()
        self._stuck: set[str] = set()

    def look(self, snapshot: Snapshot) -> Outcome | None:
        """The outcome, if there is one by now."""
        request = self._request
        record, tenant = (
            snapshot.net_namespaces.get(request.namespace),
            snapshot.tenants.get(request.namespace),
        )
        if record is None and tenant is None:
            return self._ended("refused", error="the Namespace is gone")
        if record is None or request.is_in(record):
            row = change_row(snapshot, tenant)
            self._watch_nodes(row)
            if row is not None and tenant is not None and tenant.change is not None:
                self._tell(progress(tenant, tenant.change, row))
            return None
        if record.action:
            asked = describe(record.action, record.other)
            return self._ended("replaced", error=f"somebody else has asked it to {asked} meanwhile")
        if error := error_of(record):
            return self._ended("refused", error=error)
        net_id = record.net_id if tenant is None else tenant.vni
        self._watch_nodes(None)
        absent = without_agent(snapshot)
        stuck = tuple(sorted(self._stuck.difference(absent)))
        return replace(
            self._ended("complete"), net_id=net_id, not_waited_for=tuple(absent), not_applied=stuck
        )

    def _watch_nodes(self, row: dict[str, Any] | None) -> None:
        """A step that ends after so long a time ends without those that it waited for: the controller has lost patience.

        One that ends sooner was applied by all who live, though this look may have missed the last of them.
        """
        now, step = time.monotonic(), "" if row is None else f"{row['id']}/{row['step']}"
        if step != self._step:
            if self._step and now - self._step_seen >= STUCK_SECONDS - _EARLIER:
                self._stuck.update(self._waiting)
            self._step, self._step_seen = step, now
        self._waiting = () if row is None else tuple(row["waitingFor"])

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            say(line)

    def _ended(self, result: str, *, error: str = "") -> Outcome:
        return Outcome(self._request, result, error=error, seconds=time.monotonic() - self._begun)
