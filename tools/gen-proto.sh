#!/bin/sh
# Write the Python code of etcd's messages again (src/k8s_ovs/sources/etcd/proto/rpc_pb2.py and .pyi).
# Needed only after rpc.proto was changed: the result is committed. Uses the tools of the development environment.
set -eu
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I src --python_out=src --mypy_out=quiet:src \
    k8s_ovs/sources/etcd/proto/rpc.proto
