"""The CNI executable by itself: the wire, VERSION, every way in which an agent can be away, and hostile stdin."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fakes.cni_shim import DEADLINE, Outcome, Shim, agent, conf_of, environment_of
from k8s_ovs.cni.protocol import GREETING, SUPPORTED_VERSIONS

MANY = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def run(shim: Shim, stdin: bytes, command: str = "ADD") -> Outcome:
    """Run it where no event loop runs (Hypothesis)."""
    done = subprocess.run(
        [shim.path],
        input=stdin,
        env={"CNI_COMMAND": command},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stderr == b"", done.stderr.decode(errors="replace")
    return Outcome(done.returncode, done.stdout)


def test_it_is_static_and_small(static_shim: Shim) -> None:
    headers = subprocess.run(
        ["readelf", "-lW", static_shim.path], capture_output=True, text=True, check=True
    ).stdout
    assert "INTERP" not in headers
    assert static_shim.path.stat().st_size < 1_500_000


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion":"1.1.0","name":"x"}', "1.1.0"),
        (b'{"a":{"cniVersion":"0.3.1"},"cniVersion":"1.0.0"}', "1.0.0"),
        (b'{"cniVersion":"1.0.0\\",\\"code\\":1"}', "1.1.0"),
        (b"", "1.1.0"),
        (b"garbage", "1.1.0"),
    ],
)
async def test_version_is_answered_without_an_agent(shim: Shim, stdin: bytes, version: str) -> None:
    outcome = await shim({"CNI_COMMAND": "VERSION"}, stdin)
    assert outcome.status == 0
    assert outcome.answer == {"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)}


async def test_run_by_hand_it_says_what_it_is_and_does_not_wait_for_stdin(shim: Shim) -> None:
    async with shim.started({}) as process, asyncio.timeout(DEADLINE):
        assert process.stdout is not None
        answer = json.loads(await process.stdout.read())
        assert await process.wait() == 1
    assert answer["code"] == 4
    assert "CNI_COMMAND" in answer["msg"]


async def test_the_wire_and_both_statuses(shim: Shim, socket_path: Path) -> None:
    received: list[bytes] = []
    answers = [b"0", b'0{"cniVersion":"1.1.0","ips":[]}\n', b'1{"code":7,"msg":"no"}']
    left = list(answers)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.write(left.pop(0))
        writer.close()

    stdin = conf_of(socket_path, note="ünï\u0000 \\ \n")
    environment = environment_of("ADD") | {"CNI_ARGS": "K8S_POD_NAME=ü=x;;", "CNI_": "empty name"}
    async with agent(socket_path, peer):
        outcomes = [await shim(environment, stdin) for _ in answers]
    assert [outcome.stdout for outcome in outcomes] == [answer[1:] for answer in answers]
    assert [outcome.status for outcome in outcomes] == [0, 0, 1]
    head, _, rest = received[0].partition(b"\n")
    assert head + b"\n" == GREETING
    variables, _, body = rest.partition(b"\0\0")
    assert body == stdin
    expected = {f"{n}={v}".encode() for n, v in environment.items() if n.startswith("CNI_")}
    assert set(variables.split(b"\0")) == expected


async def test_the_environment_may_be_large(shim: Shim, socket_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'0{"length":%d}' % len(await reader.read()))
        writer.close()

    async with agent(socket_path, peer):
        outcome = await shim(environment_of("ADD") | {"CNI_PATH": "x" * 100_000}, conf_of(socket_path))
    assert outcome.answer["length"] > 100_000


def is_try_again(outcome: Outcome, code: int = 11) -> bool:
    """A complete error object that says: the agent is away, ask again."""
    error = outcome.answer
    return (
        outcome.status == 1
        and error["code"] == code
        and error["cniVersion"] == "1.1.0"
        and "agent" in error["msg"]
        and bool(error["details"])
    )


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
)
async def test_no_agent_is_said_with_the_right_code(
    shim: Shim, socket_path: Path, command: str, code: int
) -> None:
    absent = await shim(environment_of(command), conf_of(socket_path))
    assert is_try_again(absent, code)
    assert "No such file" in absent.answer["msg"]
    socket_path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(socket_path))
    refused = await shim(environment_of(command), conf_of(socket_path))
    assert is_try_again(refused, code)
    assert "refused" in refused.answer["msg"]


async def test_the_version_of_the_request_is_in_the_error(shim: Shim, socket_path: Path) -> None:
    outcome = await shim(environment_of("ADD"), conf_of(socket_path, cniVersion="0.3.1"))
    assert outcome.answer["cniVersion"] == "0.3.1"


@pytest.mark.parametrize(
    "answer", [b"", b"0{", b'0{"cniVersion":"1.1.0","ips":[{"addr', b"x", b"2{}", b"0{}{}", b"0null"]
)
async def test_an_agent_that_breaks_off_is_no_answer(shim: Shim, socket_path: Path, answer: bytes) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(answer)
        writer.close()

    async with agent(socket_path, peer):
        assert is_try_again(await shim(environment_of("ADD"), conf_of(socket_path)))


async def test_an_agent_that_closes_before_reading_all_may_still_answer(
    shim: Shim, socket_path: Path
) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b'1{"code":6,"msg":"too large"}')
        await writer.drain()
        writer.close()

    async with agent(socket_path, peer):
        outcome = await shim(environment_of("ADD"), conf_of(socket_path, padding="x" * 900_000))
    assert (outcome.status, outcome.answer["code"]) == (1, 6)


KILLED_AGENT = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
print("listening", flush=True)
peer, _ = listener.accept()
while peer.recv(65536):
    pass
print("read", flush=True)
peer.sendall(sys.argv[2].encode())
print("sent", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("sent", "when"), [("", "listening"), ("", "sent"), ('0{"cniVersion":', "sent")])
async def test_an_agent_killed_in_the_middle(shim: Shim, socket_path: Path, sent: str, when: str) -> None:
    socket_path.parent.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_AGENT, socket_path, sent, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            assert await process.stdout.readline() == b"listening\n"
            asking = asyncio.create_task(shim(environment_of("ADD"), conf_of(socket_path)))
            while when != "listening" and await process.stdout.readline() != b"sent\n":
                pass
            process.kill()
            assert is_try_again(await asking)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_silent_agent_is_not_waited_for_without_end(hasty_shim: Shim, socket_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.get_running_loop().create_future()

    async with agent(socket_path, peer):
        outcome = await hasty_shim(environment_of("ADD"), conf_of(socket_path))
    assert is_try_again(outcome)
    assert "no answer within 1 s" in outcome.answer["msg"]


async def test_an_agent_that_neither_accepts_nor_reads_is_not_waited_for_without_end(
    hasty_shim: Shim, socket_path: Path
) -> None:
    socket_path.parent.mkdir()
    stdin = conf_of(socket_path, padding="x" * 900_000)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen(0)
        outcomes = await asyncio.gather(*(hasty_shim(environment_of("ADD"), stdin) for _ in range(4)))
    assert all(is_try_again(outcome) for outcome in outcomes)
    assert {"no answer within 1 s" in outcome.answer["msg"] for outcome in outcomes} == {True}


async def test_stdin_that_does_not_end_is_not_waited_for_without_end(hasty_shim: Shim) -> None:
    async with hasty_shim.started({"CNI_COMMAND": "ADD"}) as process, asyncio.timeout(DEADLINE):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"{")
        answer = json.loads(await process.stdout.read())
        assert await process.wait() == 1
    assert (answer["code"], "stdin did not end" in answer["msg"]) == (5, True)


async def test_it_goes_on_after_being_stopped(shim: Shim, socket_path: Path) -> None:
    """SIGSTOP and SIGCONT make calls with a timeout fail with EINTR (signal(7))."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        asked.set()
        await go.wait()
        writer.write(b"0{}")
        writer.close()

    async with agent(socket_path, peer), shim.started(environment_of("ADD")) as process:
        running = asyncio.create_task(process.communicate(conf_of(socket_path)))
        async with asyncio.timeout(DEADLINE):
            await asked.wait()
            for _ in range(3):
                process.send_signal(signal.SIGSTOP)
                while state_of(process.pid) != "T":
                    await asyncio.sleep(0)
                process.send_signal(signal.SIGCONT)
                while state_of(process.pid) == "T":
                    await asyncio.sleep(0)
            go.set()
            stdout, stderr = await running
    assert (process.returncode, stdout, stderr) == (0, b"{}", b"")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_nobody_reading_stdout_does_not_kill_it(shim: Shim) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        process = await asyncio.create_subprocess_exec(
            shim.path, env={"CNI_COMMAND": "ADD"}, stdin=asyncio.subprocess.DEVNULL, stdout=write
        )
        async with asyncio.timeout(DEADLINE):
            assert await process.wait() == 1
    finally:
        os.close(write)


