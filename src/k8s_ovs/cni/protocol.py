"""CNI requests and answers as typed records: parsing, validation and rendering.

The server calls it with the octets that the executable sent; the agent's pods see only `Request` and
`AddResult`. Source: the CNI specification 1.1.0. Any octets give a `Request` or a `CniError`, nothing else.
No I/O here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import msgspec

from k8s_ovs.cni.codes import Code
from k8s_ovs.errors import CniError
from k8s_ovs.model.quantity import check_limit
from k8s_ovs.model.types import UNLIMITED, AttachmentKey, Mac, PodLimits, SandboxId

GREETING = b"k8s-ovs-cni/1\n"
"""First line of a request; the number changes when the wire does."""
SUPPORTED_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST_VERSION = SUPPORTED_VERSIONS[-1]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
"""Network names and container ids (section "Parameters")."""
_IFNAME = re.compile(r"[^\s/:\x00]{1,15}")
"""What the kernel takes as an interface's name (IFNAMSIZ is 16 with the final NUL)."""


class Command(StrEnum):
    """CNI_COMMAND. VERSION is not among them: the executable answers it by itself."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"


_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
"""The version of the specification that brought a command."""


@dataclass(frozen=True, slots=True)
class PodArgs:
    """What CNI_ARGS says about the pod; empty where it says nothing."""

    namespace: str = ""
    name: str = ""
    uid: str = ""
    infra_container: str = ""


class ValidAttachment(msgspec.Struct, frozen=True):
    """An entry of `cni.dev/valid-attachments`."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


class PrevInterface(msgspec.Struct, frozen=True):
    """An interface of `prevResult`; `sandbox` is the path of its network namespace, or empty on the host."""

    name: str = ""
    mac: str = ""
    sandbox: str = ""


class PrevAddress(msgspec.Struct, frozen=True):
    """An address of `prevResult`, as ADDRESS/PREFIX."""

    address: str


class PrevResult(msgspec.Struct, frozen=True):
    """The part of `prevResult` that CHECK compares; it is the same in all versions that we serve."""

    interfaces: list[PrevInterface] | None = None
    ips: list[PrevAddress] | None = None


class NetConf(msgspec.Struct, frozen=True):
    """The network configuration of this plugin, as the runtime made it from the conflist."""

    cni_version: str = msgspec.field(name="cniVersion", default="")
    name: str = ""
    type: str = ""
    socket: str = ""
    runtime_config: dict[str, Any] | None = msgspec.field(name="runtimeConfig", default=None)
    prev_result: msgspec.Raw = msgspec.field(name="prevResult", default=msgspec.Raw(b""))
    ipam: msgspec.Raw = msgspec.Raw(b"")
    valid_attachments: list[ValidAttachment] | None = msgspec.field(
        name="cni.dev/valid-attachments", default=None
    )


class Bandwidth(msgspec.Struct, frozen=True, rename="camel"):
    """`runtimeConfig.bandwidth` (CNI conventions, "bandwidth"): bits per second, 0 for no limit.

    The bursts that may come with them are ours to choose.
    """

    ingress_rate: int = 0
    egress_rate: int = 0


class _VersionOnly(msgspec.Struct, frozen=True):
    cni_version: str = msgspec.field(name="cniVersion", default="")


@dataclass(frozen=True, slots=True)
class Frame:
    """A request as it came over the wire: the CNI_ variables, and stdin."""

    environment: Mapping[str, str]
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request. What its command does not need may be empty; what it needs is there.

    `limits` are those of `runtimeConfig.bandwidth`.
    """

    command: Command
    sandbox: SandboxId
    netns: str
    ifname: str
    pod: PodArgs
    path: str
    conf: NetConf
    prev_result: PrevResult | None = None
    limits: PodLimits = UNLIMITED

    @property
    def key(self) -> AttachmentKey:
        """The attachment that the request is about."""
        return AttachmentKey(self.sandbox, self.ifname)

    @property
    def valid_attachments(self) -> frozenset[AttachmentKey]:
        """The attachments that GC has to keep."""
        kept = self.conf.valid_attachments or ()
        return frozenset(AttachmentKey(SandboxId(entry.container_id), entry.ifname) for entry in kept)


@dataclass(frozen=True, slots=True)
class AddResult:
    """The answer to ADD: the pod's `ifname` in `netns` with its address, gateway and MTU in octets."""

    host_ifname: str
    ifname: str
    netns: str
    mac: Mac
    address: IPv4Interface
    gateway: IPv4Address
    mtu: int


