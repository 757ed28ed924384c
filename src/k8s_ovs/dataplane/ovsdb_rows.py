"""What the bridge, its fixed ports and a pod's port are in OVSDB: edits of a transaction, and rows read back.

For `ovsdb.OvsdbSwitch`. Every edit looks first and writes only what differs, so that it may be repeated; it raises
OvsdbError before it has written anything. Columns and their meaning: ovs-vswitchd.conf.db(5).
"""

import logging
import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from ovs.db.idl import Row, Transaction

from k8s_ovs.dataplane import ovsdb_queues
from k8s_ovs.dataplane.bridge import GATEWAY_OFPORT, LINK_PREFIX, VXLAN_OFPORT, BridgeSpec, Datapath
from k8s_ovs.dataplane.ovsdb_client import Replica
from k8s_ovs.errors import OvsdbError
from k8s_ovs.model.types import Attachment, AttachmentKey, OfPort, PodLimits, SandboxId

_log = logging.getLogger(__name__)

COLUMNS: Final[Mapping[str, list[str]]] = {
    "Open_vSwitch": ["bridges", "cur_cfg", "datapath_types", "next_cfg", "other_config", "ovs_version"],
    "Bridge": ["datapath_type", "fail_mode", "name", "other_config", "ports", "protocols"],
    "Port": ["interfaces", "name", "qos"],
    **ovsdb_queues.COLUMNS,
    "Interface": [
        "error",
        "external_ids",
        "mtu_request",
        "name",
        "ofport",
        "ofport_request",
        "options",
        "type",
    ],
}
"""What the replica follows: no statistics, which would wake the agent up every five seconds."""

PROTOCOLS = tuple(f"OpenFlow1{minor}" for minor in range(6))
"""All versions: the agent speaks 1.5, and a plain `ovs-ofctl` on the command line 1.0."""

VXLAN_OPTIONS: Final[Mapping[str, str]] = {
    "remote_ip": "flow",
    "key": "flow",
    # The outer packet may be fragmented: where the underlay's MTU is smaller than the operator told us, a tenant's
    # traffic gets slow instead of vanishing (no ICMP "too big" of the underlay reaches the pod that sent).
    "df_default": "false",
}
VXLAN_OWN_CHOICE = frozenset({"csum", "tos", "ttl", "local_ip", "egress_pkt_mark"})
"""Tunnel options that an operator may add; any other would change who can talk to whom, and is taken away."""

IDS = "k8s-ovs/"
_IDS_OF_LEASE = ("sandbox", "ifname", "netns", "address", "namespace", "pod", "uid")
_INGRESS, _EGRESS, _LIMITS_BY = (IDS + name for name in ("ingress-limit", "egress-limit", "limits-by"))
_BY_RUNTIME = "runtime"


@dataclass(frozen=True, slots=True)
class FixedPort:
    """A port of the bridge that belongs to no pod."""

    name: str
    kind: str
    ofport: OfPort
    options: Mapping[str, str]
    keep_options: Collection[str] = ()


def fixed_ports(spec: BridgeSpec) -> tuple[FixedPort, FixedPort]:
    """The tunnel and the gateway of `spec`."""
    return (
        FixedPort(spec.vxlan, "vxlan", VXLAN_OFPORT, VXLAN_OPTIONS, VXLAN_OWN_CHOICE),
        FixedPort(spec.gateway, "internal", GATEWAY_OFPORT, {}),
    )


