"""What is wrong, out of what `cli.status_facts` has found: each problem one sentence with the next step. Pure.

Called by `cli.status`. "problem" makes the exit code 1; a "note" is worth knowing and may be meant so.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from k8s_ovs.cli.drop_advice import ALARMING, BLOCKING
from k8s_ovs.cli.status_facts import Facts, ThisNode
from k8s_ovs.cli.tenant_report import change_row, error_of
from k8s_ovs.config import NetworkConfig
from k8s_ovs.flows.names import Drop
from k8s_ovs.model.alloc import AddressPool
from k8s_ovs.model.types import MAX_VNI, MIN_TENANT_VNI, AgentHealth, HostSubnet, gateway_of
from k8s_ovs.sources.kube.objects import Node
from k8s_ovs.sources.store import Snapshot

FEW_PERCENT = 5
"""Of a node's addresses: when fewer are left, that is told."""
FEW_SUBNETS, FEW_VNIS = 3, 1000
REPEATED = 3
"""Repairs of late from which on somebody else seems to work on the same switch."""
LOOK_AT_AGENT = (
    "see whether it runs there (kubectl -n kube-system get pods -o wide, or systemctl status k8s-ovs-agent) "
    "and what its log says last"
)
LOOK_AT_CONTROLLER = (
    "see whether the controllers run (kubectl -n kube-system get pods -o wide, or systemctl status "
    "k8s-ovs-controller) and what their logs say last"
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One thing to know. `kind` is stable, for programs; `about` names the node, Namespace or record, or is empty."""

    kind: str
    about: str
    message: str
    remedy: str
    note: bool = False

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


def judge(facts: Facts) -> list[Judged]:
    """Everything that is wrong or worth knowing; problems before notes."""
    found = [*_controllers(facts), *_kube_nodes(facts)]
    if facts.snapshot is not None:
        found += _hosts(facts, facts.snapshot)
        found += _together(facts.snapshot)
        found += _tenants(facts, facts.snapshot)
        found += _records(facts.snapshot)
    if facts.here is not None:
        found += _here(facts.here)
    return sorted(found, key=lambda one: one.note)


def _controllers(facts: Facts) -> Iterator[Judged]:
    if facts.leader is not None and not facts.leader.leads:
        last = f" ({facts.leader.identity} was the last)" if facts.leader.identity else ""
        message = f"no controller leads{last}: new nodes get no subnet, and new Namespaces no network"
        yield Judged("NoLeader", "", message, LOOK_AT_CONTROLLER)


def _kube_nodes(facts: Facts) -> Iterator[Judged]:
    given = set()
    if facts.snapshot is not None:
        given = {record.host for record in facts.snapshot.host_subnets.values() if record.subnet is not None}
    for name, node in sorted((facts.nodes or {}).items()):
        if facts.snapshot is not None and name not in given:
            yield Judged(
                "NodeWithoutSubnet",
                name,
                f"node {name} has no host subnet",
                f"see that a controller leads, and what `kubectl describe node {name}` says under Events",
            )
        if not node.ready:
            yield Judged(
                "NodeNotReady", name, f"node {name} is not Ready{_why(node)}", f"kubectl describe node {name}"
            )


def _why(node: Node) -> str:
    said = [one for one in node.status.conditions or () if one.type == "Ready"]
    return f" ({said[0].message})" if said and said[0].message else ""


def _hosts(facts: Facts, snapshot: Snapshot) -> Iterator[Judged]:
    for host_ip, record in sorted(snapshot.host_subnets.items(), key=lambda item: item[1].host):
        if record.subnet is None:
            if record.assign:
                message = f"external host {record.host} ({host_ip}) has no subnet yet"
                yield Judged("HostWithoutSubnet", record.host, message, LOOK_AT_CONTROLLER)
            continue
        report, what = snapshot.reports.get(host_ip), _what(record)
        if report is None:
            message = f"the agent of {what} ({host_ip}) does not report"
            yield Judged("AgentSilent", record.host, message, LOOK_AT_AGENT)
        elif report.health is not None:
            yield from _health(record, report.health)
            if f"host {host_ip}" in facts.lasting:
                message = (
                    f"{what} is behind the records: it has applied revision {report.health.revision} "
                    f"of {snapshot.newest}"
                )
                yield Judged("RevisionBehind", record.host, message, LOOK_AT_AGENT)
        if facts.nodes is not None and not record.assign and record.host not in facts.nodes:
            message = f"{record.host} has the subnet {record.subnet}, but is no Node any more"
            remedy = "the controller takes it back if one leads; else k8s-ovs subnet release --force"
            yield Judged("SubnetWithoutNode", record.host, message, remedy, note=True)


def _health(record: HostSubnet, health: AgentHealth) -> Iterator[Judged]:
    what, host = _what(record), record.host
    if health.trouble:
        yield Judged("AgentNotReady", host, f"the agent of {what} cannot serve pods", health.trouble)
    if health.notes:
        yield Judged("AgentOutage", host, f"the agent of {what} works, but with an outage", health.notes)
    if record.subnet is not None and not record.assign:
        size = AddressPool(record.subnet, gateway_of(record.subnet)).size
        if (free := size - health.pods) * 100 < size * FEW_PERCENT:
            message = f"{what} has {free} of {size} pod addresses left"
            remedy = "put pods elsewhere, or lower the kubelet's maxPods there"
            yield Judged("AddressesNearlyUsedUp", host, message, remedy)
    if (repaired := sum(health.repairs.values())) >= REPEATED:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(health.repairs.items()))
        message = f"something else changes the switch or the rules of {what}: {repaired} repairs in ten minutes ({kinds})"
        remedy = (
            f"`kubectl describe node {host}` and the agent's log name what; stop who does it (docs/repair.md)"
        )
        yield Judged("RepairsRepeated", host, message, remedy)
    yield from _dropping(what, host, health)


def _dropping(what: str, host: str, health: AgentHealth) -> Iterator[Judged]:
    reasons = {drop.label: drop for drop in Drop}
    for name, packets in sorted(health.dropping.items()):
        stage, _, label = name.partition("/")
        reason = reasons.get(label)
        message = f"{what} drops at stage {stage} ({label}: {packets} packets within a minute)"
        if reason in ALARMING:
            yield Judged("DropsRising", host, message, ALARMING[reason])
        elif reason in BLOCKING:
            yield Judged("DropsRising", host, message, BLOCKING[reason], note=True)


def _together(snapshot: Snapshot) -> Iterator[Judged]:
    """What only shows when nodes are compared."""
    told = {
        record.host: report.health
        for host_ip, report in snapshot.reports.items()
        if report.health is not None and (record := snapshot.host_subnets.get(host_ip)) is not None
    }
    usual = Counter(health.mtu for health in told.values() if health.mtu).most_common(1)
    for host, health in sorted(told.items()):
        if health.mtu and health.mtu != usual[0][0]:
            message = f"pods of {host} have the MTU {health.mtu}, those of other nodes {usual[0][0]}"
            remedy = "larger packets get lost between them: give all agents the same --mtu, or the hosts the same MTU"
            yield Judged("MtuDiffers", host, message, remedy)
    versions = Counter(health.version for health in told.values() if health.version)
    if len(versions) > 1:
        shown = ", ".join(f"{version} on {count}" for version, count in sorted(versions.items()))
        message = f"agents have different versions ({shown})"
        yield Judged("VersionSkew", "", message, "finish the upgrade, unless it is under way", note=True)


def _tenants(facts: Facts, snapshot: Snapshot) -> Iterator[Judged]:
    for name, tenant in sorted(snapshot.tenants.items()):
        row = change_row(snapshot, tenant)
        if (
            row is None
            or tenant.change is None
            or f"tenant {name} {tenant.change.token}" not in facts.lasting
        ):
            continue
        message = (
            f"the change of tenant {name} ({tenant.change.action}) is stuck at its step {tenant.change.step}"
        )
        if waiting := [*row["waitingFor"], *row["notLive"]]:
            remedy = f"it waits for {', '.join(waiting)}: {LOOK_AT_AGENT}"
        else:
            remedy = f"every node has reported it: {LOOK_AT_CONTROLLER}"
        yield Judged("TenantChangeStuck", name, message, remedy)
    for name, record in sorted(snapshot.net_namespaces.items()):
        if error := error_of(record):
            message = f"the last request for tenant {name} was refused"
            yield Judged("TenantRequestRefused", name, message, error, note=True)


def _records(snapshot: Snapshot) -> Iterator[Judged]:
    for key, problem in sorted(snapshot.problems.items()):
        yield Judged("RecordMalformed", key, problem.message, problem.remedy)
    if snapshot.config is None:
        return
    if (subnets := free_subnets(snapshot, snapshot.config)) < FEW_SUBNETS:
        message = (
            f"{subnets} host subnets are left of {snapshot.config.host_subnets} in {snapshot.config.network}"
        )
        remedy = "new nodes beyond these get no network; release subnets of external hosts that are gone"
        yield Judged("SubnetsNearlyUsedUp", "", message, remedy)
    if (vnis := free_vnis(snapshot)) < FEW_VNIS:
        remedy = "new Namespaces beyond these get no network; delete Namespaces that nobody needs"
        yield Judged("VnisNearlyUsedUp", "", f"{vnis} NetIDs are left", remedy)


def _here(here: ThisNode) -> Iterator[Judged]:
    if here.agent_error:
        yield Judged(
            "LocalAgentAway",
            "",
            f"the agent of this host does not answer ({here.agent_error})",
            LOOK_AT_AGENT,
        )
    for name, why in here.checks.items():
        if why:
            yield Judged("LocalAgentNotReady", name, f"the agent of this host fails its check {name}", why)
    if here.switch_error:
        remedy = "see whether ovs-vswitchd runs (systemctl status openvswitch-switch, or the Pod k8s-ovs-openvswitch)"
        yield Judged(
            "LocalSwitchAway", "", f"the switch of this host does not answer ({here.switch_error})", remedy
        )


def free_subnets(snapshot: Snapshot, config: NetworkConfig) -> int:
    """Host subnets that can still be given."""
    return config.host_subnets - sum(record.subnet is not None for record in snapshot.host_subnets.values())


def free_vnis(snapshot: Snapshot) -> int:
    """NetIDs that can still be given to tenants."""
    tenants = snapshot.tenants.values()
    used: Iterable[int] = {vni for tenant in tenants for vni in (tenant.vni, tenant.sends, *tenant.accepts)}
    return MAX_VNI - MIN_TENANT_VNI + 1 - sum(vni >= MIN_TENANT_VNI for vni in used)


def _what(record: HostSubnet) -> str:
    return f"external host {record.host}" if record.assign else f"node {record.host}"