def parse_frame(data: bytes) -> Frame:
    """Split the octets of a whole request. Raises CniError 5 (not our wire, cut short) or 4 (a variable)."""
    if not data.startswith(GREETING):
        raise CniError(
            Code.IO_FAILURE,
            f"the request begins with {data[:32]!r}, not with {GREETING!r}",
            remedy="install the CNI executable that belongs to this agent",
        )
    environment: dict[str, str] = {}
    at = len(GREETING)
    while True:
        end = data.find(b"\0", at)
        if end < 0:
            raise CniError(
                Code.IO_FAILURE, f"the request breaks off after {len(data)} octets", remedy="ask again"
            )
        entry = data[at:end]
        at = end + 1
        if not entry:
            return Frame(environment, data[at:])
        name, separator, value = entry.partition(b"=")
        try:
            environment[name.decode()] = value.decode()
        except UnicodeDecodeError as err:
            raise CniError(Code.INVALID_ENVIRONMENT, f"{entry!r} in the environment is not UTF-8") from err
        if not separator:
            raise CniError(Code.INVALID_ENVIRONMENT, f"{entry!r} in the environment has no '='")


def parse_request(frame: Frame) -> Request:
    """Check a request as the specification asks. Raises CniError 1, 2, 4, 6 or 7."""
    command = _command(frame.environment)
    conf = _conf(frame.stdin)
    _check_version(conf, command)
    if not _NAME.fullmatch(conf.name):
        raise _bad_conf(
            f"name is {conf.name!r}", "give the network a name of letters, digits, '_', '.' and '-'"
        )
    _check_fields(conf, command)
    request = Request(
        command=command,
        sandbox=SandboxId(frame.environment.get("CNI_CONTAINERID", "")),
        netns=frame.environment.get("CNI_NETNS", ""),
        ifname=frame.environment.get("CNI_IFNAME", ""),
        pod=parse_args(frame.environment.get("CNI_ARGS", ""), strict=command is Command.ADD),
        path=frame.environment.get("CNI_PATH", ""),
        conf=conf,
        prev_result=_prev_result(conf) if command is Command.CHECK else None,
        limits=_limits(conf) if command is Command.ADD else UNLIMITED,
    )
    if command not in (Command.GC, Command.STATUS):
        _check_container(request)
    return request


def parse_args(text: str, *, strict: bool) -> PodArgs:
    """Read CNI_ARGS (`KEY=VALUE;…`); unknown keys are ignored.

    `strict` (for ADD) demands pairs, and the Namespace and name of the pod: they decide its tenant. Raises
    CniError 4.
    """
    pairs: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        name, separator, value = pair.partition("=")
        if strict and not separator:
            raise _bad_variable("CNI_ARGS", text, f"{pair!r} is no KEY=VALUE")
        pairs[name] = value
    pod = PodArgs(
        namespace=pairs.get("K8S_POD_NAMESPACE", ""),
        name=pairs.get("K8S_POD_NAME", ""),
        uid=pairs.get("K8S_POD_UID", ""),
        infra_container=pairs.get("K8S_POD_INFRA_CONTAINER_ID", ""),
    )
    if strict and not pod.namespace:
        raise _bad_variable("CNI_ARGS", text, "K8S_POD_NAMESPACE is missing, so the pod's tenant is unknown")
    if strict and not pod.name:
        raise _bad_variable("CNI_ARGS", text, "K8S_POD_NAME is missing")
    return pod


def requested_version(stdin: bytes) -> str:
    """The version to put into an error object: the request's own, or the newest if it says nothing usable."""
    try:
        version = msgspec.json.decode(stdin, type=_VersionOnly).cni_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NEWEST_VERSION
    return version or NEWEST_VERSION


def render_result(result: AddResult, version: str) -> bytes:
    """The JSON of an ADD result in `version` of the specification."""
    inside: dict[str, object] = {"name": result.ifname, "mac": result.mac, "sandbox": result.netns}
    outside: dict[str, object] = {"name": result.host_ifname}
    ip: dict[str, object] = {"address": str(result.address), "gateway": str(result.gateway), "interface": 1}
    if version == "1.1.0":
        inside["mtu"] = outside["mtu"] = result.mtu
    if version in ("0.3.1", "0.4.0"):
        ip["version"] = "4"
    return msgspec.json.encode(
        {
            "cniVersion": version,
            "interfaces": [outside, inside],
            "ips": [ip],
            "routes": [{"dst": "0.0.0.0/0", "gw": str(result.gateway)}],
            "dns": {},
        }
    )


