"""Records in memory and the planner of tenants on them, for the controller's tests.

`Planner` carries out its own plans, as a store would. Agents report what is in the ledger at once, but for those in
`silent` (no live report) and `stuck` (a live report that says nothing of changes).
"""

import itertools
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.controller.plan import Plan, ProblemKind
from k8s_ovs.controller.tenants import TenantMemory, TenantPlan, plan_tenants
from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import AgentReport, HostSubnet, NetNamespace, Tenant, Vni
from k8s_ovs.sources.records import Keys, decode_namespace
from k8s_ovs.sources.store import Change, Snapshot

CONFIG = NetworkConfig(
    "k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
)
FLAT = replace(CONFIG, mode=Mode.SUBNET)
HOSTS = {
    name: HostSubnet(name, IPv4Address(f"192.0.2.{n}"), IPv4Network(f"172.11.{4 * n}.0/22"))
    for n, name in enumerate(("node1", "node2", "node3"), 1)
}


def record(name: str, vni: int | None, action: str = "", other: str = "", **extra: object) -> NetNamespace:
    return NetNamespace(name, None if vni is None else Vni(vni), action, other, extra)


def namespace_key(name: str) -> str:
    return Keys("/k8s.ovs.com/ovs/network", CONFIG.name).namespace(name)


def kinds(plan: Plan) -> dict[str, ProblemKind]:
    return {problem.subject.name: problem.kind for problem in plan.problems}


def new_memory() -> TenantMemory:
    """That of a leader that has just begun."""
    numbers = itertools.count(1)
    return TenantMemory(lambda: f"{next(numbers):08x}")


@dataclass
class Planner:
    """`now` is the clock; `memory` is the leader's."""

    living: set[str] = field(default_factory=set)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    records: dict[str, NetNamespace] = field(default_factory=dict)
    problems: dict[str, RecordError] = field(default_factory=dict)
    hosts: dict[str, HostSubnet] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)
    config: NetworkConfig = CONFIG
    memory: TenantMemory = field(default_factory=new_memory)
    uids: dict[str, str] = field(default_factory=dict)
    now: float = 1000.0
    revision: int = 7

    # what a test does

    def have(
        self,
        name: str,
        vni: int | None,
        action: str = "",
        other: str = "",
        *,
        tenant: bool = True,
        **extra: object,
    ) -> None:
        """A Namespace with this record, and with a tenant that has the record's VNI."""
        self.living.add(name)
        self.records[name] = record(name, vni, action, other, **extra)
        if tenant and vni is not None:
            self.tenants[name] = Tenant(name, Vni(vni))

    def ask(self, name: str, action: str, other: str = "") -> None:
        """A request, as people write it over the record."""
        self.records[name] = replace(self.records[name], action=action, other=other)

    def malform(self, name: str) -> None:
        self.records.pop(name, None)
        self.problems[namespace_key(name)] = RecordError(namespace_key(name), "not JSON")

    def forbid(self, name: str, number: int, action: str = "") -> None:
        """A record with a NetID that nobody may have."""
        self.living.add(name)
        self.records.pop(name, None)
        key = namespace_key(name)
        text = f'{{"NetName":"{name}","NetID":{number},"Action":"{action}"}}'
        try:
            decode_namespace(key, text.encode())
        except RecordError as err:
            self.problems[key] = err

    def nodes(self, *names: str) -> None:
        self.hosts = {name: HOSTS[name] for name in names}

    # what the controller sees and does

    def snapshot(self) -> Snapshot:
        applied = {t.name: t.change.token for t in self.tenants.values() if t.change is not None}
        reports = {
            host.host_ip: AgentReport(name, host.host_ip, {} if name in self.stuck else applied)
            for name, host in self.hosts.items()
            if name not in self.silent
        }
        subnets = {host.host_ip: host for host in self.hosts.values()}
        return Snapshot(
            self.revision, subnets, dict(self.records), dict(self.problems), dict(self.tenants), reports
        )

    def plan(self, limit: int = 100) -> TenantPlan:
        living = {name: self.uids.get(name, "") for name in self.living}
        return plan_tenants(self.snapshot(), living, self.config, self.memory, self.now, limit=limit)

    def step(self, limit: int = 100) -> TenantPlan:
        """Plan and carry out."""
        result = self.plan(limit)
        if result.change is not None:
            self.apply(result.change)
        return result

    def settle(self, limit: int = 100) -> TenantPlan:
        """Step after step until there is nothing to do now; the last plan."""
        for _ in range(60):
            result = self.step(limit)
            if result.change is None:
                return result
        raise AssertionError(f"never settles: {result}")

    def apply(self, change: Change) -> None:
        assert change.based_on == self.revision
        self.revision += 1
        for name in change.delete_tenants:
            self.tenants.pop(name, None)
        for name in change.delete_namespaces:
            self.records.pop(name, None)
            self.problems.pop(namespace_key(name), None)
        for tenant in change.put_tenants:
            self.tenants[tenant.name] = tenant
        for one in change.put_namespaces:
            self.records[one.name] = one
            self.problems.pop(namespace_key(one.name), None)

    # what a test looks at

    def vnis(self) -> dict[str, int | None]:
        return {name: one.net_id for name, one in self.records.items()}

    def tenant_vnis(self) -> dict[str, int]:
        return {name: tenant.vni for name, tenant in self.tenants.items()}

    def step_of(self, name: str) -> str:
        change = self.tenants[name].change
        return "" if change is None else change.step.value
