"""The network's records as etcd keeps them: keys and JSON, to and from the types of the model.

Pure functions; the etcd store and its fake call them, and so does the CLI where it shows a key. Nothing here
talks to a server or decides what a record should say. The layout and the JSON are the seed's, so that
`etcdctl` and older tools go on working:

    PREFIX/config, PREFIX/NETWORK/config        network config
    PREFIX/NAME/subnets/HOSTIP                  {"Host","HostIP","Subnet","Assign"}
    PREFIX/NAME/netnamespaces/NAMESPACE         {"NetName","NetID","Action","Namespace"}, and "Error" of a refused request

Ours alone, below the same PREFIX:

    PREFIX/NAME/tenants/NAMESPACE               {"Namespace","NetID","UID"}, and "Change" while one is under way:
                                                {"ID","Step","Old","New","Action","Other"}
    PREFIX/former/NAME/HOST     {"Host","Subnet"}: what a Node had that is gone (`former`)
    PREFIX/agents/NAME/HOSTIP   {"Host","HostIP","Applied"}, and "Used" {"Subnet","NetIDs"} while records are lost

What is decoded without an error can be encoded again and says the same; foreign keys of the JSON are kept.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from k8s_ovs.errors import RecordError
from k8s_ovs.model.types import (
    GLOBAL_VNI,
    MAX_VNI,
    MIN_TENANT_VNI,
    AgentReport,
    HostSubnet,
    NetNamespace,
    StillUsed,
    Tenant,
    TenantChange,
    TenantStep,
    Vni,
)
from k8s_ovs.sources.healthrecord import decode_health, encode_health
from k8s_ovs.sources.jsonrecord import dump, is_word, parse_object, parse_subnet, unknown_keys, wrong

ACTIONS = ("", "join", "isolate", "global")
"""What a net namespace may ask for; empty asks for nothing."""

MAX_REPORT = 1024 * 1024
"""Octets of an agent's report: about 60 for each tenant that changes."""

ERROR_KEY = "Error"
"""Where a net namespace says why its last request was refused: a key of `NetNamespace.extra`."""

SUBNET_EXAMPLE = '{"Host":"node1","HostIP":"192.0.2.1","Subnet":"172.11.4.0/22","Assign":false}'
NAMESPACE_EXAMPLE = '{"NetName":"red","NetID":10,"Action":"","Namespace":""}'
TENANT_EXAMPLE = '{"Namespace":"red","NetID":10}'
REPORT_EXAMPLE = '{"Host":"node1","HostIP":"192.0.2.1","Applied":{}}'

_SUBNET_KEYS = frozenset({"Host", "HostIP", "Subnet", "Assign"})
_NAMESPACE_KEYS = frozenset({"NetName", "NetID", "Action", "Namespace"})
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A Namespace's name: RFC 1123 label, as Kubernetes has it."""

_CHANGE_ID = re.compile(r"[0-9a-f]{1,16}")
_TENANT_REMEDY = "the controller writes it: delete it, and the net namespace's NetID counts again"
_REPORT_REMEDY = "delete it: the host's agent writes it anew"

Record = HostSubnet | NetNamespace | Tenant


class ForbiddenNetId(RecordError):
    """A net namespace whose NetID nobody may have; all else in it can be read.

    `record` is the net namespace without it, for an answer.
    """

    def __init__(self, key: str, reason: str, *, remedy: str, record: NetNamespace) -> None:
        super().__init__(key, reason, remedy=remedy)
        self.record = record


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

    @property
    def tenants(self) -> str:
        """What all keys of tenants start with."""
        return self.root + "tenants/"

    @property
    def reports(self) -> str:
        """What all keys of agents' reports start with: outside `root`, so that nodes do not hear each other."""
        return f"{clean_prefix(self.prefix)}/agents/{self.name}/"

    @property
    def formers(self) -> str:
        """What all keys of former subnets start with: outside `root` too, since agents have no use for them."""
        return f"{clean_prefix(self.prefix)}/former/{self.name}/"

    def subnet(self, host_ip: IPv4Address) -> str:
        """The key of a host's subnet."""
        return self.subnets + str(host_ip)

    def namespace(self, name: str) -> str:
        """The key of a Namespace's record."""
        return self.namespaces + name

    def tenant(self, name: str) -> str:
        """The key of a Namespace's tenant."""
        return self.tenants + name

    def report(self, host_ip: IPv4Address) -> str:
        """The key of the report of a host's agent."""
        return self.reports + str(host_ip)

    def former(self, host: str) -> str:
        """The key of what a host had."""
        return self.formers + host

    def of(self, record: Record) -> str:
        """The key of `record`."""
        if isinstance(record, HostSubnet):
            return self.subnet(record.host_ip)
        return self.tenant(record.name) if isinstance(record, Tenant) else self.namespace(record.name)

    def owns(self, key: str) -> bool:
        """Whether `key` is for a record: other keys below the root (the config) are not ours to judge."""
        return key.startswith((self.subnets, self.namespaces, self.tenants))

    def decode(self, key: str, value: bytes) -> Record:
        """The record under `key`, which `owns` says is one. Raises RecordError."""
        if key.startswith(self.subnets):
            return decode_subnet(key, value, in_key=key.removeprefix(self.subnets))
        if key.startswith(self.tenants):
            return decode_tenant(key, value, in_key=key.removeprefix(self.tenants))
        return decode_namespace(key, value, in_key=key.removeprefix(self.namespaces))

    def encode(self, record: Record) -> tuple[str, bytes]:
        """Key and JSON of `record`. Raises RecordError if nobody could read it back."""
        key = self.of(record)
        if isinstance(record, HostSubnet):
            return key, encode_subnet(key, record)
        if isinstance(record, Tenant):
            return key, encode_tenant(key, record)
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
    data = parse_object(key, value, SUBNET_EXAMPLE)
    if data.get("HostIP") != str(host_ip):
        wrong(key, f"HostIP is {data.get('HostIP')!r}", f'write "HostIP":"{host_ip}" as in the key')
    host = data.get("Host")
    if not isinstance(host, str) or not is_word(host):
        wrong(key, f"Host is {host!r}", 'give the host\'s name like "Host":"node1"')
    assign = data.get("Assign", False)
    if not isinstance(assign, bool):
        wrong(key, f"Assign is {assign!r}", "write true (an external host) or false")
    return HostSubnet(
        host, host_ip, parse_subnet(key, data.get("Subnet")), assign, unknown_keys(data, _SUBNET_KEYS)
    )


