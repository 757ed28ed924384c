"""The network's records as etcd keeps them: keys and JSON, to and from the types of the model.

Pure functions; the etcd store and its fake call them, and so does the CLI where it shows a key. Nothing here
talks to a server or decides what a record should say. The layout and the JSON are the seed's, so that
`etcdctl` and older tools go on working:

    PREFIX/config, PREFIX/NETWORK/config        network config
    PREFIX/NAME/subnets/HOSTIP                  {"Host","HostIP","Subnet","Assign"}
    PREFIX/NAME/netnamespaces/NAMESPACE         {"NetName","NetID","Action","Namespace"}

What is decoded without an error can be encoded again and says the same; keys of the JSON that are not ours
are kept.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NoReturn

from k8s_ovs.config import MIN_HOST_BITS, MIN_PREFIX
from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import GLOBAL_VNI, MAX_VNI, MIN_TENANT_VNI, HostSubnet, NetNamespace, Vni

DEFAULT_PREFIX = "/k8s.ovs.com/ovs/network"
"""PREFIX of the seed."""

ACTIONS = ("", "join", "isolate", "global")
"""What a net namespace may ask for; empty asks for nothing."""

MAX_RECORD = 64 * 1024
"""Octets. Ours are about 150; anything larger is somebody else's and is not worth parsing."""

SUBNET_EXAMPLE = '{"Host":"node1","HostIP":"192.0.2.1","Subnet":"172.11.4.0/22","Assign":false}'
NAMESPACE_EXAMPLE = '{"NetName":"red","NetID":10,"Action":"","Namespace":""}'

_SUBNET_KEYS = frozenset({"Host", "HostIP", "Subnet", "Assign"})
_NAMESPACE_KEYS = frozenset({"NetName", "NetID", "Action", "Namespace"})
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A Namespace's name: RFC 1123 label, as Kubernetes has it."""

Record = HostSubnet | NetNamespace


def config_key(prefix: str) -> str:
    """The key that a new network config is written to."""
    return f"{clean_prefix(prefix)}/config"


def config_keys(prefix: str, network: str | None) -> tuple[str, ...]:
    """The keys that may hold the network config, the one that counts first.

    `network` is the seed's option `--network`: its own config is looked for before the common one.
    """
    common = config_key(prefix)
    return (f"{clean_prefix(prefix)}/{network}/config", common) if network else (common,)


def clean_prefix(prefix: str) -> str:
    """`prefix` with one slash in front and none at the end, as the seed joined paths."""
    return ("/" + prefix.strip("/")).rstrip("/")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one network: `prefix` is PREFIX, `name` the Name of its network config."""

    prefix: str
    name: str

    @property
    def root(self) -> str:
        """What all keys of this network start with."""
        return f"{clean_prefix(self.prefix)}/{self.name}/"

    @property
    def subnets(self) -> str:
        """What all keys of host subnets start with."""
        return self.root + "subnets/"

    @property
    def namespaces(self) -> str:
        """What all keys of net namespaces start with."""
        return self.root + "netnamespaces/"

    def subnet(self, host_ip: IPv4Address) -> str:
        """The key of a host's subnet."""
        return self.subnets + str(host_ip)

    def namespace(self, name: str) -> str:
        """The key of a Namespace's record."""
        return self.namespaces + name

    def of(self, record: Record) -> str:
        """The key of `record`."""
        return self.subnet(record.host_ip) if isinstance(record, HostSubnet) else self.namespace(record.name)

    def owns(self, key: str) -> bool:
        """Whether `key` is for a record: other keys below the root (the config) are not ours to judge."""
        return key.startswith((self.subnets, self.namespaces))

    def decode(self, key: str, value: bytes) -> Record:
        """The record under `key`, which `owns` says is one. Raises RecordError."""
        if key.startswith(self.subnets):
            return decode_subnet(key, value, in_key=key.removeprefix(self.subnets))
        return decode_namespace(key, value, in_key=key.removeprefix(self.namespaces))

    def encode(self, record: Record) -> tuple[str, bytes]:
        """Key and JSON of `record`. Raises RecordError if nobody could read it back."""
        key = self.of(record)
        if isinstance(record, HostSubnet):
            return key, encode_subnet(key, record)
        return key, encode_namespace(key, record)


def range_end(prefix: str) -> bytes:
    """The first key after all that start with `prefix` (etcd's `range_end` of a prefix)."""
    return prefix[:-1].encode() + bytes([ord(prefix[-1]) + 1])


def decode_subnet(key: str, value: bytes, *, in_key: str | None = None) -> HostSubnet:
    """The host subnet under `key` (…/subnets/HOSTIP); `in_key` is what counts as HOSTIP there.

    Raises RecordError that names the key, the reason and the remedy.
    """
    in_key = key.rpartition("/")[2] if in_key is None else in_key
    try:
        host_ip = IPv4Address(in_key)
    except ValueError as err:
        raise RecordError(
            key,
            f"the key ends in {in_key!r}, not in an IPv4 address",
            remedy="delete it, and write it under the host's IP",
        ) from err
    data = _object(key, value, SUBNET_EXAMPLE)
    if data.get("HostIP") != str(host_ip):
        _wrong(key, f"HostIP is {data.get('HostIP')!r}", f'write "HostIP":"{host_ip}" as in the key')
    host = data.get("Host")
    if not isinstance(host, str) or not _is_word(host):
        _wrong(key, f"Host is {host!r}", 'give the host\'s name like "Host":"node1"')
    assign = data.get("Assign", False)
    if not isinstance(assign, bool):
        _wrong(key, f"Assign is {assign!r}", "write true (an external host) or false")
    return HostSubnet(host, host_ip, _subnet(key, data.get("Subnet")), assign, _extra(data, _SUBNET_KEYS))


