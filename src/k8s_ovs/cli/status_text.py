"""`k8s-ovs status` as plain data with a schema that stays, and as text for people.

Called by `cli.status`. What is shown was found by `cli.status_facts` and judged by `cli.status_judge`.
"""

from collections.abc import Sequence
from typing import Any

from k8s_ovs.cli.output import columns
from k8s_ovs.cli.status_facts import Facts, ThisNode
from k8s_ovs.cli.status_judge import Judged, free_subnets, free_vnis
from k8s_ovs.config import Mode
from k8s_ovs.model.alloc import AddressPool
from k8s_ovs.model.types import AgentHealth, HostSubnet, gateway_of
from k8s_ovs.sources.store import Snapshot

SCHEMA = 1
"""Of the JSON: keys are added under the same number; it grows if one changes its meaning or goes."""

Row = dict[str, Any]


def as_data(facts: Facts, judged: Sequence[Judged], code: int) -> Row:
    """Everything, as JSON has it. What could not be found out is null."""
    return {
        "schema": SCHEMA,
        "healthy": code == 0,
        "exitCode": code,
        "leader": None if facts.leader is None else _leader(facts),
        "network": None if facts.snapshot is None else _network(facts.snapshot),
        "nodes": _nodes(facts),
        "thisNode": None if facts.here is None else _here(facts.here),
        "problems": [_problem(one) for one in judged if not one.note],
        "notes": [_problem(one) for one in judged if one.note],
        "unknown": [{"source": source, "why": why} for source, why in facts.unknown.items()],
    }


def _leader(facts: Facts) -> Row:
    leader = facts.leader
    return {
        "identity": leader.identity if leader else "",
        "since": leader.since if leader else "",
        "leads": bool(leader and leader.leads),
    }


def _network(snapshot: Snapshot) -> Row:
    config = snapshot.config
    return {
        "network": None if config is None else str(config.network),
        "serviceNetwork": None if config is None else str(config.service_network),
        "mode": None if config is None else ("multitenant" if config.mode is Mode.MULTITENANT else "subnet"),
        "revision": snapshot.newest,
        "tenants": len(snapshot.tenants),
        "changing": sum(tenant.change is not None for tenant in snapshot.tenants.values()),
        "freeSubnets": None if config is None else free_subnets(snapshot, config),
        "freeNetIDs": free_vnis(snapshot),
    }


def _nodes(facts: Facts) -> list[Row]:
    """Nodes and external hosts, whoever knows of them: etcd, Kubernetes, or both."""
    rows = []
    known = set()
    if facts.snapshot is not None:
        for record in facts.snapshot.host_subnets.values():
            known.add(record.host)
            rows.append(_node(facts, record.host, record, facts.snapshot))
    rows += [_node(facts, name, None, None) for name in (facts.nodes or {}).keys() - known]
    return sorted(rows, key=lambda row: (row["external"], row["name"]))


def _node(facts: Facts, name: str, record: HostSubnet | None, snapshot: Snapshot | None) -> Row:
    node = (facts.nodes or {}).get(name)
    report = None if record is None or snapshot is None else snapshot.reports.get(record.host_ip)
    health = None if report is None else report.health
    free = None
    if record is not None and record.subnet is not None and health is not None:
        free = AddressPool(record.subnet, gateway_of(record.subnet)).size - health.pods
    return {
        "name": name,
        "ip": None if record is None else str(record.host_ip),
        "external": record is not None and record.assign,
        "subnet": None if record is None or record.subnet is None else str(record.subnet),
        "ready": None if node is None else node.ready,
        "agent": None if snapshot is None else _agent(report is not None, health),
        "freeAddresses": free,
        **_told(health),
    }


def _agent(reports: bool, health: AgentHealth | None) -> str:
    if not reports:
        return "silent"
    return "unready" if health is not None and health.trouble else "ready"