def encode_subnet(key: str, record: HostSubnet) -> bytes:
    """The JSON of a host subnet. Raises RecordError if it is one that `decode_subnet` would refuse."""
    value = dump(
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
    """The net namespace under `key` (…/netnamespaces/NAMESPACE). Raises RecordError likewise.

    ForbiddenNetId if nothing but the NetID, a number, is wrong with it.
    """
    name = key.rpartition("/")[2] if in_key is None else in_key
    if not _LABEL.fullmatch(name):
        wrong(key, f"{name!r} cannot be a Namespace", "delete it, and write it under the Namespace's name")
    data = parse_object(key, value, NAMESPACE_EXAMPLE)
    if data.get("NetName") != name:
        wrong(key, f"NetName is {data.get('NetName')!r}", f'write "NetName":"{name}" as in the key')
    action = data.get("Action", "")
    if action not in ACTIONS:
        wrong(key, f"Action is {action!r}", "use join, isolate or global, or leave it empty")
    other = data.get("Namespace", "")
    if not isinstance(other, str) or (other and not _LABEL.fullmatch(other)):
        wrong(key, f"Namespace is {other!r}", "give the name of the Namespace to join, or leave it empty")
    if action == "join" and not other:
        wrong(key, "Action is 'join' but Namespace is empty", 'name the one to join, like "Namespace":"blue"')
    record = NetNamespace(name, None, str(action), other, unknown_keys(data, _NAMESPACE_KEYS))
    number = data.get("NetID")
    try:
        net_id = _net_id(key, number)
    except RecordError as err:
        if not isinstance(number, int) or isinstance(number, bool):
            raise
        raise ForbiddenNetId(key, err.reason, remedy=err.remedy, record=record) from err
    return replace(record, net_id=net_id)


def encode_namespace(key: str, record: NetNamespace) -> bytes:
    """The JSON of a net namespace; a NetID that is asked for is left out. Raises RecordError likewise."""
    body: dict[str, object] = {"NetName": record.name}
    if record.net_id is not None:
        body["NetID"] = record.net_id
    value = dump(body | {"Action": record.action, "Namespace": record.other}, record.extra)
    decode_namespace(key, value)
    return value


def error_of(record: NetNamespace) -> str:
    """Why the last request in `record` was refused; empty if it was not."""
    return str(record.extra.get(ERROR_KEY, ""))


def with_error(record: NetNamespace, error: str) -> NetNamespace:
    """`record` with this reason of a refusal, or with none if `error` is empty."""
    extra = {key: value for key, value in record.extra.items() if key != ERROR_KEY}
    return replace(record, extra=extra | ({ERROR_KEY: error} if error else {}))


def decode_tenant(key: str, value: bytes, *, in_key: str | None = None) -> Tenant:
    """The tenant under `key` (…/tenants/NAMESPACE). Raises RecordError likewise."""
    name = key.rpartition("/")[2] if in_key is None else in_key
    if not _LABEL.fullmatch(name):
        wrong(key, f"{name!r} cannot be a Namespace", "delete it: no Namespace can have it")
    data = parse_object(key, value, TENANT_EXAMPLE)
    if data.get("Namespace") != name:
        wrong(key, f"Namespace is {data.get('Namespace')!r}", _TENANT_REMEDY)
    vni = _net_id(key, data.get("NetID"))
    if vni is None:
        wrong(key, "NetID is missing", _TENANT_REMEDY)
    if not isinstance(uid := data.get("UID", ""), str):
        wrong(key, f"UID is {uid!r}", _TENANT_REMEDY)
    body = data.get("Change")
    return Tenant(name, vni, None if body is None else _change(key, body), uid)


def encode_tenant(key: str, tenant: Tenant) -> bytes:
    """The JSON of a tenant. Raises RecordError likewise."""
    uid = {"UID": tenant.uid} if tenant.uid else {}
    body: dict[str, object] = {"Namespace": tenant.name, "NetID": tenant.vni, **uid}
    if tenant.change is not None:
        body["Change"] = {
            "ID": tenant.change.id,
            "Step": tenant.change.step.value,
            "Old": tenant.change.old,
            "New": tenant.change.new,
            "Action": tenant.change.action,
            "Other": tenant.change.other,
        }
    value = dump(body, {})
    decode_tenant(key, value)
    return value


def _change(key: str, body: object) -> TenantChange:
    if not isinstance(body, dict):
        wrong(key, "Change is not a JSON object", _TENANT_REMEDY)
    number, step, action, other = (body.get(name) for name in ("ID", "Step", "Action", "Other"))
    if not isinstance(number, str) or not _CHANGE_ID.fullmatch(number):
        wrong(key, f"ID of the Change is {number!r}", _TENANT_REMEDY)
    if step not in list(TenantStep):
        wrong(key, f"Step of the Change is {step!r}", _TENANT_REMEDY)
    if action not in ACTIONS:
        wrong(key, f"Action of the Change is {action!r}", _TENANT_REMEDY)
    if not isinstance(other, str) or (other and not _LABEL.fullmatch(other)):
        wrong(key, f"Other of the Change is {other!r}", _TENANT_REMEDY)
    old, new = _net_id(key, body.get("Old")), _net_id(key, body.get("New"))
    if old is None or new is None:
        wrong(key, "Old or New of the Change is missing", _TENANT_REMEDY)
    return TenantChange(number, TenantStep(step), old, new, str(action), other)


def decode_report(key: str, value: bytes, *, in_key: str | None = None) -> AgentReport:
    """The agent's report under `key` (…/agents/NAME/HOSTIP). Raises RecordError likewise."""
    in_key = key.rpartition("/")[2] if in_key is None else in_key
    try:
        host_ip = IPv4Address(in_key)
    except ValueError as err:
        reason = f"the key ends in {in_key!r}, not in an IPv4 address"
        raise RecordError(key, reason, remedy="delete it: no agent writes there") from err
    data = parse_object(key, value, REPORT_EXAMPLE, MAX_REPORT)
    host, applied = data.get("Host"), data.get("Applied")
    if data.get("HostIP") != str(host_ip):
        wrong(key, f"HostIP is {data.get('HostIP')!r}", _REPORT_REMEDY)
    if not isinstance(host, str) or not is_word(host):
        wrong(key, f"Host is {host!r}", _REPORT_REMEDY)
    if not isinstance(applied, dict):
        wrong(key, f"Applied is {applied!r}", _REPORT_REMEDY)
    for name, token in applied.items():
        if not isinstance(token, str) or not _LABEL.fullmatch(name):
            wrong(key, f"Applied says {token!r} of {name!r}", _REPORT_REMEDY)
    return AgentReport(host, host_ip, applied, _used(key, data.get("Used")), decode_health(data))


def encode_report(key: str, report: AgentReport) -> bytes:
    """The JSON of an agent's report. Raises RecordError likewise."""
    body: dict[str, object] = {"Host": report.host, "HostIP": str(report.host_ip)}
    body["Applied"] = dict(report.applied)
    if report.used:
        body["Used"] = {"Subnet": str(report.used.subnet or ""), "NetIDs": dict(report.used.tenants)}
    value = dump(body | encode_health(report.health), {})
    decode_report(key, value)
    return value


def _used(key: str, body: object) -> StillUsed:
    body = {"NetIDs": {}} if body is None else body
    if not isinstance(body, dict) or not isinstance(tenants := body.get("NetIDs"), dict):
        wrong(key, f"Used is {body!r}", _REPORT_REMEDY)
    found = {name: vni for name in tenants if (vni := _net_id(key, tenants[name])) is not None}
    return StillUsed(parse_subnet(key, body.get("Subnet")), found)


def _net_id(key: str, value: object) -> Vni | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        wrong(
            key, f"NetID is {value!r}", f"give a number from {MIN_TENANT_VNI} to {MAX_VNI}, or 0 for global"
        )
    if GLOBAL_VNI < value < MIN_TENANT_VNI:
        wrong(key, f"NetID {value} is reserved", f"use {MIN_TENANT_VNI} to {MAX_VNI}, or 0 for global")
    if not GLOBAL_VNI <= value <= MAX_VNI:
        wrong(
            key,
            f"NetID {value} does not fit in 24 bits",
            f"use {MIN_TENANT_VNI} to {MAX_VNI}, or 0 for global",
        )
    return Vni(value)
