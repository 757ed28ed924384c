"""One round of the controller: read all records at one revision, plan, commit.

Called by `worker`, again and again. What should be written is decided in `subnets` and `tenants`; what holds
even with two controllers at once is the store's compare. This module awaits only the store and the cluster,
so that a test can stop it at every point.

Before anything is deleted, the API is asked again whether the Node or Namespace is really gone: a controller
that slept through its lease, or a watch that lags, would otherwise delete what others have just written.
"""

import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network
from math import inf
from time import monotonic

from k8s_ovs.config import NetworkConfig
from k8s_ovs.controller.claims import HostNode
from k8s_ovs.controller.cluster import Cluster, Facts
from k8s_ovs.controller.metrics import ControllerMetrics
from k8s_ovs.controller.plan import Malformed, Plan, Problem, record_problems
from k8s_ovs.controller.requests import used
from k8s_ovs.controller.silence import Silence
from k8s_ovs.controller.subnets import plan_subnets
from k8s_ovs.controller.tenants import TenantMemory, TenantPlan, plan_tenants
from k8s_ovs.errors import ConfigError, EtcdUnavailable, KubeError
from k8s_ovs.model.alloc import SubnetAllocator, VniAllocator
from k8s_ovs.model.types import GLOBAL_VNI, Vni
from k8s_ovs.sources.store import Snapshot, Store

log = logging.getLogger(__name__)

UNSEEN_SECONDS = 5.0
"""How much of the time between two looks at the records counts as waiting for hosts.

An outage of etcd that is over is no host's fault: whoever could not be heard meanwhile has time to come back.
"""


def no_config() -> ConfigError:
    """Nothing can be planned without one."""
    return ConfigError("there is no network config", remedy="write one with `k8s-ovs init-config`")


LEFT_OUT_VNIS = 256
"""How many VNIs above the highest one in use a new leader leaves out: those before it may just have freed them."""


class Outcome(Enum):
    """How a round ended."""

    SETTLED = auto()
    """Everything is as it should be, as far as we can bring it about."""
    CHANGED = auto()
    """Something was written; there may be more to do."""
    REFUSED = auto()
    """Somebody else wrote meanwhile, or our facts turned out to be old: read and plan anew."""


@dataclass(slots=True)
class _Remembered:
    """What records held before they became malformed: agents go on using it, so nobody else may get it.

    And what each host had (`former`), for when its record is deleted by hand although the host goes on or comes back.
    Only this reign's memory: a leader that comes later holds nothing for a malformed record, until it is repaired
    or deleted, and gives a host whose record was deleted by hand any subnet. But what the store has lost, agents
    that use it tell; and what Nodes had whose records we deleted, the store itself (`controller.former`).
    """

    subnets: dict[IPv4Address, IPv4Network] = field(default_factory=dict)
    former: dict[str, IPv4Network] = field(default_factory=dict)
    tenants: dict[str, Vni] = field(default_factory=dict)
    parted: set[tuple[str, Vni]] = field(default_factory=set)
    """What a Namespace that the store has lost is not to have again: somebody else has come to it since."""
    busy: set[Vni] = field(default_factory=set)
    """The VNIs that nodes go on using without a record, for Namespaces that are gone too."""
    used: list[IPv4Network] = field(default_factory=list)
    """Subnets that hosts use which are no Nodes and have no record any more."""

    def update(self, snapshot: Snapshot, facts: Facts) -> None:
        """Keep what is malformed now and what the store has lost, replace everything else."""
        malformed = Malformed.of(snapshot)
        self.subnets = {ip: net for ip, net in self.subnets.items() if ip in malformed.host_ips}
        self.subnets |= {ip: r.subnet for ip, r in snapshot.host_subnets.items() if r.subnet is not None}
        owners = {r.subnet: r.host for r in snapshot.host_subnets.values() if r.subnet is not None}
        self.former = {host: net for host, net in self.former.items() if owners.get(net, host) == host}
        self.former |= {host: subnet for subnet, host in owners.items()}
        telling = [(r.host, r.used.subnet) for r in snapshot.reports.values() if r.used.subnet is not None]
        lost = {host: subnet for host, subnet in telling if owners.get(subnet, host) == host}
        self.former |= lost
        self.used = [subnet for host, subnet in lost.items() if host not in facts.nodes]
        self._update_tenants(snapshot, facts)

    def _update_tenants(self, snapshot: Snapshot, facts: Facts) -> None:
        told = {name: vni for r in snapshot.reports.values() for name, vni in r.used.tenants.items()}
        now = {tenant.name: tenant.vni for tenant in snapshot.tenants.values()}
        lost = {name: vni for name, vni in (told | self.tenants).items() if name not in now}
        if self.tenants:
            come = {vni for name, vni in now.items() if self.tenants.get(name) != vni} - {GLOBAL_VNI}
            self.parted |= {(name, vni) for name, vni in lost.items() if vni in come}
        self.parted = {(name, vni) for name, vni in self.parted if name not in now}
        known = now | dict(lost.items() - self.parted)
        self.tenants = {name: vni for name, vni in known.items() if name in facts.namespaces}
        self.busy = set(told.values())


