"""How a daemon ends: each case is a process of its own, as signals and exit codes are a process's."""

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEADER = """
import asyncio, sys, threading, time
from k8s_ovs.errors import ConfigError, EtcdDenied
from k8s_ovs.runtime.logs import LogSettings, setup_logging
from k8s_ovs.runtime.main import run_daemon
from k8s_ovs.runtime.notify import Notifier
setup_logging(LogSettings())
def started():
    print("started", flush=True)
"""
FOOTER = """
sys.exit(run_daemon(main, notifier=Notifier.from_environment()))
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a daemon whose main is given as text; wait for its first line if it says one."""
    processes: list[subprocess.Popen[str]] = []

    def run(body: str, **environment: str) -> subprocess.Popen[str]:
        code = HEADER + textwrap.dedent(body) + FOOTER
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        processes.append(process)
        if "started()" in body:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 30)[0]
            assert process.stdout.readline() == "started\n"
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, float]:
    """Send a signal: exit code, stderr and seconds until the end."""
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    return process.returncode, err, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_and_the_exit_code_is_zero(start: Start, number: int) -> None:
    process = start("""
        async def main():
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(3600))
                    started()
            finally:
                await asyncio.sleep(0)
                print("cleaned", flush=True)
    """)
    code, err, _ = stop(process, number)
    assert (code, "stopping" in err) == (0, True)
    assert "Traceback" not in err


def test_one_that_will_not_end_is_ended_within_a_second_and_named(start: Start) -> None:
    process = start("""
        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(stubborn(), name="the stubborn one")
                started()
    """)
    code, err, seconds = stop(process)
    assert (code, "the stubborn one" in err) == (1, True)
    assert seconds < 1.5  # one second is the promise; the rest is for a busy machine


def test_a_thread_that_hangs_does_not_hold_up_the_end(start: Start) -> None:
    process = start("""
        async def main():
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
            started()
            await asyncio.sleep(3600)
    """)
    code, err, seconds = stop(process)
    assert (code, "thread asyncio_0" in err) == (1, True)
    assert seconds < 1.5


def test_a_main_that_returns_ends_with_zero(start: Start) -> None:
    process = start("""
        async def main():
            pass
    """)
    assert process.wait(20) == 0


def test_wrong_configuration_is_one_sentence_and_exit_code_two(start: Start) -> None:
    process = start("""
        async def main():
            async with asyncio.TaskGroup():
                raise ConfigError("Network is a /7", remedy="use a /8 to a /30")
    """)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (2, "k8s-ovs: Network is a /7: use a /8 to a /30\n")


def test_an_error_raised_on_purpose_is_logged_without_a_traceback(start: Start) -> None:
    process = start("""
        async def main():
            raise EtcdDenied("etcd refused the certificate", remedy="see --etcd-cafile")
    """)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ended by etcd refused the certificate: see --etcd-cafile" in err
    assert "Traceback" not in err


def test_a_bug_is_logged_with_its_traceback(start: Start) -> None:
    process = start("""
        async def helper():
            raise ValueError("a bug")
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(helper())
                await asyncio.sleep(3600)
    """)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ended by ValueError('a bug')" in err
    assert "in helper" in err


def test_a_bug_beside_wrong_configuration_is_not_taken_for_it(start: Start) -> None:
    process = start("""
        async def main():
            raise ExceptionGroup("both", [ConfigError("wrong"), ValueError("a bug")])
    """)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "a bug" in err
    assert "wrong" in err


def test_a_failure_while_stopping_is_told(start: Start) -> None:
    process = start("""
        async def main():
            try:
                started()
                await asyncio.sleep(3600)
            finally:
                raise OSError("cannot remove the socket")
    """)
    code, err, _ = stop(process)
    assert (code, "cannot remove the socket" in err) == (1, True)


def test_the_service_manager_hears_of_the_end(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        process = start(
            """
            async def main():
                started()
                await asyncio.sleep(3600)
            """,
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        )
        assert stop(process)[0] == 0
        assert manager.recv(1000) == b"STOPPING=1\nSTATUS=stopping (SIGTERM)"
