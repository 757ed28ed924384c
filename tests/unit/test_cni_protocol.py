"""Requests as the CNI specification 1.1 has them, the errors for those that are not, and the four result formats."""

import json
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k8s_ovs.cni.codes import Code, as_cni_error, code_of
from k8s_ovs.cni.protocol import (
    GREETING,
    SUPPORTED_VERSIONS,
    AddResult,
    Command,
    Frame,
    PodArgs,
    Request,
    parse_args,
    parse_frame,
    parse_request,
    render_error,
    render_result,
    requested_version,
)
from k8s_ovs.errors import (
    CniError,
    ConfigError,
    ExhaustedError,
    FirewallError,
    K8sOvsError,
    LinkError,
    OpenFlowError,
    OvsdbError,
    RecordError,
)
from k8s_ovs.model.types import AttachmentKey, Mac, PodLimits, SandboxId

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "0123abcd",
    "CNI_NETNS": "/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=a;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=0123",
    "CNI_PATH": "/opt/cni/bin",
}
CONF: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "k8s-ovs",
    "type": "k8s-ovs",
    "socket": "/run/k8s-ovs/cni.sock",
}
RESULT = AddResult(
    host_ifname="veth0123",
    ifname="eth0",
    netns="/run/netns/pod",
    mac=Mac("0a:58:ac:0b:04:02"),
    address=IPv4Interface("172.11.4.2/22"),
    gateway=IPv4Address("172.11.4.1"),
    mtu=1450,
)


def wire(environment: dict[str, str], stdin: bytes) -> bytes:
    entries = b"".join(f"{name}={value}".encode() + b"\0" for name, value in environment.items())
    return GREETING + entries + b"\0" + stdin


def parse(conf: dict[str, Any] | bytes | None = None, **environment: str) -> Request:
    stdin = conf if isinstance(conf, bytes) else json.dumps(CONF if conf is None else conf).encode()
    return parse_request(parse_frame(wire(ENVIRONMENT | environment, stdin)))


def refusal(conf: dict[str, Any] | bytes | None = None, **environment: str) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(conf, **environment)
    return caught.value


def test_an_add_as_a_runtime_sends_it() -> None:
    request = parse(CONF | {"runtimeConfig": {"portMappings": [{"hostPort": 80}]}})
    assert request.command is Command.ADD
    assert request.key == AttachmentKey(SandboxId("0123abcd"), "eth0")
    assert request.pod == PodArgs(namespace="web", name="a", uid="u-1", infra_container="0123")
    assert (request.netns, request.path) == ("/run/netns/pod", "/opt/cni/bin")
    assert request.conf.runtime_config == {"portMappings": [{"hostPort": 80}]}
    assert request.conf.socket == "/run/k8s-ovs/cni.sock"
    assert request.prev_result is None


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
@pytest.mark.parametrize("command", Command)
def test_commands_exist_from_their_version_on(version: str, command: Command) -> None:
    conf = CONF | {"cniVersion": version, "prevResult": {"ips": []}, "cni.dev/valid-attachments": []}
    first = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}.get(command, "0.3.1")
    if version >= first:
        assert parse(conf, CNI_COMMAND=command).command is command
    else:
        assert refusal(conf, CNI_COMMAND=command).code == Code.INCOMPATIBLE_VERSION


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0", "1.2.0", "2.0.0", "nonsense"])
def test_other_versions_are_refused_with_those_that_work(version: str) -> None:
    error = refusal(CONF | {"cniVersion": version})
    assert error.code == Code.INCOMPATIBLE_VERSION
    assert "0.3.1, 0.4.0, 1.0.0, 1.1.0" in error.remedy


def test_a_missing_version_is_named() -> None:
    conf = {name: value for name, value in CONF.items() if name != "cniVersion"}
    assert "cniVersion is missing" in refusal(conf).message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", "VERSION"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../etc"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", "a\n"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "eth/0"),
        ("CNI_IFNAME", "eth:0"),
        ("CNI_IFNAME", "sixteen-octets-x"),
        ("CNI_IFNAME", "eth0\n"),
        ("CNI_NETNS", ""),
        ("CNI_NETNS", "netns/pod"),
        ("CNI_ARGS", ""),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=web"),
        ("CNI_ARGS", "K8S_POD_NAME=a"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=web;K8S_POD_NAME=a;junk"),
    ],
)
def test_a_wrong_variable_is_error_4_and_named(name: str, value: str) -> None:
    error = refusal(**{name: value})
    assert error.code == Code.INVALID_ENVIRONMENT
    assert name in error.message


def test_del_needs_neither_namespace_nor_netns_nor_prev_result() -> None:
    for args in ("", "junk", "K8S_POD_NAMESPACE="):
        request = parse(CONF | {"prevResult": 7}, CNI_COMMAND="DEL", CNI_NETNS="", CNI_ARGS=args)
        assert request.key == AttachmentKey(SandboxId("0123abcd"), "eth0")


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_gc_and_status_need_no_container(command: str) -> None:
    frame = Frame({"CNI_COMMAND": command}, json.dumps(CONF | {"cni.dev/valid-attachments": []}).encode())
    assert parse_request(frame).command == command