@dataclass(frozen=True, slots=True)
class RoundServices:
    """What a round works with. `may_write` says whether this controller leads at this very moment.

    `clock` gives seconds and never goes back.
    """

    store: Store
    cluster: Cluster
    metrics: ControllerMetrics
    may_write: Callable[[], bool]
    clock: Callable[[], float] = monotonic


class Rounds:
    """Rounds of one reign. `facts` must be in sync before the first one; the owner goes on updating them."""

    def __init__(self, services: RoundServices, facts: Facts) -> None:
        self.problems: tuple[Problem, ...] = ()
        """What the last settled round left to the operator."""
        self._services = services
        self._facts = facts
        self._remembered = _Remembered()
        self._silence = Silence()
        self._tenants: TenantMemory | None = None
        self.wake_at = inf
        """When to look again although nothing has changed, in seconds of `clock`: hosts are not waited for for ever."""
        self._watched = 0.0
        self._looked: float | None = None
        self._subnets: SubnetAllocator | None = None
        self._there: dict[str, set[str]] = {"subnet": set(), "vni": set()}

    def forget_doubts(self) -> None:
        """Ask the API anew about the Nodes and Namespaces that it had although no watch had told of them."""
        for names in self._there.values():
            names.clear()

    async def once(self) -> Outcome:
        """Do one round. Raises ConfigError without a valid network config, SourceError if a source fails."""
        store, metrics = self._services.store, self._services.metrics
        snapshot = await store.snapshot()
        config = snapshot.config
        if config is None:
            raise no_config()
        self._remembered.update(snapshot, self._facts)
        tenants = self._plan_tenants(snapshot, config)
        plans: dict[str, Plan] = {"subnet": self._plan_subnets(snapshot, config), "vni": tenants}
        metrics.see(snapshot, plans["subnet"].free, plans["vni"].free)
        outcome = Outcome.SETTLED
        doubt: KubeError | None = None
        for kind, plan in plans.items():
            if plan.change is None:
                continue
            try:
                done = await self._carry_out(kind, plan)
            except KubeError as err:
                # Nobody can say whether what is to be deleted is really gone. The rest goes on: changes are under way.
                doubt = err
                done = kind != "vni" or await self._carry_out(
                    kind, self._plan_tenants(snapshot, config, sure=True)
                )
            outcome = Outcome.REFUSED if not done or outcome is Outcome.REFUSED else Outcome.CHANGED
        if doubt is not None:
            raise doubt
        if outcome is Outcome.SETTLED:
            problems = [problem for plan in plans.values() for problem in plan.problems]
            silent = self._silence.problems(snapshot, self._services.clock())
            self.wake_at = min(self.wake_at, self._silence.wake_at)
            self.problems = (*problems, *record_problems(snapshot), *silent)
        return outcome

    def _plan_subnets(self, snapshot: Snapshot, config: NetworkConfig) -> Plan:
        unseen = self._there["subnet"] - self._facts.nodes.keys()
        nodes = [*self._facts.nodes.values(), *(HostNode(name) for name in unseen)]
        if self._subnets is None or self._subnets.config != config:
            self._subnets = SubnetAllocator(config)
        held = [*self._remembered.subnets.values(), *self._remembered.used]
        former = self._remembered.former
        return plan_subnets(snapshot, nodes, config, held, former=former, allocator=self._subnets)

    def _plan_tenants(self, snapshot: Snapshot, config: NetworkConfig, *, sure: bool = False) -> TenantPlan:
        names = self._facts.namespaces | self._there["vni"]
        namespaces = {name: self._facts.uids.get(name, "") for name in names}
        if self._tenants is None:
            self._tenants = TenantMemory(lambda: secrets.token_hex(4), _allocator(snapshot))
        now, memory = self._services.clock(), self._tenants
        memory.former, memory.busy = self._remembered.tenants, self._remembered.busy
        self._watched += min(now - self._looked, UNSEEN_SECONDS) if self._looked is not None else 0.0
        self._looked = now
        skips = memory.patience.skips
        plan = plan_tenants(snapshot, namespaces, config, memory, self._watched, sure=sure)
        self._services.metrics.tenant_skips.inc(memory.patience.skips - skips)
        self.wake_at = now + min(plan.wake_at - self._watched, UNSEEN_SECONDS) if plan.wake_at < inf else inf
        return plan

    async def _carry_out(self, kind: str, plan: Plan) -> bool:
        """Whether the plan's change was made."""
        if plan.change is None:
            return True
        services, metrics = self._services, self._services.metrics
        if plan.absent and not await self._confirm(kind, plan.absent):
            return False
        if not services.may_write():
            log.warning("not leading any more: nothing written")
            return False
        try:
            done = await services.store.commit(plan.change)
        except EtcdUnavailable:
            metrics.commits.labels("unknown").inc()
            raise
        metrics.commits.labels("done" if done else "refused").inc()
        if done:
            deleted = len(plan.change.delete_subnets) + len(plan.change.delete_namespaces)
            change = plan.change
            written = len(change.put_subnets) + len(change.put_namespaces) + len(change.put_tenants)
            if isinstance(plan, TenantPlan):
                metrics.tenant_changes.inc(plan.completed)
                metrics.tenant_refusals.inc(plan.refused)
                for seconds in plan.durations:
                    metrics.tenant_change_seconds.observe(seconds)
            metrics.allocations.labels(kind).inc(plan.allocated)
            metrics.deletions.labels(kind).inc(deleted)
            log.info("%s records: %d written (%d new), %d deleted", kind, written, plan.allocated, deleted)
        else:
            log.debug("%s records changed since the snapshot: planning anew", kind)
        return done

    async def _confirm(self, kind: str, names: Collection[str]) -> bool:
        """Whether all of `names` are absent from the API now. Those that are there are not doubted again."""
        cluster = self._services.cluster
        ask = cluster.existing_nodes if kind == "subnet" else cluster.existing_namespaces
        there = await ask(names)
        if there:
            log.warning("the API has what no watch has told of: %s", ", ".join(sorted(there)))
            self._there[kind] |= there
        return not there


def _allocator(snapshot: Snapshot) -> VniAllocator:
    """Where a new leader begins to give VNIs: it does not know what its predecessor gave and freed last."""
    taken = [vni for tenant in snapshot.tenants.values() for vni in used(tenant)]
    highest = max(taken, default=GLOBAL_VNI)
    return VniAllocator(after=Vni(highest + LEFT_OUT_VNIS)) if highest != GLOBAL_VNI else VniAllocator()
