"""What `k8s-ovs tenant list` and `show` print: Namespaces, their NetIDs, and how far a change has come.

Called by `cli.tenant`. A snapshot in, plain data out; it reads and writes nothing.
"""

from collections.abc import Mapping
from typing import Any

from k8s_ovs.cli.output import columns
from k8s_ovs.cli.session import node_names
from k8s_ovs.config import Mode
from k8s_ovs.model.tenancy import may_reach, pod
from k8s_ovs.model.types import GLOBAL_VNI, NetNamespace, Tenant, TenantChange, Vni
from k8s_ovs.sources.store import Snapshot

ERROR_KEY = "Error"
"""The key of a net namespace under which the controller says why it refused."""

Row = dict[str, Any]
"""One Namespace as plain data, the same in table, JSON and YAML."""


def net_ids(snapshot: Snapshot, mode: Mode) -> dict[str, Vni | None]:
    """The NetID of every Namespace that has a record or a tenant; None while the controller has not chosen one."""
    names = sorted(snapshot.net_namespaces.keys() | snapshot.tenants.keys() | malformed(snapshot).keys())
    return {name: _net_id(snapshot, name, mode) for name in names}


def _net_id(snapshot: Snapshot, name: str, mode: Mode) -> Vni | None:
    if mode is Mode.SUBNET:
        return GLOBAL_VNI
    tenant, record = snapshot.tenants.get(name), snapshot.net_namespaces.get(name)
    if tenant is not None:
        return tenant.vni
    return None if record is None else record.net_id


def malformed(snapshot: Snapshot) -> dict[str, str]:
    """What is wrong with net namespaces that nobody can read, by Namespace; the key, which says no more, is left out."""
    found = {}
    for key, problem in snapshot.problems.items():
        folder, _, name = key.rpartition("/")
        if folder.endswith("/netnamespaces"):
            found[name] = str(problem).removeprefix(f"{problem.key}: ")
    return found


def error_of(record: NetNamespace | None) -> str:
    """Why the controller refused the last request; empty if it did not."""
    return "" if record is None else str(record.extra.get(ERROR_KEY, ""))


def describe(action: str, other: str) -> str:
    """A request for people: "join blue"."""
    return f"{action} {other}".strip()


def tenant_row(snapshot: Snapshot, name: str, ids: Mapping[str, Vni | None]) -> Row:
    """Everything about one Namespace. Reachability is what holds now, the change under way left out."""
    record, tenant = snapshot.net_namespaces.get(name), snapshot.tenants.get(name)
    own = ids[name]
    shared = [other for other, vni in ids.items() if other != name and vni == own and own is not None]
    return {
        "namespace": name,
        "netID": own,
        "global": own == GLOBAL_VNI,
        "sameTenant": shared,
        "request": None
        if record is None or not record.action
        else {"action": record.action, "other": record.other},
        "change": change_row(snapshot, tenant),
        "error": malformed(snapshot).get(name) or error_of(record) or None,
    }


def change_row(snapshot: Snapshot, tenant: Tenant | None) -> Row | None:
    """A change under way: its step, and which nodes have reported that they have applied it."""
    if tenant is None or tenant.change is None:
        return None
    change, nodes = tenant.change, node_names(snapshot)
    told = {
        host: snapshot.reports[host_ip].applied.get(tenant.name) == change.token
        for host_ip, host in nodes.items()
        if host_ip in snapshot.reports
    }
    return {
        "id": change.id,
        "step": change.step.value,
        "action": change.action,
        "other": change.other,
        "oldNetID": change.old,
        "newNetID": change.new,
        "reported": [host for host, done in told.items() if done],
        "waitingFor": [host for host, done in told.items() if not done],
        "notLive": [host for host in nodes.values() if host not in told],
    }


def progress(tenant: Tenant, change: TenantChange, row: Row) -> str:
    """One line on how far a change has come."""
    parts = [f"{tenant.name}: NetID {change.old} to {change.new}, step {change.step.value}"]
    for what, key in (("applied by", "reported"), ("waiting for", "waitingFor"), ("no agent on", "notLive")):
        if row[key]:
            parts.append(f"{what} {', '.join(row[key])}")
    return "; ".join(parts)


def reach(name: str, ids: Mapping[str, Vni | None], mode: Mode) -> list[str]:
    """The other Namespaces that the pods of `name` reach, and are reached by."""
    own = pod(ids[name], name)
    return [other for other, vni in ids.items() if other != name and may_reach(own, pod(vni, other), mode)]


def list_table(rows: list[Row]) -> str:
    """`tenant list` for people."""
    lines = [("NAMESPACE", "NETID", "SAME TENANT", "UNDER WAY", "ERROR")]
    for row in rows:
        lines.append(
            (
                row["namespace"],
                _number(row),
                ", ".join(row["sameTenant"]),
                _under_way(row),
                row["error"] or "",
            )
        )
    return columns(lines)


def show_table(row: Row, tenant: Tenant | None) -> str:
    """`tenant show` for people."""
    lines = [
        f"Namespace:    {row['namespace']}",
        f"NetID:        {_number(row) or 'none yet'}",
        f"Same tenant:  {', '.join(row['sameTenant']) or '-'}",
        f"Reaches:      {', '.join(row['reaches']) or '-'} (and is reached by)",
    ]
    if row["request"]:
        lines.append(f"Request:      {describe(**row['request'])}")
    if row["change"] and tenant is not None and tenant.change is not None:
        lines.append(f"Change:       {progress(tenant, tenant.change, row['change'])}")
    if row["error"]:
        lines.append(f"Error:        {row['error']}")
    return "\n".join(lines)


def _number(row: Row) -> str:
    if row["netID"] is None:
        return ""
    return f"{row['netID']} (global)" if row["global"] else str(row["netID"])


def _under_way(row: Row) -> str:
    change = row["change"]
    if change:
        nodes = len(change["reported"]) + len(change["waitingFor"])
        return f"{describe(change['action'], change['other'])}: {change['step']}, {len(change['reported'])} of {nodes} nodes"
    return describe(**row["request"]) if row["request"] else ""
