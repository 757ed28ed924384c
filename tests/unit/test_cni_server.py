"""The agent's CNI server on a real unix socket: who may ask, order, bounds, stopping."""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.cni_handler import RecordingHandler
from k8s_ovs.cni.listen import listen_unix
from k8s_ovs.cni.protocol import GREETING, Request
from k8s_ovs.cni.server import CniServer, Observer, ServerLimits
from k8s_ovs.errors import CniError, ConfigError, ExhaustedError

DEADLINE = 10.0


def wire(command: str = "ADD", sandbox: str = "a", **conf: object) -> bytes:
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": sandbox,
        "CNI_NETNS": "/netns/a",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAMESPACE=web;K8S_POD_NAME=a",
    }
    entries = b"".join(f"{name}={value}".encode() + b"\0" for name, value in environment.items())
    body = {"cniVersion": "1.1.0", "name": "k8s-ovs", "cni.dev/valid-attachments": []} | conf
    return GREETING + entries + b"\0" + json.dumps(body).encode()


async def ask(path: Path, data: bytes) -> tuple[str, dict[str, Any] | None]:
    """Status octet and answer, as the executable gets them: a refused request is read no further by the server."""
    loop = asyncio.get_running_loop()
    answer = b""
    async with asyncio.timeout(DEADLINE):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.setblocking(False)
            await loop.sock_connect(peer, str(path))
            with contextlib.suppress(ConnectionError):
                await loop.sock_sendall(peer, data)
                peer.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while chunk := await loop.sock_recv(peer, 65536):
                    answer += chunk
    return answer[:1].decode(), json.loads(answer[1:]) if answer[1:] else None


@contextlib.asynccontextmanager
async def running(
    path: Path,
    handler: RecordingHandler,
    *,
    limits: ServerLimits | None = None,
    observer: Observer | None = None,
    uid: int | None = None,
) -> AsyncIterator[CniServer]:
    server = CniServer(
        path, handler, limits=limits, observer=observer, uid=os.getuid() if uid is None else uid
    )
    async with asyncio.timeout(4 * DEADLINE), asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run())
        await server.listening.wait()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "cni.sock"


async def test_answers_of_all_commands(path: Path) -> None:
    handler = RecordingHandler()
    async with running(path, handler):
        status, result = await ask(path, wire("ADD", cniVersion="0.4.0"))
        assert status == "0"
        assert result is not None
        assert result["cniVersion"] == "0.4.0"
        assert result["ips"][0]["address"] == "172.11.4.2/22"
        for command in ("DEL", "GC", "STATUS"):
            assert await ask(path, wire(command)) == ("0", None)
        assert await ask(path, wire("CHECK", prevResult={"ips": []})) == ("0", None)
    assert [request.command for request in handler.requests] == ["ADD", "DEL", "GC", "STATUS", "CHECK"]


async def test_the_socket_is_for_its_owner_only_and_goes_at_the_end(path: Path) -> None:
    async with running(path, RecordingHandler()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert [entry.name for entry in path.parent.iterdir()] == ["cni.sock"]
    assert list(path.parent.iterdir()) == []


async def test_another_user_is_refused(path: Path) -> None:
    handler = RecordingHandler()
    async with running(path, handler, uid=os.getuid() + 1):
        status, error = await ask(path, wire())
    assert status == "1"
    assert error is not None
    assert f"of user {os.getuid()} may not ask" in error["msg"]
    assert handler.requests == []


async def test_errors_become_error_objects_and_are_observed(path: Path) -> None:
    handler = RecordingHandler()
    seen: list[tuple[str, int]] = []
    errors: list[Exception] = [
        CniError(11, "not yet", remedy="wait"),
        ExhaustedError("no free address"),
        ZeroDivisionError("oops"),
    ]

    async def fail(_request: Request) -> None:
        raise errors.pop(0)

    handler.act = fail
    async with running(path, handler, observer=lambda command, _seconds, code: seen.append((command, code))):
        answers = [await ask(path, wire("DEL", cniVersion="1.0.0")) for _ in range(3)]
        malformed = await ask(path, wire().rstrip(b"}"))
        foreign = await ask(path, b"GET / HTTP/1.1\r\n\r\n")
    assert answers[0] == ("1", {"cniVersion": "1.0.0", "code": 11, "msg": "not yet", "details": "wait"})
    assert [answer["code"] for _, answer in [*answers, malformed, foreign] if answer] == [11, 102, 199, 6, 5]
    assert "ZeroDivisionError" in str(answers[2][1])
    assert seen == [("DEL", 11), ("DEL", 102), ("DEL", 199), ("ADD", 6), ("", 5)]


async def test_one_sandbox_in_order_others_side_by_side(path: Path) -> None:
    handler = RecordingHandler()
    go = asyncio.Event()

    async def act(request: Request) -> None:
        if request.sandbox == "a" and request.command == "ADD":
            await go.wait()

    handler.act = act
    async with running(path, handler) as server, asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(path, wire("ADD", "a")))
        await handler.until(1)
        waiting = tasks.create_task(ask(path, wire("DEL", "a")))
        assert (await ask(path, wire("ADD", "b")))[0] == "0"
        assert (await ask(path, wire("GC")))[0] == "0"
        assert not waiting.done()
        assert server.busy == 2
        go.set()
    of_a = [what for what, sandbox in handler.log if sandbox == "a" and what != "GC"]
    assert of_a == ["ADD", "done", "done", "DEL", "done"], "the first done is that of GC"
    assert len(server._locks) == 0