def _told(health: AgentHealth | None) -> Row:
    told = health or AgentHealth()
    return {
        "version": told.version or None,
        "since": told.since or None,
        "revision": told.revision if health else None,
        "pods": told.pods if health else None,
        "mtu": told.mtu or None,
        "drops": dict(told.drops),
        "dropping": dict(told.dropping),
        "repairs": dict(told.repairs),
        "lastError": {"message": told.last_error, "at": told.last_error_at} if told.last_error else None,
    }


def _here(here: ThisNode) -> Row:
    return {
        "agent": "away" if here.agent_error else ("unready" if any(here.checks.values()) else "ready"),
        "checks": dict(here.checks),
        "notes": dict(here.notes),
        "switch": here.switch_error or "up",
        "ports": here.ports,
        "flows": here.flows,
        "drops": dict(here.drops),
        "metrics": {
            name: value
            for name, value in here.metrics.items()
            if name.startswith("k8s_ovs_") and "_bucket{" not in name and "_created" not in name
        },
    }


def _problem(one: Judged) -> Row:
    return {
        "kind": one.kind,
        "about": one.about or None,
        "message": one.message,
        "remedy": one.remedy or None,
    }


def as_text(data: Row) -> str:
    """The same for people."""
    parts = [_head(data)]
    if data["nodes"]:
        parts.append(_table(data["nodes"]))
    if errors := [row for row in data["nodes"] if row["lastError"]]:
        lines = [f"  {row['lastError']['at']} {row['name']}: {row['lastError']['message']}" for row in errors]
        parts.append("\n".join(["Last errors:", *lines]))
    if data["thisNode"]:
        parts.append(_this(data["thisNode"]))
    for title, key in (("Problems:", "problems"), ("Worth knowing:", "notes")):
        if data[key]:
            lines = [
                f"  - {one['message']}" + (f": {one['remedy']}" if one["remedy"] else "") for one in data[key]
            ]
            parts.append("\n".join([title, *lines]))
    if data["unknown"]:
        lines = [f"  - {one['source']}: {one['why']}" for one in data["unknown"]]
        parts.append("\n".join(["Could not be found out:", *lines]))
    if data["healthy"]:
        parts.append("Healthy.")
    return "\n\n".join(parts)


def _head(data: Row) -> str:
    leader, network = data["leader"], data["network"]
    lead = "unknown" if leader is None else (leader["identity"] if leader["leads"] else "nobody")
    lines = [f"Leader:   {lead}"]
    if network is not None:
        lines += [
            f"Network:  {network['network']} ({network['mode']}), Services {network['serviceNetwork']}, "
            f"{network['freeSubnets']} host subnets free",
            f"Tenants:  {network['tenants']}, {network['changing']} of them changing; "
            f"{network['freeNetIDs']} NetIDs free",
            f"Revision: {network['revision']}",
        ]
    return "\n".join(lines)


def _table(nodes: Sequence[Row]) -> str:
    rows = [
        ("NODE", "IP", "SUBNET", "READY", "AGENT", "VERSION", "REVISION", "PODS", "FREE", "MTU", "DROPS/MIN")
    ]
    for row in nodes:
        ready = "external" if row["external"] else {True: "yes", False: "no", None: "?"}[row["ready"]]
        cells = (row[key] for key in ("version", "revision", "pods", "freeAddresses", "mtu"))
        rows.append(
            (
                row["name"],
                row["ip"] or "",
                row["subnet"] or "",
                ready,
                row["agent"] or "?",
                *("" if cell is None else str(cell) for cell in cells),
                "" if row["revision"] is None else str(sum(row["dropping"].values())),
            )
        )
    return columns(rows)


def _this(here: Row) -> str:
    lines = [
        f"This host: agent {here['agent']}, switch {here['switch']}, {here['ports']} pods, {here['flows']} flows"
    ]
    lines += [f"  {name}: {said}" for name, said in here["notes"].items()]
    lines += [f"  dropped at {name}: {packets} packets" for name, packets in here["drops"].items()]
    return "\n".join(lines)
