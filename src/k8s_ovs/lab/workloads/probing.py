"""Probes of containers: asked as kubelet asks them, from the node's network, with the manifest's periods and thresholds.

Called by the pod worker, one task for each probe of each container that runs.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab import namespaces
from k8s_ovs.lab.workloads.spec import Container, Probe

_SAID = 400
"""Octets of an answer that are worth telling."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container can be asked: the node's network namespace and address, and how a command gets inside."""

    netns: Path
    address: str
    enter: Callable[[], Sequence[str] | None]
    environment: Mapping[str, str]


async def ask(probe: Probe, container: Container, target: Target) -> str:
    """Ask once: "" if all is well, else what came back."""
    try:
        async with asyncio.timeout(probe.timeout):
            if probe.http is not None:
                return await _http(probe, container, target)
            if probe.tcp is not None:
                return await _tcp(probe, container, target)
            return await _command(probe, target)
    except TimeoutError:
        return f"no answer within {probe.timeout:g} s"
    except OSError as err:
        return str(err)


def port_of(value: int | str, container: Container) -> int:
    """A port by number or by the name that the container gives it. Raises LabError."""
    if isinstance(value, int):
        return value
    for port in container.ports:
        if port.get("name") == value:
            return int(port["containerPort"])
    if value.isdecimal():
        return int(value)
    raise LabError(f"container {container.name} has no port named {value!r}")


async def _connect(host: str, port: int, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock

    sock = namespaces.inside(target.netns, make)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


async def _http(probe: Probe, container: Container, target: Target) -> str:
    raw = probe.http or {}
    if str(raw.get("scheme", "HTTP")).upper() != "HTTP":
        raise LabError(f"container {container.name}: probes over HTTPS are not known to the lab")
    host, port = str(raw.get("host") or target.address), port_of(raw["port"], container)
    reader, writer = await _connect(host, port, target)
    try:
        path = raw.get("path", "/")
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/1.32\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    if 200 <= status < 400:
        return ""
    return f"HTTP probe failed with statuscode: {status}: {body[:_SAID].decode(errors='replace').strip()}"


async def _tcp(probe: Probe, container: Container, target: Target) -> str:
    raw = probe.tcp or {}
    _, writer = await _connect(
        str(raw.get("host") or target.address), port_of(raw["port"], container), target
    )
    writer.close()
    return ""


async def _command(probe: Probe, target: Target) -> str:
    prefix = target.enter()
    if prefix is None:
        return "the container does not run"
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *(probe.command or ()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(target.environment),
    )
    try:
        out, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return (
        "" if process.returncode == 0 else out[:_SAID].decode(errors="replace").strip() or "exit status not 0"
    )


async def watch(probe: Probe, once: Callable[[], Awaitable[str]], tell: Callable[[bool, str], None]) -> None:
    """Ask without end, and tell each change that the thresholds make of the answers."""
    good = bad = 0
    await asyncio.sleep(probe.initial_delay)
    while True:
        said = await once()
        good, bad = (0, bad + 1) if said else (good + 1, 0)
        if good >= probe.successes:
            tell(True, "")
        elif bad >= probe.failures:
            tell(False, said)
            bad = 0
        await asyncio.sleep(probe.period)
