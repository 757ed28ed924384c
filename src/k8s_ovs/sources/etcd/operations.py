"""The parts of etcd transactions that we use: reads, writes and compares. Pure; the store puts them together."""

from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.records import range_end

FAN = 42
"""Operations on one level of a transaction.

etcd allows 128 (--max-txn-ops) and takes from a nested transaction what the levels above it have used: three
levels of 42 fit, which is 74,088 records in one.
"""


def read_key(key: str) -> rpc.RequestOp:
    """Read one key."""
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key.encode()))


def read_range(prefix: str) -> rpc.RequestOp:
    """Read everything under `prefix`."""
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=prefix.encode(), range_end=range_end(prefix)))


def put(key: str, value: bytes, lease: int = 0) -> rpc.RequestOp:
    """Write a key; it goes with `lease`, if that is not 0."""
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=value, lease=lease))


def delete(key: str) -> rpc.RequestOp:
    """Delete a key."""
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key.encode()))


def absent(key: str) -> rpc.Compare:
    """True if there is no such key."""
    return rpc.Compare(
        result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key.encode(), create_revision=0
    )


def present(key: str) -> rpc.Compare:
    """True if there is such a key."""
    return rpc.Compare(
        result=rpc.Compare.GREATER, target=rpc.Compare.CREATE, key=key.encode(), create_revision=0
    )


def unchanged(prefix: str, since: int) -> rpc.Compare:
    """True if no key with `prefix` was created or modified after revision `since` (an empty range is fine)."""
    return rpc.Compare(
        result=rpc.Compare.LESS,
        target=rpc.Compare.MOD,
        key=prefix.encode(),
        range_end=range_end(prefix),
        mod_revision=since + 1,
    )


def nested(operations: list[rpc.RequestOp]) -> list[rpc.RequestOp]:
    """The same operations on at most FAN operations a level."""
    while len(operations) > FAN:
        operations = [
            rpc.RequestOp(request_txn=rpc.TxnRequest(success=operations[start : start + FAN]))
            for start in range(0, len(operations), FAN)
        ]
    return operations
