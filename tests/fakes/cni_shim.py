"""Builds the CNI executable from the present source and runs it as a container runtime does."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "src/k8s_ovs/cni/shim.c"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
DEADLINE = 20.0

Environment = dict[str, str]


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: bytes

    @property
    def answer(self) -> Any:
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Shim:
    """`path` of an executable; it is run with an environment that holds nothing but what is given."""

    path: Path

    async def __call__(self, environment: Environment, stdin: bytes) -> Outcome:
        async with self.started(environment) as process, asyncio.timeout(DEADLINE):
            stdout, stderr = await process.communicate(stdin)
        assert stderr == b"", stderr.decode(errors="replace")
        assert process.returncode is not None
        return Outcome(process.returncode, stdout)

    @asynccontextmanager
    async def started(self, environment: Environment) -> AsyncIterator[asyncio.subprocess.Process]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            self.path, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def build(path: Path, *options: str) -> Shim:
    subprocess.run(["cc", *STRICT, *options, "-o", path, SOURCE], check=True, timeout=120)
    return Shim(path)


def environment_of(command: str, sandbox: str = "a") -> Environment:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": sandbox,
        "CNI_NETNS": f"/netns/{sandbox}",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME={sandbox}",
        "CNI_PATH": "/opt/cni/bin",
        "HOME": "/root",
        "NOT_CNI_AT_ALL": "x",
    }


def conf_of(socket: Path, **changes: object) -> bytes:
    conf = {"cniVersion": "1.1.0", "name": "k8s-ovs", "type": "k8s-ovs", "socket": str(socket)}
    return json.dumps(conf | changes).encode()


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def agent(path: Path, peer: Peer) -> AsyncIterator[None]:
    """A stand-in for the agent: `peer` does with each connection what a test wants."""
    path.parent.mkdir(exist_ok=True)
    server = await asyncio.start_unix_server(peer, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