def put_bridge(replica: Replica, transaction: Transaction, spec: BridgeSpec, datapath: Datapath) -> None:
    """Make the bridge, its local port and its fixed ports as they should be."""
    bridge = replica.named("Bridge", spec.name)
    for port in fixed_ports(spec):
        _refuse_foreign(replica, bridge, spec.name, port.name)
    if bridge is None:
        bridge = transaction.insert(replica.tables["Bridge"])
        bridge.name = spec.name
        replica.root.addvalue("bridges", bridge)
        _, local = _add_port(replica, transaction, bridge, spec.name)
        local.type = "internal"
    other = _strings(bridge, "other_config")
    # One MAC for good: without it the bridge takes its lowest port's, and its datapath id changes with the pods.
    hwaddr = other.get("hwaddr") or _random_mac()
    _write(bridge, "datapath_type", datapath)
    _write(bridge, "fail_mode", ["secure"])
    _write(bridge, "protocols", sorted(PROTOCOLS))
    _write(bridge, "other_config", {**other, "disable-in-band": "true", "hwaddr": hwaddr})
    _put_queues(replica, transaction)
    for port in fixed_ports(spec):
        interface = replica.named("Interface", port.name)
        if interface is None:
            _, interface = _add_port(replica, transaction, bridge, port.name)
        kept = {k: v for k, v in _strings(interface, "options").items() if k in port.keep_options}
        _write(interface, "type", port.kind)
        _write(interface, "options", {**kept, **port.options})
        _write(interface, "ofport_request", [port.ofport])
        if port.name == spec.gateway and spec.mtu is not None:
            _write(interface, "mtu_request", [spec.mtu])


def drop_bridge(replica: Replica, transaction: Transaction, name: str) -> None:
    """Take the bridge out; the server deletes its ports with it."""
    if (bridge := replica.named("Bridge", name)) is not None:
        for port in _rows(bridge, "ports"):
            ovsdb_queues.put_queue(replica, transaction, port, text(port, "name"), None)
        replica.root.delvalue("bridges", bridge)


def put_attachment(replica: Replica, transaction: Transaction, bridge_name: str, wanted: Attachment) -> None:
    """Add the port of a pod with its lease and its queue, or bring them up to date."""
    bridge = replica.named("Bridge", bridge_name)
    what = f"port {wanted.host_ifname} of {wanted.namespace}/{wanted.pod}"
    if bridge is None:
        raise OvsdbError(
            f"{what}: there is no bridge {bridge_name}", remedy="it is made again at the next resync"
        )
    _refuse_foreign(replica, bridge, bridge_name, wanted.host_ifname)
    interface = replica.named("Interface", wanted.host_ifname)
    holder = interface_of(replica, wanted.key)
    if holder is not None and holder != interface:
        raise OvsdbError(
            f"{what}: sandbox {wanted.key.sandbox} holds port {holder.name} already: delete it first"
        )
    if interface is None:
        port, interface = _add_port(replica, transaction, bridge, wanted.host_ifname)
        interface.external_ids = _lease(wanted)
        ovsdb_queues.put_queue(replica, transaction, port, wanted.host_ifname, wanted.limits.ingress)
        return
    ids = _strings(interface, "external_ids")
    owner = _key(ids)
    # A name of ours follows from the key: if nobody is told as its owner, somebody has cleared the lease.
    if owner != wanted.key and (owner is not None or not wanted.host_ifname.startswith(LINK_PREFIX)):
        raise OvsdbError(
            f"{what}: a port of this name belongs to {owner or 'nobody we know'}: delete it first"
        )
    _write_lease(replica, transaction, interface, {**ids, **_lease(wanted)}, wanted.limits)
    if ofport(interface) == -1:
        # Have the switch try this device once more: it acts on a new configuration only.
        replica.root.next_cfg = _number(replica.root, "next_cfg") + 1


def drop_interface(replica: Replica, transaction: Transaction, interface: Row) -> None:
    """Take a port out; the server deletes its rows, which nothing else refers to."""
    name = text(interface, "name")
    port = replica.named("Port", name)
    for bridge in replica.committed("Bridge"):
        if port is not None and port in _rows(bridge, "ports"):
            ovsdb_queues.put_queue(replica, transaction, port, name, None)
            bridge.delvalue("ports", port)


def put_limits(replica: Replica, transaction: Transaction, interface: Row, limits: PodLimits) -> None:
    """Write limits into a lease that exists, and the queue that follows."""
    _write_lease(replica, transaction, interface, _strings(interface, "external_ids"), limits)


