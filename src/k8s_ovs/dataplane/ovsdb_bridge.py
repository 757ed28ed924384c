"""What of the bridge, its fixed ports and its queues is not as it should be in OVSDB, in words.

For `ovsdb.OvsdbSwitch`, which then writes it as it should be (`ovsdb_rows.put_bridge`). Pure: it only reads rows.
"""

from collections.abc import Iterator

from ovs.db.idl import Row

from k8s_ovs.dataplane import ovsdb_queues, ovsdb_rows
from k8s_ovs.dataplane.bridge import BridgeSpec, Datapath
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.dataplane.ovsdb_client import Replica

MISSING = "was missing"


def bridge_faults(replica: Replica, spec: BridgeSpec, datapath: Datapath) -> tuple[Finding, ...]:
    """What `put_bridge` is going to change. Of a bridge that is missing nothing else is told."""
    bridge = replica.named("Bridge", spec.name)
    if bridge is None:
        return found(Kind.BRIDGE, [f"bridge {spec.name}: {MISSING}"])
    return (
        *found(Kind.BRIDGE, _bridge(bridge, spec, datapath)),
        *found(Kind.PORT, _ports(replica, spec)),
        *found(Kind.QOS, _queues(replica)),
    )


def _bridge(bridge: Row, spec: BridgeSpec, datapath: Datapath) -> Iterator[str]:
    columns: dict[str, object] = {
        "datapath_type": datapath,
        "fail_mode": ["secure"],
        "protocols": sorted(ovsdb_rows.PROTOCOLS),
    }
    for column, wanted in columns.items():
        if (held := getattr(bridge, column)) != wanted:
            yield f"bridge {spec.name}: {column} was {held or 'empty'}, not {wanted}"


def _ports(replica: Replica, spec: BridgeSpec) -> Iterator[str]:
    for port in ovsdb_rows.fixed_ports(spec):
        interface = replica.named("Interface", port.name)
        if interface is None:
            yield f"port {port.name}: {MISSING}"
            continue
        options = interface.options if isinstance(interface.options, dict) else {}
        kept = {name: value for name, value in options.items() if name in port.keep_options}
        columns: dict[str, object] = {
            "type": port.kind,
            "options": {**kept, **port.options},
            "ofport_request": [port.ofport],
        }
        if port.name == spec.gateway and spec.mtu is not None:
            columns["mtu_request"] = [spec.mtu]
        for column, wanted in columns.items():
            if (held := getattr(interface, column)) != wanted:
                yield f"port {port.name}: {column} was {held or 'empty'}, not {wanted}"


def _queues(replica: Replica) -> Iterator[str]:
    for lease in ovsdb_rows.read_attachments(replica):
        port = replica.named("Port", lease.host_ifname)
        if port is not None and (fault := ovsdb_queues.queue_fault(port, lease.limits.ingress)):
            yield f"queue of {lease.host_ifname} towards pod {lease.namespace}/{lease.pod}: {fault}"
