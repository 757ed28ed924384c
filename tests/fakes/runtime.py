"""A container runtime beside the lab's kubelet: it executes the real CNI plugin of one node.

For end-to-end tests that want what kubelet never does: hundreds of calls at once, wrong ones, repeated ones.
"""

import asyncio
import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.labs import Lab

Environment = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """Exit status of the plugin and the object on its stdout ({} if it printed nothing)."""

    status: int
    object: dict[str, Any]

    @property
    def code(self) -> int:
        """The CNI error code, 0 for success."""
        return int(self.object["code"]) if self.status else 0

    @property
    def text(self) -> str:
        """What people read: message and remedy."""
        return f"{self.object['msg']}: {self.object.get('details', '')}" if self.status else ""


@dataclass
class Runtime:
    """Plays the container runtime on one node: sandboxes with a network namespace each."""

    lab: Lab
    conf: dict[str, Any]
    shim: Path
    sandboxes: dict[str, str] = field(default_factory=dict)

    def sandbox(self) -> str:
        """A new sandbox with a network namespace."""
        sandbox = secrets.token_hex(16)
        netns = f"{self.lab.name}-{sandbox[:10]}"
        subprocess.run(["ip", "netns", "add", netns], check=True)
        self.sandboxes[sandbox] = netns
        return sandbox

    def remove(self, sandbox: str) -> None:
        """Remove the sandbox's network namespace, as the runtime does after DEL."""
        subprocess.run(["ip", "netns", "del", self.sandboxes.pop(sandbox)], check=True)

    def flush(self, sandbox: str) -> None:
        """Somebody takes the pod's address away."""
        subprocess.run(["ip", "-n", self.sandboxes[sandbox], "addr", "flush", "dev", "eth0"], check=True)

    def environment(self, command: str, sandbox: str, namespace: str = "default") -> Environment:
        """The variables of a call as they should be."""
        netns = self.sandboxes.get(sandbox)
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox,
            "CNI_NETNS": f"/run/netns/{netns}" if netns else "",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.shim.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=p{sandbox[:8]};"
            f"K8S_POD_INFRA_CONTAINER_ID={sandbox};K8S_POD_UID={sandbox}",
        }

    async def execute(self, environment: Environment, stdin: bytes) -> Answer:
        """Execute the plugin with exactly this."""
        process = await asyncio.create_subprocess_exec(
            str(self.shim), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        out, _ = await process.communicate(stdin)
        return Answer(process.returncode or 0, json.loads(out) if out.strip() else {})

    async def ask(self, command: str, sandbox: str = "", namespace: str = "default", **conf: Any) -> Answer:
        """A call as a runtime makes it; `conf` comes on top of the conflist's configuration."""
        environment = self.environment(command, sandbox, namespace)
        return await self.execute(environment, json.dumps(self.conf | conf).encode())

    async def call(self, command: str, sandbox: str, **conf: Any) -> tuple[int, dict[str, Any]]:
        """The same: exit status and the object on its stdout."""
        answer = await self.ask(command, sandbox, **conf)
        return answer.status, answer.object

    async def insist(self, command: str, sandbox: str) -> dict[str, Any]:
        """Call until it succeeds, as kubelet does; only "try again later" may come between."""
        deadline = asyncio.get_running_loop().time() + 60
        while True:
            status, answer = await self.call(command, sandbox)
            if status == 0:
                return answer
            assert answer["code"] == 11, answer
            assert asyncio.get_running_loop().time() < deadline, answer
            await asyncio.sleep(0.05)


@contextmanager
def runtime_on(lab: Lab, node: str) -> Iterator[Runtime]:
    """A runtime on `node`, which must be ready; its sandboxes are removed afterwards."""
    directory = lab.directory(node)
    conflist = json.loads((directory / "net.d" / "80-k8s-ovs.conflist").read_text())
    conf = conflist["plugins"][0] | {"name": conflist["name"], "cniVersion": max(conflist["cniVersions"])}
    runtime = Runtime(lab, conf, directory.parent.parent / "cni-bin" / "k8s-ovs")
    try:
        yield runtime
    finally:
        for sandbox in list(runtime.sandboxes):
            runtime.remove(sandbox)


def address(result: dict[str, Any]) -> str:
    """The address in the result of ADD, with its prefix length."""
    return str(result["ips"][0]["address"])