def queue_fault(replica: Replica, key: AttachmentKey) -> str:
    """What is wrong with the queue of a lease; empty if nothing is, or there is no such lease."""
    row = interface_of(replica, key)
    port = replica.named("Port", text(row, "name")) if row is not None else None
    lease = replica.derived(row, _lease_of).attachment if row is not None else None
    return (
        ovsdb_queues.queue_fault(port, lease.limits.ingress) if port is not None and lease is not None else ""
    )


def interface_of(replica: Replica, key: AttachmentKey) -> Row | None:
    """The Interface row that holds the lease of `key`."""
    for row in replica.committed("Interface"):
        if replica.derived(row, _lease_of).key == key:
            return row
    return None


def read_attachments(replica: Replica) -> Iterator[Attachment]:
    """Every lease; a row whose lease cannot be read has been logged, and is left out."""
    for row in replica.committed("Interface"):
        if (attachment := replica.derived(row, _lease_of).attachment) is not None:
            yield attachment


def ofport(row: Row) -> int | None:
    """The OpenFlow port that the switch gave: None while it has not looked yet, -1 when it could not."""
    numbers = row.ofport
    return numbers[0] if isinstance(numbers, list) and numbers else None


def interface_error(row: Row) -> str:
    """Why the switch could not use the interface; empty when it could."""
    said = row.error
    return str(said[0]) if isinstance(said, list) and said else ""


def configured(replica: Replica, configuration: int | None) -> bool:
    """Whether ovs-vswitchd has acted on everything up to `configuration` (None: on nothing in particular)."""
    return configuration is None or _number(replica.root, "cur_cfg") >= configuration


def text(row: Row, column: str) -> str:
    """A string column."""
    return str(getattr(row, column))


def datapath_types(replica: Replica) -> list[str]:
    """What the switch was built with; whether the kernel has the module is another question."""
    types = replica.root.datapath_types
    return [str(kind) for kind in types] if isinstance(types, list) else []


def wrong_ofport(replica: Replica, spec: BridgeSpec, port: FixedPort, number: int) -> OvsdbError:
    """The error for a fixed port whose number somebody else has."""
    table = replica.committed("Interface")
    holder = next((text(row, "name") for row in table if ofport(row) == port.ofport), "another port")
    return OvsdbError(
        f"port {port.name} of bridge {spec.name} got number {number} instead of {port.ofport}, which {holder} has",
        remedy=f"ovs-vsctl del-port {spec.name} {holder}",
    )


def with_ofport(wanted: Attachment, number: int) -> Attachment:
    """`wanted` as the switch knows it."""
    return replace(wanted, ofport=OfPort(number))


def _put_queues(replica: Replica, transaction: Transaction) -> None:
    """Make the queues of all pods what their leases say, whatever somebody else has done to them."""
    ovsdb_queues.drop_strays(replica)
    for lease in read_attachments(replica):
        port = replica.named("Port", lease.host_ifname)
        if port is not None and ovsdb_queues.queue_fault(port, lease.limits.ingress):
            ovsdb_queues.put_queue(replica, transaction, port, lease.host_ifname, lease.limits.ingress)


def _write_lease(
    replica: Replica,
    transaction: Transaction,
    interface: Row,
    ids: Mapping[str, str],
    limits: PodLimits,
) -> None:
    """Write the lease `ids` with these limits instead of those in it, and the queue that follows."""
    name = text(interface, "name")
    rest = {key: value for key, value in ids.items() if key not in {_INGRESS, _EGRESS, _LIMITS_BY}}
    _write(interface, "external_ids", {**rest, **_limit_ids(limits)})
    if (port := replica.named("Port", name)) is not None:
        ovsdb_queues.put_queue(replica, transaction, port, name, limits.ingress)


def _limit_ids(limits: PodLimits) -> dict[str, str]:
    values = {_INGRESS: limits.ingress, _EGRESS: limits.egress}
    ids = {name: str(value) for name, value in values.items() if value is not None}
    return {**ids, _LIMITS_BY: _BY_RUNTIME} if limits.from_runtime else ids