def test_gc_without_its_list_is_refused_since_it_would_remove_everything() -> None:
    error = refusal(CNI_COMMAND="GC")
    assert (error.code, "cni.dev/valid-attachments" in error.message) == (Code.INVALID_CONFIG, True)
    assert refusal(CONF | {"cni.dev/valid-attachments": None}, CNI_COMMAND="GC").code == Code.INVALID_CONFIG


@pytest.mark.parametrize(
    "entry", [{"containerID": "a"}, {"ifname": "eth0"}, "a", {"containerID": 1, "ifname": "eth0"}]
)
def test_gc_with_a_malformed_entry_is_refused(entry: object) -> None:
    assert (
        refusal(CONF | {"cni.dev/valid-attachments": [entry]}, CNI_COMMAND="GC").code == Code.INVALID_CONFIG
    )


def test_gc_reads_its_list() -> None:
    kept = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1", "unknown": 1}]
    request = parse(CONF | {"cni.dev/valid-attachments": kept}, CNI_COMMAND="GC")
    assert request.valid_attachments == {
        AttachmentKey(SandboxId("a"), "eth0"),
        AttachmentKey(SandboxId("b"), "net1"),
    }


@pytest.mark.parametrize("name", ["", "-net", "net/one", "net\n", None, 5])
def test_a_network_without_a_proper_name_is_error_7(name: object) -> None:
    assert refusal(CONF | {"name": name}).code == Code.INVALID_CONFIG


def test_ipam_is_an_unsupported_field_and_named_with_its_value() -> None:
    error = refusal(CONF | {"ipam": {"type": "host-local"}})
    assert error.code == Code.UNSUPPORTED_FIELD
    assert "ipam" in error.message
    assert '"host-local"' in error.message
    assert parse(CONF | {"ipam": {"type": "host-local"}}, CNI_COMMAND="DEL").command is Command.DEL
    assert parse(CONF | {"ipam": {}}).command is Command.ADD


@pytest.mark.parametrize("prev", [None, [], "x", {"ips": [{}]}, {"ips": 1}, {"interfaces": [1]}])
def test_check_needs_a_well_formed_prev_result(prev: object) -> None:
    error = refusal(CONF | {"prevResult": prev}, CNI_COMMAND="CHECK")
    assert (error.code, "prevResult" in error.message) == (Code.INVALID_CONFIG, True)


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_check_reads_the_results_that_add_writes(version: str) -> None:
    prev = json.loads(render_result(RESULT, version))
    request = parse(CONF | {"cniVersion": version, "prevResult": prev}, CNI_COMMAND="CHECK")
    assert request.prev_result is not None
    assert [ip.address for ip in request.prev_result.ips or ()] == ["172.11.4.2/22"]
    assert [link.sandbox for link in request.prev_result.interfaces or ()] == ["", "/run/netns/pod"]


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{",
        b"not json",
        b'{"name":"\xff"}',
        b"\xff",
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 100_000,
        b"{}{}",
    ],
)
def test_what_is_no_json_is_error_6(stdin: bytes) -> None:
    assert refusal(stdin).code == Code.DECODE_FAILURE
    assert requested_version(stdin) == "1.1.0"


@pytest.mark.parametrize(
    "stdin", [b"[]", b"1", b'"x"', b"null", b'{"cniVersion":1}', b'{"runtimeConfig":[]}']
)
def test_json_of_the_wrong_shape_is_error_7(stdin: bytes) -> None:
    assert refusal(stdin).code == Code.INVALID_CONFIG


def test_an_error_echoes_the_version_of_the_request() -> None:
    assert requested_version(b'{"cniVersion":"0.4.0","name":5}') == "0.4.0"
    text = json.loads(render_error(CniError(Code.TRY_AGAIN, "not yet", remedy="wait"), "0.4.0"))
    assert text == {"cniVersion": "0.4.0", "code": 11, "msg": "not yet", "details": "wait"}
    assert "details" not in json.loads(render_error(CniError(3, "gone"), "1.0.0"))


def test_frames_that_are_not_ours_are_error_5() -> None:
    for data in (b"", b"GET / HTTP/1.1\r\n", b"k8s-ovs-cni/2\n\0", GREETING, GREETING + b"CNI_COMMAND=ADD"):
        with pytest.raises(CniError) as caught:
            parse_frame(data)
        assert caught.value.code == Code.IO_FAILURE


def test_variables_that_are_no_variables_are_error_4() -> None:
    for entry in (b"CNI_COMMAND", b"CNI_NETNS=\xff"):
        with pytest.raises(CniError) as caught:
            parse_frame(GREETING + entry + b"\0\0{}")
        assert caught.value.code == Code.INVALID_ENVIRONMENT


variables = st.dictionaries(
    st.text(st.characters(exclude_characters="=\0", codec="utf-8"), min_size=1),
    st.text(st.characters(exclude_characters="\0", codec="utf-8")),
)


