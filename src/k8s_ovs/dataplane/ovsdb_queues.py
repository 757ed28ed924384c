"""What holds the bandwidth towards a pod, in OVSDB: a QoS row at its port with one queue. Edits of a transaction.

For `ovsdb_rows`. ovs-vswitchd makes an HTB queueing discipline of it at the host's end of the veth, out of the pod's
reach. Rows are ours only if their external_ids name the port that they are for; others are never touched, but a pod
with a limit has no other. Columns: ovs-vswitchd.conf.db(5), tables QoS and Queue.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from ovs.db.idl import Row, Transaction

from k8s_ovs.dataplane.ovsdb_client import Replica

COLUMNS: Final[Mapping[str, list[str]]] = {
    "QoS": ["external_ids", "other_config", "queues", "type"],
    "Queue": ["external_ids", "other_config"],
}
PORT_ID = "k8s-ovs/port"
"""The key of external_ids that marks a row as ours; its value is the port's name."""

TYPE = "linux-htb"
BURST_MS = 50
"""What may pass at once, in milliseconds of the limit. With less, each time that the switch gets no CPU for a while costs
throughput for good, as the queue is short: one packet gives 76 of 100 Mbit/s on a busy machine."""
MAX_RATE = ((1 << 32) - 1) * 8
"""Bits per second, 34 Gbit/s: before release 3.2, ovs-vswitchd cuts what is above to the lower 32 bits of octets."""


def put_queue(replica: Replica, transaction: Transaction, port: Row, name: str, limit: int | None) -> None:
    """Make the port `name` have the queue that `limit` (bits per second) asks for, or none of ours."""
    qos = _own(port)
    if limit is None:
        if qos is not None:
            port.qos = []
            _delete(qos)
        return
    if qos is None:
        qos = transaction.insert(replica.tables["QoS"])
        qos.external_ids = {PORT_ID: name}
        port.qos = [qos]
    queue = _queues(qos).get(0)
    if queue is None:
        queue = transaction.insert(replica.tables["Queue"])
        queue.external_ids = {PORT_ID: name}
        qos.queues = {0: queue}
    rate = min(limit, MAX_RATE)
    _write(qos, "type", TYPE)
    _write(qos, "other_config", {"max-rate": str(rate)})
    _write(queue, "other_config", _queue_config(rate))


def queue_fault(port: Row, limit: int | None) -> str:
    """What is wrong with the queue of a port that should have this limit; empty if nothing is."""
    qos = _own(port)
    if limit is None:
        return "a limit that the lease does not have" if qos is not None else ""
    queue = _queues(qos).get(0) if qos is not None else None
    if qos is None or queue is None or qos.type != TYPE:
        return f"no limit, the lease says {limit} bit/s"
    config = _strings(queue, "other_config")
    if config != _queue_config(min(limit, MAX_RATE)):
        return f"{config.get('max-rate', 'no')} bit/s, the lease says {limit} bit/s"
    return ""


def port_of(row: Row) -> str | None:
    """The name of the port that a row of table QoS or Queue is for; None if it is not ours."""
    return _strings(row, "external_ids").get(PORT_ID)


def drop_strays(replica: Replica) -> None:
    """Delete rows of ours that no port uses any more: somebody else has removed the port."""
    used = {row.uuid for port in replica.committed("Port") for row in _rows(port)}
    kept = set()
    for qos in _ours(replica, "QoS"):
        if qos.uuid in used:
            kept |= {queue.uuid for queue in _queues(qos).values()}
        else:
            qos.delete()
    for queue in _ours(replica, "Queue"):
        if queue.uuid not in kept:
            queue.delete()


def _queue_config(rate: int) -> dict[str, str]:
    return {"burst": str(rate * BURST_MS // 1000), "max-rate": str(rate), "min-rate": str(rate)}


def _own(port: Row) -> Row | None:
    """The QoS row of the port, if it is ours. A new port has no columns yet."""
    return next((row for row in _rows(port) if port_of(row) is not None), None)


def _delete(qos: Row) -> None:
    for queue in _queues(qos).values():
        if port_of(queue) is not None:
            queue.delete()
    qos.delete()


def _ours(replica: Replica, table: str) -> Iterator[Row]:
    rows = list(replica.tables[table].rows.values())
    return (row for row in rows if port_of(row) is not None)


def _rows(port: Row) -> list[Row]:
    rows = getattr(port, "qos", None)
    return [row for row in rows if isinstance(row, Row)] if isinstance(rows, list) else []


def _queues(qos: Row) -> dict[int, Row]:
    queues = getattr(qos, "queues", None)
    return dict(queues) if isinstance(queues, dict) else {}


def _strings(row: Row, column: str) -> dict[str, str]:
    pairs = getattr(row, column, None)
    return {str(key): str(value) for key, value in pairs.items()} if isinstance(pairs, dict) else {}


def _write(row: Row, column: str, value: object) -> None:
    if getattr(row, column, None) != value:
        setattr(row, column, value)