@pytest.mark.parametrize(
    ("stdin", "where"),
    [
        (b"", "at octet 0 of 0"),
        (b"no json", "expected an object"),
        (b"[]", "expected an object"),
        (b'{"a":1', "expected ',' or '}'"),
        (b'{"a" 1}', "expected ':'"),
        (b'{"a":}', "expected a value"),
        (b'{"a":"\x01"}', "control character"),
        (b'{"a":"\\x"}', "unknown escape"),
        (b'{"a":"\\u12"}', "bad \\u escape"),
        (b'{"a":01}', "expected ','"),
        (b"{} {}", "text after the object"),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "nested too deeply"),
    ],
)
async def test_malformed_stdin_is_error_6_and_says_where(shim: Shim, stdin: bytes, where: str) -> None:
    outcome = await shim(environment_of("ADD"), stdin)
    assert (outcome.status, outcome.answer["code"]) == (1, 6)
    assert where in outcome.answer["msg"]


async def test_stdin_of_a_mebibyte_passes_and_more_does_not(shim: Shim, socket_path: Path) -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'0{"size":%d}' % len((await reader.read()).partition(b"\0\0")[2]))
        writer.close()

    limit = 1024 * 1024
    conf = conf_of(socket_path)
    async with agent(socket_path, peer):
        fits = await shim(environment_of("ADD"), conf + b" " * (limit - len(conf)))
        assert fits.answer == {"size": limit}
        too_large = await shim(environment_of("ADD"), conf + b" " * (limit - len(conf) + 1))
    assert (too_large.status, too_large.answer["code"]) == (1, 6)
    assert "larger than 1048576" in too_large.answer["msg"]