def _limits(ids: Mapping[str, str]) -> PodLimits:
    ingress, egress = (int(ids[name]) if name in ids else None for name in (_INGRESS, _EGRESS))
    return PodLimits(ingress, egress, ids.get(_LIMITS_BY) == _BY_RUNTIME)


def _add_port(replica: Replica, transaction: Transaction, bridge: Row, name: str) -> tuple[Row, Row]:
    """Insert Port and Interface `name` into `bridge`; return both."""
    interface = transaction.insert(replica.tables["Interface"])
    interface.name = name
    port = transaction.insert(replica.tables["Port"])
    port.name = name
    port.interfaces = [interface]
    bridge.addvalue("ports", port)
    return port, interface


def _refuse_foreign(replica: Replica, bridge: Row | None, bridge_name: str, name: str) -> None:
    """Refuse to touch a port that sits on another bridge, or inside a bond."""
    if replica.named("Interface", name) is None and replica.named("Port", name) is None:
        return
    port = replica.named("Port", name)
    if bridge is None or port is None or port not in _rows(bridge, "ports"):
        raise OvsdbError(
            f"port {name} exists, but not on bridge {bridge_name}", remedy=f"ovs-vsctl del-port {name}"
        )


def _lease(attachment: Attachment) -> dict[str, str]:
    key = attachment.key
    values = (key.sandbox, key.ifname, attachment.netns, str(attachment.address))
    named = (attachment.namespace, attachment.pod, attachment.uid)
    ids = {IDS + name: value for name, value in zip(_IDS_OF_LEASE, values + named, strict=True)}
    return {**ids, **_limit_ids(attachment.limits)}


def _key(ids: Mapping[str, str]) -> AttachmentKey | None:
    sandbox, ifname = ids.get(IDS + "sandbox"), ids.get(IDS + "ifname")
    return AttachmentKey(SandboxId(sandbox), ifname) if sandbox and ifname else None


@dataclass(frozen=True, slots=True)
class _Lease:
    """What an Interface row says of a pod: whose it is, and everything, if that can be read."""

    key: AttachmentKey | None = None
    attachment: Attachment | None = None


def _lease_of(row: Row) -> _Lease:
    ids = _strings(row, "external_ids")
    if not any(name.startswith(IDS) for name in ids):
        return _Lease()
    try:
        return _Lease(_key(ids), _attachment(row, ids))
    except (KeyError, ValueError) as error:
        _log.error(
            "OVSDB: Interface %s: lease not readable, ignored: %r in %s", text(row, "name"), error, ids
        )
        return _Lease(_key(ids))


def _attachment(row: Row, ids: Mapping[str, str]) -> Attachment:
    number = ofport(row)
    return Attachment(
        key=AttachmentKey(SandboxId(ids[IDS + "sandbox"]), ids[IDS + "ifname"]),
        address=IPv4Address(ids[IDS + "address"]),
        namespace=ids[IDS + "namespace"],
        pod=ids[IDS + "pod"],
        uid=ids.get(IDS + "uid", ""),
        netns=ids[IDS + "netns"],
        host_ifname=text(row, "name"),
        ofport=OfPort(number) if number is not None and number > 0 else None,
        limits=_limits(ids),
    )


def _write(row: Row, column: str, value: object) -> None:
    """Set a column unless it has this value. A new row has no columns yet."""
    if getattr(row, column, None) != value:
        setattr(row, column, value)


def _strings(row: Row, column: str) -> dict[str, str]:
    pairs = getattr(row, column, None)
    return {str(key): str(value) for key, value in pairs.items()} if isinstance(pairs, dict) else {}


def _rows(row: Row, column: str) -> list[Row]:
    rows = getattr(row, column, None)
    return [item for item in rows if isinstance(item, Row)] if isinstance(rows, list) else []


def _number(row: Row, column: str) -> int:
    value = getattr(row, column)
    return value if isinstance(value, int) else 0


def _random_mac() -> str:
    """A locally administered unicast address."""
    return ":".join(f"{octet:02x}" for octet in (0x02, *secrets.token_bytes(5)))
