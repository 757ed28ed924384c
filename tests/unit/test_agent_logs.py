"""What the agent logs while it serves the CNI executable says which request, sandbox and pod it is about."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.agent import World, running
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.runtime.logs import LogSettings, setup_logging

NETNS = "/run/netns/a"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """All records, as JSON; the tests' own logging comes back afterwards."""
    loggers = (logging.getLogger(), logging.getLogger("k8s_ovs"))
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    lines = io.StringIO()
    setup_logging(LogSettings(verbosity=4, as_json=True), lines)
    yield lines
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def records(stream: io.StringIO, logger: str = "") -> list[dict[str, str]]:
    """Those of a logger, and the stream is empty."""
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    stream.seek(0)
    stream.truncate()
    return [record for record in found if record["logger"].startswith(logger)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.fill()
    world.links.namespaces.add(NETNS)
    return world


async def test_each_record_of_an_add_and_a_del_names_request_sandbox_and_pod(
    world: World, stream: io.StringIO
) -> None:
    async with running(world):
        await world.serving()
        assert all("pod" not in record for record in records(stream)), "nobody asked for a pod yet"
        requests = []
        for command in ("ADD", "DEL"):
            assert (await world.call(command, NETNS))[0] == 0
            inside = [
                one
                for one in records(stream)
                if one["logger"].startswith(("k8s_ovs.cni", "k8s_ovs.agent.pods"))
            ]
            assert f"CNI {command}" in [record["message"] for record in inside]
            assert {(one["sandbox"], one["pod"]) for one in inside} == {("sandbox", "web/a")}
            (request,) = {one["request"] for one in inside}
            requests.append(request)
    assert requests[0] != requests[1]


async def test_a_request_that_fails_is_named_as_well(world: World, stream: io.StringIO) -> None:
    async with running(world):
        await world.serving()
        records(stream)
        world.flows.fail_next("commit", OpenFlowError("refused"), times=1)
        assert (await world.call("ADD", NETNS))[0] == 1
        failed = [one for one in records(stream, "k8s_ovs.cni") if one["level"] == "warning"]
    assert [(one["sandbox"], one["pod"]) for one in failed] == [("sandbox", "web/a")]
    assert failed[0]["request"]
    assert "refused" in failed[0]["message"]


async def test_requests_side_by_side_do_not_mix(world: World, stream: io.StringIO) -> None:
    async with running(world):
        await world.serving()
        records(stream)
        await asyncio.gather(world.call("STATUS"), world.call("ADD", NETNS), world.call("CHECK", NETNS))
        said = records(stream, "k8s_ovs.cni.server")
    by_request = {one["request"] for one in said}
    assert len(by_request) == 3
    assert {one["message"]: one.get("pod") for one in said if one["level"] == "debug"}["CNI ADD"] == "web/a"
