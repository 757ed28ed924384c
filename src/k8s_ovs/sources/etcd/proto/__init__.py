"""Messages of etcd's API v3, generated from rpc.proto by tools/gen-proto.sh; only `sources.etcd` uses them."""