@given(variables, st.binary())
def test_frames_come_back_as_they_were(environment: dict[str, str], stdin: bytes) -> None:
    frame = parse_frame(wire(environment, stdin))
    assert (dict(frame.environment), frame.stdin) == (environment, stdin)


def judge(data: bytes) -> None:
    """Whatever the octets are: a request, or an error that can be rendered."""
    try:
        request = parse_request(parse_frame(data))
    except CniError as err:
        answer = json.loads(render_error(err, requested_version(data)))
        assert answer["code"] in set(Code)
        assert answer["msg"]
    else:
        assert request.command in set(Command)


@given(st.binary())
@example(GREETING)
def test_any_octets_give_a_request_or_a_cni_error(data: bytes) -> None:
    judge(data)
    judge(GREETING + data)
    judge(wire(ENVIRONMENT, data))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
conf_keys = st.sampled_from(
    [
        "cniVersion",
        "name",
        "type",
        "socket",
        "ipam",
        "prevResult",
        "runtimeConfig",
        "cni.dev/valid-attachments",
    ]
)


@given(st.dictionaries(conf_keys, json_values), st.sampled_from(list(Command)))
def test_any_json_in_any_key_gives_a_request_or_a_cni_error(
    changes: dict[str, Any], command: Command
) -> None:
    judge(wire(ENVIRONMENT | {"CNI_COMMAND": command.value}, json.dumps(CONF | changes).encode()))


@given(st.text(), st.booleans())
def test_any_args_give_a_pod_or_error_4(text: str, strict: bool) -> None:
    try:
        pod = parse_args(text, strict=strict)
    except CniError as err:
        assert strict
        assert err.code == Code.INVALID_ENVIRONMENT  # noqa: PT017
    else:
        assert not strict or (pod.namespace and pod.name)


def test_results_in_each_version() -> None:
    for version in SUPPORTED_VERSIONS:
        result = json.loads(render_result(RESULT, version))
        outside, inside = result["interfaces"]
        ip = result["ips"][0]
        assert result["cniVersion"] == version
        assert (inside["name"], inside["mac"], inside["sandbox"]) == ("eth0", RESULT.mac, "/run/netns/pod")
        assert (outside["name"], "sandbox" in outside) == ("veth0123", False)
        assert (ip["address"], ip["gateway"], ip["interface"]) == ("172.11.4.2/22", "172.11.4.1", 1)
        assert ip.get("version") == ("4" if version in ("0.3.1", "0.4.0") else None)
        assert inside.get("mtu") == (1450 if version == "1.1.0" else None)
        assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "172.11.4.1"}]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CniError(11, "later"), 11),
        (LinkError("refused"), 100),
        (OvsdbError("refused"), 101),
        (OpenFlowError("refused"), 101),
        (FirewallError("refused"), 101),
        (ExhaustedError("full"), 102),
        (ConfigError("bad"), 199),
    ],
)
def test_every_error_of_ours_has_a_code(error: K8sOvsError, code: int) -> None:
    assert code_of(error) == code


def test_an_answer_says_what_it_is_about_and_carries_the_notes() -> None:
    error = ExhaustedError("no free address", remedy="delete pods")
    error.add_note("could not undo: x")
    answer = as_cni_error(error, "pod web/a")
    assert str(answer) == "pod web/a: no free address (could not undo: x): delete pods"
    said_already = RecordError("pod web/a", "annotation x: bad", remedy="write a good one")
    assert str(as_cni_error(said_already, "pod web/a")) == "pod web/a: annotation x: bad: write a good one"


def test_every_code_is_in_the_table_of_the_docstring() -> None:
    assert Code.__doc__ is not None
    rows = [line.split("|")[1].strip() for line in Code.__doc__.splitlines() if line.strip().startswith("| ")]
    assert rows[2:] == [str(int(code)) for code in Code]


def test_the_bandwidth_that_the_runtime_asks_for() -> None:
    def limits(bandwidth: object) -> PodLimits:
        return parse(CONF | {"runtimeConfig": {"bandwidth": bandwidth}}).limits

    assert limits({"ingressRate": 10**6, "ingressBurst": 5, "egressRate": 2 * 10**6}) == PodLimits(
        10**6, 2 * 10**6
    )
    assert limits({"egressRate": 1000, "ingressRate": 0}) == PodLimits(None, 1000)
    assert limits({}) == limits(None) == parse(CONF).limits == PodLimits()


@pytest.mark.parametrize(
    "bandwidth",
    [{"ingressRate": 999}, {"egressRate": 10**15 + 1}, {"egressRate": -1}, {"ingressRate": "10M"}, [], 5],
)
def test_bandwidth_out_of_bounds_or_of_another_form_is_a_bad_configuration(bandwidth: object) -> None:
    conf = CONF | {"runtimeConfig": {"bandwidth": bandwidth}}
    with pytest.raises(CniError, match=r"runtimeConfig\.bandwidth") as caught:
        parse(conf)
    assert caught.value.code == Code.INVALID_CONFIG