@pytest.mark.parametrize(
    "path", ["", "relative/cni.sock", "/" + "x" * 108, "/" + "x" * 600, "/a\x00b", "/\ud800"]
)
async def test_a_socket_that_is_no_path_is_error_7(shim: Shim, path: str) -> None:
    outcome = await shim(environment_of("ADD"), json.dumps({"socket": path}).encode())
    assert (outcome.status, outcome.answer["code"]) == (1, 7)


keys = st.sampled_from(["socket", "cniVersion", "Socket", "socket ", "so", "", "name"]) | st.text(max_size=20)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(['"socket":"/trap"', '","socket":"/trap', "\\", '\\"', "/nested.sock", "9.9.9"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
paths = st.text(st.sampled_from('abcß→😀/"\\. {}:,'), max_size=30).map(lambda text: "/no-such-folder/" + text)


def escaped(text: str, every: bool) -> str:
    """A JSON string, with as few or as many escapes as can be."""
    if not every:
        return json.dumps(text, ensure_ascii=False)
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'


@MANY
@given(
    before=st.dictionaries(keys.filter(lambda k: k not in ("socket", "cniVersion")), values, max_size=4),
    path=paths,
    version=st.sampled_from(["0.3.1", "1.0.0"]),
    after=st.dictionaries(keys.filter(lambda k: k not in ("socket", "cniVersion")), values, max_size=4),
    spelling=st.tuples(st.booleans(), st.booleans(), st.sampled_from(["", " ", "\n\t\r "])),
)
def test_only_the_top_level_keys_count_however_they_are_spelled(
    checked_shim: Shim,
    before: dict[str, Any],
    path: str,
    version: str,
    after: dict[str, Any],
    spelling: tuple[bool, bool, str],
) -> None:
    odd_key, odd_value, space = spelling
    members = [
        f"{json.dumps(k)}{space}:{space}{json.dumps(v, ensure_ascii=False)}" for k, v in before.items()
    ]
    members.append(f"{escaped('socket', odd_key)}:{space}{escaped(path, odd_value)}")
    members.append(f"{escaped('cniVersion', odd_value)}:{escaped(version, odd_key)}")
    members += [f"{json.dumps(k)}:{json.dumps(v)}" for k, v in after.items()]
    stdin = ("{" + f"{space},{space}".join(members) + "}").encode(errors="surrogatepass")
    outcome = run(checked_shim, stdin)
    assert outcome.status == 1
    assert outcome.answer["code"] == 11
    assert outcome.answer["cniVersion"] == version
    shown = "".join(chr(c) if c < 0x80 else "?" for c in path.encode())
    assert f"at {shown}: No such file" in outcome.answer["msg"]


def python_takes(stdin: bytes) -> bool:
    """Whether Python's parser, held to RFC 8259, takes it for an object."""

    def no_constant(name: str) -> None:
        raise ValueError(name)

    try:
        text = stdin.decode()
        return not text.startswith("\ufeff") and isinstance(
            json.loads(text, parse_constant=no_constant), dict
        )
    except UnicodeDecodeError:
        return True  # not judged here: the scanner leaves UTF-8 to the agent
    except ValueError:
        return False


def judge(shim: Shim, stdin: bytes) -> None:
    outcome = run(shim, stdin)
    assert outcome.status == 1
    code = outcome.answer["code"]
    if b"socket" not in stdin:
        assert code in (6, 11)
        assert python_takes(stdin) or code == 6, "it took what is no JSON object"
        try:
            stdin.decode()
        except UnicodeDecodeError:
            return
        assert (code == 6) == (not python_takes(stdin))
    else:
        assert code in (6, 7, 11)


@MANY
@given(st.binary(max_size=200))
@example(b'{"a":-}')
@example(b'{"a":1.}')
@example(b'{"a":1e}')
@example(b'{"a":-0.0e+00}')
@example(b'{"a":tru}')
@example(b'{"a":"\\ud83d\\u0041"}')
@example(b"{,}")
@example(b'{"a":1,}')
@example(b'{"a":[1,]}')
@example(b'{"a":NaN}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a"\x00:1}')
def test_any_octets_on_stdin_give_a_cni_error(checked_shim: Shim, stdin: bytes) -> None:
    judge(checked_shim, stdin)


@MANY
@given(document=st.dictionaries(keys, values, max_size=4), data=st.data())
def test_damaged_json_is_judged_as_python_does(
    checked_shim: Shim, document: dict[str, Any], data: st.DataObject
) -> None:
    octets = bytearray(json.dumps(document).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        if octets:
            at = data.draw(st.integers(0, len(octets) - 1))
            octets[at : at + data.draw(st.integers(0, 1))] = data.draw(
                st.sampled_from([b"", b'"', b"{", b"]", b",", b"\\", b"0"])
            )
    judge(checked_shim, bytes(octets))
