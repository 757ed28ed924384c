"""The committed code of etcd's messages is what rpc.proto says."""

from importlib import resources
from pathlib import Path

import pytest
from grpc_tools import protoc

from k8s_ovs.sources.etcd.proto import rpc_pb2

SOURCE = Path("k8s_ovs/sources/etcd/proto/rpc.proto")


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    package = Path(str(resources.files("k8s_ovs")))
    assert protoc.main(["protoc", f"-I{package.parent}", f"--python_out={tmp_path}", str(SOURCE)]) == 0
    made = (tmp_path / SOURCE.with_name("rpc_pb2.py")).read_text()
    committed = (package.parent / SOURCE.with_name("rpc_pb2.py")).read_text()
    assert made == committed, "run tools/gen-proto.sh"


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        # field numbers of etcd's public rpc.proto, as octets on the wire
        (rpc_pb2.RangeRequest(key=b"k", range_end=b"l", limit=1), b"\x0a\x01k\x12\x01l\x18\x01"),
        (
            rpc_pb2.Compare(result=2, target=2, key=b"k", mod_revision=7, range_end=b"l"),
            b"\x08\x02\x10\x02\x1a\x01k\x30\x07\x82\x04\x01l",
        ),
        (
            rpc_pb2.WatchCreateRequest(key=b"k", range_end=b"l", start_revision=9),
            b"\x0a\x01k\x12\x01l\x18\x09",
        ),
        (rpc_pb2.PutRequest(key=b"k", value=b"v", lease=7), b"\x0a\x01k\x12\x01v\x18\x07"),
        (
            rpc_pb2.Compare(result=2, target=4, key=b"k", lease=7),
            b"\x08\x02\x10\x04\x1a\x01k\x40\x07",
        ),
        (rpc_pb2.KeyValue(key=b"k", lease=7), b"\x0a\x01k\x30\x07"),
        (rpc_pb2.LeaseGrantRequest(TTL=10, ID=7), b"\x08\x0a\x10\x07"),
        (rpc_pb2.LeaseKeepAliveRequest(ID=7), b"\x08\x07"),
        (rpc_pb2.LeaseKeepAliveResponse(ID=7, TTL=10), b"\x10\x07\x18\x0a"),
    ],
)
def test_field_numbers(message: rpc_pb2.RangeRequest, wire: bytes) -> None:
    assert message.SerializeToString(deterministic=True) == wire
