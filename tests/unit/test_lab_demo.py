"""The demo fails when the network does not do what its story says. That it succeeds is an end-to-end test."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner

from fakes.lab_cluster import cluster
from k8s_ovs.cli.lab import lab
from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab import demo, demo_tenants, demo_traffic, hostcheck, lifecycle
from k8s_ovs.lab.demo_stage import Shell, Stage
from k8s_ovs.lab.demo_tenants import Story
from k8s_ovs.lab.matrix import End, Finding, Matrix
from k8s_ovs.lab.matrixtext import plain
from k8s_ovs.lab.probes import Protocol, Target
from k8s_ovs.model import tenancy
from k8s_ovs.model.types import Vni

LOOPBACK = "127.0.0.1"
T = TypeVar("T")


def stage() -> tuple[Stage, list[str]]:
    said: list[str] = []
    return Stage(said.append, plain), said


def end(title: str) -> End:
    return End(title, tenancy.pod(Vni(10), title), Path(), Target("192.0.2.1", 80), title)


def measured(*reached: tuple[str, str]) -> Matrix:
    """Pods of red, blue and green; who reaches whom beside those of the own Namespace. The oracle agrees with all of it."""
    ends = tuple(end(f"{tenant}/{name}") for tenant in demo_tenants.TENANTS for name in ("web1", "web2"))
    findings = []
    for source in ends:
        for destination in ends:
            if source is not destination:
                pair = (source.title.split("/")[0], destination.title.split("/")[0])
                passed = pair[0] == pair[1] or pair in reached
                findings.append(
                    Finding(source.title, destination.title, Protocol.TCP, passed, passed, "said so")
                )
    return Matrix(Mode.MULTITENANT, ends, tuple(findings))


JOINED = Story(joined=(frozenset(("red", "blue")),))


@pytest.mark.parametrize(
    ("story", "reached", "right"),
    [
        (Story(), (), True),
        (Story(), (("red", "blue"),), False),
        (JOINED, (("red", "blue"), ("blue", "red")), True),
        (JOINED, (("red", "blue"),), False),
        (JOINED, (), False),
        (Story(everywhere=frozenset(("green",))), (), False),
    ],
)
def test_what_packets_do_is_compared_with_the_story_also_where_the_oracle_agrees(
    story: Story, reached: tuple[tuple[str, str], ...], right: bool
) -> None:
    where, said = stage()
    demo_tenants.judge(where, measured(*reached), story)
    assert bool(where.failures) is not right
    assert ("NOT AS IT SHOULD BE" in said[-1]) is not right


def test_a_namespace_of_which_only_some_pods_are_reached_is_shown_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(("red", "blue"), ("blue", "red"))
    findings = tuple(
        replace(f, reached=False) if f.source.startswith("red/") and f.destination == "blue/web2" else f
        for f in whole.findings
    )

    async def measure(_: object) -> Matrix:
        return replace(whole, findings=findings)

    monkeypatch.setattr(demo_tenants.matrix, "measure", measure)
    where, said = stage()
    asyncio.run(demo_tenants.show_reach(Shell(cluster(), where), JOINED))
    rows = [line.split() for line in said]
    assert ["red", "yes", "in", "part", "no"] in rows
    assert ["blue", "yes", "yes", "no"] in rows
    assert len(where.failures) == 1


def test_the_exit_status_tells_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(base: Path, mode: Mode, where: Stage) -> None:
        where.found("the answer", "41", right=mode is not Mode.SUBNET)

    monkeypatch.setattr(demo, "_act", act)
    monkeypatch.setattr(hostcheck, "check_root", lambda: None)
    done = CliRunner().invoke(lab, ["demo"])
    assert done.exit_code == 1
    assert "NOT AS IT SHOULD BE: the answer: 41" in done.output


def test_the_lab_is_removed_when_a_part_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []

    async def breaks(_: Shell) -> None:
        raise LabError("broken")

    monkeypatch.setattr(lifecycle, "up", lambda options, say: cluster())
    monkeypatch.setattr(lifecycle, "remove", removed.append)
    monkeypatch.setattr(demo, "_multitenant", breaks)
    with pytest.raises(LabError, match="broken"):
        demo.run(Path("/nowhere"), stage()[0])
    assert removed == [cluster()]


def test_what_is_left_of_a_lab_is_found(tmp_path: Path) -> None:
    there = replace(cluster(), directory=tmp_path / "lab")
    assert demo.leftovers(there) == []
    there.directory.mkdir()
    assert demo.leftovers(there) == [f"the directory {there.directory}"]


async def test_a_command_is_shown_as_typed_with_what_it_printed() -> None:
    where, said = stage()
    assert await Shell(cluster(), where).run("printf", "%s\\n", "one two", "three") == "one two\nthree\n"
    assert said == ["   $ printf '%s\\n' 'one two' three", "   one two", "   three"]
    with pytest.raises(LabError, match="ended with 1"):
        await Shell(cluster(), where).run("false")
    with pytest.raises(LabError, match="no-such-program is missing"):
        await Shell(cluster(), where).run("no-such-program")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sockets are made in our own namespace: entering it would need root."""

    def inside(_: Path, work: Callable[[], T]) -> T:
        return work()

    monkeypatch.setattr(demo_traffic.namespaces, "inside", inside)
    return Path("/proc/self/ns/net")


async def test_datagrams_that_are_not_answered_are_lost(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_traffic, "_LAST_ANSWER", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((LOOPBACK, 0))
        server.setblocking(False)
        loop = asyncio.get_running_loop()

        async def answer_all_but_the_third() -> None:
            count = 0
            while True:
                data, peer = await loop.sock_recvfrom(server, 64)
                count += 1
                if count != 3:
                    await loop.sock_sendto(server, data, peer)

        answering = asyncio.create_task(answer_all_but_the_third())
        async with demo_traffic.datagrams(here, LOOPBACK, server.getsockname()[1]) as counted:
            while counted.sent < 10:
                await asyncio.sleep(0)
        answering.cancel()
    assert counted.sent >= 10
    assert counted.lost == 1


async def test_a_stream_tells_what_arrives(here: Path) -> None:
    async with demo_traffic.stream(here, here, LOOPBACK) as flowing:
        assert await flowing.rate(0.1) > 0


async def test_a_stream_to_nowhere_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_traffic, "_CONNECT_SECONDS", 0.1)
    with pytest.raises(LabError, match=r"no TCP connection to 192\.0\.2\.1"):
        async with demo_traffic.stream(here, here, "192.0.2.1"):
            pytest.fail("it connected")
