"""The real executable and the agent's real server, with a handler that only records."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fakes.cni_handler import RecordingHandler
from fakes.cni_shim import DEADLINE, Shim, conf_of, environment_of
from k8s_ovs.cni.protocol import SUPPORTED_VERSIONS, Request
from k8s_ovs.cni.server import CniServer, ServerLimits
from k8s_ovs.errors import CniError


@asynccontextmanager
async def serving(
    path: Path, handler: RecordingHandler, limits: ServerLimits | None = None
) -> AsyncIterator[CniServer]:
    server = CniServer(path, handler, limits=limits, uid=os.getuid())
    async with asyncio.timeout(4 * DEADLINE), asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run())
        await server.listening.wait()
        try:
            yield server
        finally:
            server.stop()


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_add_and_del(shim: Shim, socket_path: Path, version: str) -> None:
    handler = RecordingHandler()
    async with serving(socket_path, handler):
        added = await shim(environment_of("ADD"), conf_of(socket_path, cniVersion=version))
        deleted = await shim(environment_of("DEL"), conf_of(socket_path, cniVersion=version))
    assert (added.status, added.answer["cniVersion"]) == (0, version)
    assert added.answer["ips"][0]["address"] == "172.11.4.2/22"
    assert (deleted.status, deleted.stdout) == (0, b"")
    assert [(r.command, r.sandbox, r.netns, r.pod.namespace) for r in handler.requests] == [
        ("ADD", "a", "/netns/a", "web"),
        ("DEL", "a", "/netns/a", "web"),
    ]


async def test_the_result_of_add_is_what_check_takes(shim: Shim, socket_path: Path) -> None:
    handler = RecordingHandler()
    async with serving(socket_path, handler):
        added = await shim(environment_of("ADD"), conf_of(socket_path))
        checked = await shim(environment_of("CHECK"), conf_of(socket_path, prevResult=added.answer))
    assert (checked.status, checked.stdout) == (0, b"")
    assert handler.requests[-1].prev_result is not None


async def test_gc_status_and_an_error(shim: Shim, socket_path: Path) -> None:
    handler = RecordingHandler()
    async with serving(socket_path, handler):
        kept = {"cni.dev/valid-attachments": [{"containerID": "x", "ifname": "eth0"}]}
        assert (await shim(environment_of("GC"), conf_of(socket_path, **kept))).status == 0
        assert [key.sandbox for key in handler.requests[0].valid_attachments] == ["x"]

        async def fail(_request: Request) -> None:
            raise CniError(50, "this node has no host subnet yet", remedy="see the controller")

        handler.act = fail
        outcome = await shim(environment_of("STATUS"), conf_of(socket_path))
    assert outcome.status == 1
    assert outcome.answer == {
        "cniVersion": "1.1.0",
        "code": 50,
        "msg": "this node has no host subnet yet",
        "details": "see the controller",
    }


async def test_wrong_requests_get_the_agents_error(shim: Shim, socket_path: Path) -> None:
    handler = RecordingHandler()
    async with serving(socket_path, handler):
        codes = [
            (await shim(environment_of("ADD") | change, conf_of(socket_path, **conf))).answer["code"]
            for change, conf in (
                ({"CNI_ARGS": ""}, {}),
                ({"CNI_NETNS": ""}, {}),
                ({"CNI_COMMAND": "NONSENSE"}, {}),
                ({}, {"cniVersion": "0.2.0"}),
                ({}, {"name": ""}),
                ({}, {"ipam": {"type": "host-local"}}),
            )
        ]
    assert codes == [4, 4, 4, 1, 7, 2]
    assert handler.requests == []


async def test_two_hundred_executables_twenty_at_a_time(static_shim: Shim, socket_path: Path) -> None:
    handler = RecordingHandler()
    running = 0
    most = 0
    slots = asyncio.Semaphore(20)

    async def act(_request: Request) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    async def ask(sandbox: str) -> int:
        async with slots:
            return (await static_shim(environment_of("ADD", sandbox), conf_of(socket_path))).status

    handler.act = act
    async with serving(socket_path, handler) as server:
        statuses = await asyncio.gather(*(ask(f"s{n}") for n in range(200)))
        assert server.busy == 0
    assert set(statuses) == {0}
    assert len({request.sandbox for request in handler.requests}) == 200
    assert most > 1, "requests for different sandboxes have to run side by side"


async def test_requests_for_one_sandbox_never_overlap(static_shim: Shim, socket_path: Path) -> None:
    handler = RecordingHandler()

    async def act(_request: Request) -> None:
        await asyncio.sleep(0.002)

    handler.act = act
    async with serving(socket_path, handler):
        commands = ["ADD", "DEL"] * 10
        await asyncio.gather(*(static_shim(environment_of(c, "one"), conf_of(socket_path)) for c in commands))
    assert [what for what, _ in handler.log[1::2]] == ["done"] * 20
    assert {what for what, _ in handler.log[::2]} == {"ADD", "DEL"}


async def test_a_killed_executable_leaves_a_finished_request(static_shim: Shim, socket_path: Path) -> None:
    handler = RecordingHandler()
    go = asyncio.Event()

    async def act(_request: Request) -> None:
        await go.wait()

    handler.act = act
    async with serving(socket_path, handler):
        async with static_shim.started(environment_of("ADD")) as process:
            assert process.stdin is not None
            process.stdin.write(conf_of(socket_path))
            process.stdin.close()
            await handler.until(1)
            process.kill()
            await process.wait()
        deleting = asyncio.create_task(static_shim(environment_of("DEL"), conf_of(socket_path)))
        go.set()
        assert (await deleting).status == 0
    assert [what for what, _ in handler.log] == ["ADD", "done", "DEL", "done"]


async def test_an_agent_that_stops_finishes_or_says_so(static_shim: Shim, socket_path: Path) -> None:
    handler = RecordingHandler()

    async def act(_request: Request) -> None:
        await asyncio.Event().wait()

    handler.act = act
    async with serving(socket_path, handler, ServerLimits(drain_seconds=0.01)) as server:
        asking = asyncio.create_task(static_shim(environment_of("ADD"), conf_of(socket_path)))
        await handler.until(1)
        server.stop()
        outcome = await asking
    assert (outcome.status, outcome.answer["code"]) == (1, 11)
    assert handler.log[-1] == ("undone", "a")
    again = await static_shim(environment_of("ADD"), conf_of(socket_path))
    assert json.loads(again.stdout)["code"] == 11