async def test_many_at_once(path: Path) -> None:
    handler = RecordingHandler()
    async with running(path, handler):
        answers = await asyncio.gather(*(ask(path, wire("ADD", f"s{n}")) for n in range(300)))
    assert {status for status, _ in answers} == {"0"}
    assert {request.sandbox for request in handler.requests} == {f"s{n}" for n in range(300)}


async def test_a_request_whose_asker_left_is_finished(path: Path) -> None:
    handler = RecordingHandler()
    go = asyncio.Event()

    async def act(_request: Request) -> None:
        await go.wait()

    handler.act = act
    async with running(path, handler):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(wire())
        writer.write_eof()
        await handler.until(1)
        writer.transport.abort()
        go.set()
        async with asyncio.timeout(DEADLINE):
            await handler.until(2)
    assert handler.log == [("ADD", "a"), ("done", "a")]


async def test_a_request_that_broke_off_is_not_begun(path: Path) -> None:
    handler = RecordingHandler()
    whole = wire()
    async with running(path, handler):
        for length in (0, 5, len(GREETING), 40, len(whole) - 20, len(whole) - 1):
            status, error = await ask(path, whole[:length])
            assert status == "1"
            assert error is not None
            assert error["code"] in (5, 6)
    assert handler.requests == []


async def test_too_large_and_too_slow_requests_are_refused(path: Path) -> None:
    limits = ServerLimits(request_octets=4096, receive_seconds=0.05)
    async with running(path, RecordingHandler(), limits=limits):
        _, error = await ask(path, wire(padding="x" * 100_000))
        assert error is not None
        assert (error["code"], "larger than 4096" in error["msg"]) == (6, True)
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(GREETING)
            answer = await reader.read()
            writer.close()
    assert json.loads(answer[1:])["code"] == 5


async def test_a_request_that_takes_too_long_is_undone_and_to_be_repeated(path: Path) -> None:
    handler = RecordingHandler()

    async def act(_request: Request) -> None:
        await asyncio.Event().wait()

    handler.act = act
    async with running(path, handler, limits=ServerLimits(answer_seconds=0.05)):
        status, error = await ask(path, wire())
    assert status == "1"
    assert error is not None
    assert (error["code"], "within 0.05 s" in error["msg"]) == (11, True)
    assert handler.log[-1] == ("undone", "a")


async def test_a_timeout_inside_the_handler_is_not_taken_for_ours(path: Path) -> None:
    handler = RecordingHandler()

    async def act(_request: Request) -> None:
        raise TimeoutError("of somebody else")

    handler.act = act
    async with running(path, handler):
        _, error = await ask(path, wire())
    assert error is not None
    assert error["code"] == 199


@pytest.mark.parametrize("cancel", [False, True])
async def test_stopping_finishes_what_runs_and_takes_nothing_new(path: Path, cancel: bool) -> None:
    handler = RecordingHandler()
    go = asyncio.Event()

    async def act(_request: Request) -> None:
        await go.wait()

    handler.act = act
    server = CniServer(path, handler, limits=ServerLimits(drain_seconds=DEADLINE), uid=os.getuid())
    serving = asyncio.create_task(server.run())
    await server.listening.wait()
    asking = asyncio.create_task(ask(path, wire()))
    await handler.until(1)
    if cancel:
        serving.cancel()
    else:
        server.stop()
    while server.listening.is_set():
        await asyncio.sleep(0)
    go.set()
    assert (await asking)[0] == "0"
    if cancel:
        with pytest.raises(asyncio.CancelledError):
            await serving
    else:
        await serving
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        await ask(path, wire())


async def test_stopping_undoes_what_does_not_end_in_time(path: Path) -> None:
    handler = RecordingHandler()

    async def act(_request: Request) -> None:
        await asyncio.Event().wait()

    handler.act = act
    limits = ServerLimits(drain_seconds=0.01)
    async with asyncio.TaskGroup() as tasks:
        async with running(path, handler, limits=limits) as server:
            asking = tasks.create_task(ask(path, wire()))
            await handler.until(1)
            server.stop()
        assert await asking == ("", None), "no answer: the executable says that the agent went away"
    assert handler.log[-1] == ("undone", "a")


async def test_a_stale_socket_is_replaced_and_a_served_one_is_not(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with running(path, RecordingHandler()):
        assert (await ask(path, wire()))[0] == "0"
        with pytest.raises(ConfigError, match="another agent"):
            await CniServer(path, RecordingHandler()).run()
        assert (await ask(path, wire()))[0] == "0"


def test_the_socket_of_a_successor_is_not_removed(path: Path) -> None:
    with listen_unix(path, 1):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write"), listen_unix(folder / "cni.sock", 1):
        pass
    with pytest.raises(ConfigError, match="cannot listen"), listen_unix(tmp_path / ("x" * 120), 1):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no folder"), listen_unix(tmp_path / "file" / "cni.sock", 1):
        pass