def encode_subnet(key: str, record: HostSubnet) -> bytes:
    """The JSON of a host subnet. Raises RecordError if it is one that `decode_subnet` would refuse."""
    value = _dump(
        {
            "Host": record.host,
            "HostIP": str(record.host_ip),
            "Subnet": "" if record.subnet is None else str(record.subnet),
            "Assign": record.assign,
        },
        record.extra,
    )
    decode_subnet(key, value)
    return value


def decode_namespace(key: str, value: bytes, *, in_key: str | None = None) -> NetNamespace:
    """The net namespace under `key` (…/netnamespaces/NAMESPACE). Raises RecordError likewise."""
    name = key.rpartition("/")[2] if in_key is None else in_key
    if not _LABEL.fullmatch(name):
        _wrong(key, f"{name!r} cannot be a Namespace", "delete it, and write it under the Namespace's name")
    data = _object(key, value, NAMESPACE_EXAMPLE)
    if data.get("NetName") != name:
        _wrong(key, f"NetName is {data.get('NetName')!r}", f'write "NetName":"{name}" as in the key')
    action = data.get("Action", "")
    if action not in ACTIONS:
        _wrong(key, f"Action is {action!r}", "use join, isolate or global, or leave it empty")
    other = data.get("Namespace", "")
    if not isinstance(other, str) or (other and not _LABEL.fullmatch(other)):
        _wrong(key, f"Namespace is {other!r}", "give the name of the Namespace to join, or leave it empty")
    if action == "join" and not other:
        _wrong(
            key, "Action is 'join' but Namespace is empty", 'name the one to join, like "Namespace":"blue"'
        )
    return NetNamespace(
        name, _net_id(key, data.get("NetID")), str(action), other, _extra(data, _NAMESPACE_KEYS)
    )


def encode_namespace(key: str, record: NetNamespace) -> bytes:
    """The JSON of a net namespace; a NetID that is asked for is left out. Raises RecordError likewise."""
    body: dict[str, object] = {"NetName": record.name}
    if record.net_id is not None:
        body["NetID"] = record.net_id
    value = _dump(body | {"Action": record.action, "Namespace": record.other}, record.extra)
    decode_namespace(key, value)
    return value


def _wrong(key: str, reason: str, remedy: str) -> NoReturn:
    raise RecordError(key, reason, remedy=remedy)


def _object(key: str, value: bytes, example: str) -> dict[str, object]:
    if len(value) > MAX_RECORD:
        _wrong(key, f"{len(value)} octets long", f"write an object like {example}")
    try:
        data = json.loads(value.decode(), parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError) as err:
        raise RecordError(key, f"not JSON ({err})", remedy=f"write an object like {example}") from err
    if not isinstance(data, dict):
        _wrong(key, "not a JSON object", f"write an object like {example}")
    return data


def _not_json(word: str) -> NoReturn:
    # json reads NaN and Infinity, which no other program would understand when we write them back
    raise ValueError(f"{word} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number


def _dump(body: Mapping[str, object], extra: Mapping[str, object]) -> bytes:
    """Our keys first, then those of others, which never replace ours."""
    return json.dumps(
        {**body, **{k: v for k, v in extra.items() if k not in body}}, separators=(",", ":")
    ).encode()


def _extra(data: Mapping[str, object], ours: frozenset[str]) -> dict[str, object]:
    return {key: value for key, value in data.items() if key not in ours}


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 253 and text.isprintable() and " " not in text and "/" not in text


def _subnet(key: str, value: object) -> IPv4Network | None:
    if value in ("", None):
        return None
    try:
        if not isinstance(value, str):
            raise ValueError("not a string")  # noqa: TRY004, TRY301 - one message for both ways to be wrong
        subnet = IPv4Network(value)
    except ValueError as err:
        raise RecordError(
            key, f"Subnet is {value!r} ({err})", remedy="give a CIDR like 172.11.4.0/22, or empty"
        ) from err
    if str(subnet) != value or not MIN_PREFIX <= subnet.prefixlen <= 32 - MIN_HOST_BITS:
        _wrong(
            key, f"Subnet is {value!r}", f"give a CIDR from /{MIN_PREFIX} to /{32 - MIN_HOST_BITS}, or empty"
        )
    return subnet


def _net_id(key: str, value: object) -> Vni | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        _wrong(
            key, f"NetID is {value!r}", f"give a number from {MIN_TENANT_VNI} to {MAX_VNI}, or 0 for global"
        )
    if GLOBAL_VNI < value < MIN_TENANT_VNI:
        _wrong(key, f"NetID {value} is reserved", f"use {MIN_TENANT_VNI} to {MAX_VNI}, or 0 for global")
    if not GLOBAL_VNI <= value <= MAX_VNI:
        _wrong(
            key,
            f"NetID {value} does not fit in 24 bits",
            f"use {MIN_TENANT_VNI} to {MAX_VNI}, or 0 for global",
        )
    return Vni(value)
