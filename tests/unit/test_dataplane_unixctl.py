"""The client of ovs-vswitchd's control socket, against a daemon that answers what the test wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from k8s_ovs.dataplane import unixctl
from k8s_ovs.dataplane.unixctl import Answer
from k8s_ovs.errors import OpenFlowError


@asynccontextmanager
async def daemon(socket: Path, *answers: Sequence[bytes]) -> AsyncIterator[list[object]]:
    """Answers one request after the other, each in pieces, then hangs up; yields the requests."""
    asked: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for pieces in answers:
            asked.append(json.loads(await reader.read(1 << 16)))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_unix_server(serve, socket):
        yield asked


async def test_requests_and_answers(tmp_path: Path) -> None:
    answers = (
        [b'{"id":1,"result":"a } brace, \xc3', b"\xa9, {}", b'","error":null}'],
        [b'{"id":2,"result":null,"error":null}'],
        [b'{"id":3,"result":null,"error":"no such command\\n"}'],
    )
    socket = tmp_path / "ovs-vswitchd.ctl"
    async with daemon(socket, *answers) as asked, unixctl.connect(tmp_path, 5, "asking") as control:
        assert await control.call("dpctl/show", "-s", "dp") == Answer("a } brace, é, {}")
        assert await control.call("version") == Answer("")
        assert await control.call("nonsense") == Answer("no such command", refused=True)
    assert asked[0] == {"id": 1, "method": "dpctl/show", "params": ["-s", "dp"]}
    assert [request["method"] for request in asked if isinstance(request, dict)][1:] == [
        "version",
        "nonsense",
    ]


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([b'{"id":1,"resu'], "asking: .*ovs-vswitchd.ctl: connection closed: check that ovs-vswitchd runs"),
        ([], "asking: .*connection closed"),
        ([b'{"id":1}'], "no answer: {'id': 1}"),
    ],
)
async def test_a_daemon_that_breaks_off(tmp_path: Path, pieces: list[bytes], error: str) -> None:
    async with daemon(tmp_path / "ovs-vswitchd.ctl", pieces):
        with pytest.raises(OpenFlowError, match=error):
            async with unixctl.connect(tmp_path, 5, "asking") as control:
                await control.call("version")


async def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    silence = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silence.wait()
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "ovs-vswitchd.ctl"):
        with pytest.raises(OpenFlowError, match=r"asking: no answer from .* within 0.1 s"):
            async with unixctl.connect(tmp_path, 0.1, "asking") as control:
                await control.call("version")
        silence.set()


async def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(OpenFlowError, match=r"asking: .*No such file or directory: check that ovs-vswitchd"):
        async with unixctl.connect(tmp_path, 5, "asking"):
            pass


def test_the_socket_is_named_by_the_pid_unless_told_otherwise(tmp_path: Path) -> None:
    plain, usual = tmp_path / "ovs-vswitchd.ctl", tmp_path / "ovs-vswitchd.42.ctl"
    assert unixctl.control_socket(tmp_path) == plain
    (tmp_path / "ovs-vswitchd.pid").write_text("42\n")
    assert unixctl.control_socket(tmp_path) == plain
    usual.touch()
    assert unixctl.control_socket(tmp_path) == usual
    (tmp_path / "ovs-vswitchd.pid").write_text("")
    assert unixctl.control_socket(tmp_path) == plain