def render_error(error: CniError, version: str) -> bytes:
    """The JSON of an error object (section "Error")."""
    body: dict[str, object] = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    if error.remedy:
        body["details"] = error.remedy
    return msgspec.json.encode(body)


def _command(environment: Mapping[str, str]) -> Command:
    value = environment.get("CNI_COMMAND", "")
    try:
        return Command(value)
    except ValueError as err:
        names = ", ".join(command.value for command in Command)
        raise _bad_variable("CNI_COMMAND", value, f"the agent serves {names}") from err


def _conf(stdin: bytes) -> NetConf:
    try:
        return msgspec.json.decode(stdin, type=NetConf)
    except msgspec.ValidationError as err:
        raise _bad_conf(str(err), "correct the CNI network configuration") from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise CniError(
            Code.DECODE_FAILURE,
            f"stdin ({len(stdin)} octets) is not a JSON object: {err}",
            remedy="give a CNI network configuration",
        ) from err


def _check_version(conf: NetConf, command: Command) -> None:
    if conf.cni_version not in SUPPORTED_VERSIONS:
        asked = conf.cni_version or "0.1.0 (cniVersion is missing)"
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {asked} of the network configuration is not supported",
            remedy="use " + ", ".join(SUPPORTED_VERSIONS),
        )
    since = _SINCE.get(command, SUPPORTED_VERSIONS[0])
    if SUPPORTED_VERSIONS.index(conf.cni_version) < SUPPORTED_VERSIONS.index(since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"{command} does not exist in cniVersion {conf.cni_version}",
            remedy=f"use {since} or newer",
        )


def _check_fields(conf: NetConf, command: Command) -> None:
    ipam = bytes(conf.ipam)
    if command is Command.ADD and ipam not in (b"", b"null", b"{}"):
        raise CniError(
            Code.UNSUPPORTED_FIELD,
            f"ipam is {ipam[:200].decode(errors='replace')} in the network configuration",
            remedy="remove it: k8s-ovs gives the addresses of the host subnet itself",
        )
    if command is Command.GC and conf.valid_attachments is None:
        raise _bad_conf("cni.dev/valid-attachments is missing", "list the attachments that GC has to keep")


def _prev_result(conf: NetConf) -> PrevResult:
    if bytes(conf.prev_result) in (b"", b"null"):
        raise _bad_conf("prevResult is missing", "give CHECK the result of ADD")
    try:
        return msgspec.json.decode(conf.prev_result, type=PrevResult)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise _bad_conf(f"prevResult: {err}", "give CHECK the result of ADD as it was") from err


def _limits(conf: NetConf) -> PodLimits:
    given = (conf.runtime_config or {}).get("bandwidth")
    if given is None:
        return UNLIMITED
    try:
        bandwidth = msgspec.convert(given, Bandwidth)
        for rate in (bandwidth.ingress_rate, bandwidth.egress_rate):
            if rate != 0:
                check_limit(rate)
    except ValueError as err:  # of msgspec, and of the bounds
        remedy = "give ingressRate and egressRate in bits per second, or 0 for no limit"
        raise _bad_conf(f"runtimeConfig.bandwidth: {err}", remedy) from err
    return PodLimits(bandwidth.ingress_rate or None, bandwidth.egress_rate or None)


def _check_container(request: Request) -> None:
    if not _NAME.fullmatch(request.sandbox):
        raise _bad_variable("CNI_CONTAINERID", request.sandbox, "give letters, digits, '_', '.' and '-'")
    if not _IFNAME.fullmatch(request.ifname) or request.ifname in (".", ".."):
        raise _bad_variable("CNI_IFNAME", request.ifname, "give an interface name of 1 to 15 characters")
    if request.command is not Command.DEL and not request.netns.startswith("/"):
        raise _bad_variable("CNI_NETNS", request.netns, "give the absolute path of a network namespace")


def _bad_conf(reason: str, remedy: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"network configuration: {reason}", remedy=remedy)


def _bad_variable(name: str, value: str, remedy: str) -> CniError:
    return CniError(
        Code.INVALID_ENVIRONMENT, f"{name} is {value!r}" if value else f"{name} is not set", remedy=remedy
    )
