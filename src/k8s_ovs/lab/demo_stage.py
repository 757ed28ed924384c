"""The demo's stage: where it prints, what it was told to expect and did not get, and the commands that it runs.

Used by the parts of the demo. A command is shown as an administrator would type it, and is run exactly so; what it
printed is shown unchanged. It decides nothing about the network.
"""

import asyncio
import os
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from k8s_ovs.errors import LabError
from k8s_ovs.lab import commands, places
from k8s_ovs.lab.cluster import DEFAULT_BASE, Cluster
from k8s_ovs.lab.matrixtext import Paint

_COMMAND_SECONDS = 90.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo prints, and how it colours; `failures` is what was not as it should be."""

    say: Say
    paint: Paint
    failures: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        """A new part of the story."""
        self.say("")
        self.say(self.paint(f"── {text}", "cyan"))

    def lines(self, lines: Iterable[str]) -> None:
        """Lines of text, indented."""
        for line in lines:
            self.say(f"   {line}" if line else "")

    def found(self, what: str, verdict: str, *, right: bool) -> None:
        """One thing that was measured, and whether it is as it should be."""
        if right:
            self.say(f"   {what}: {self.paint(verdict, 'green')}")
        else:
            self.failures.append(f"{what}: {verdict}")
            self.say(f"   {what}: {self.paint(f'{verdict} - NOT AS IT SHOULD BE', 'red')}")


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell of an administrator of the lab, as after `eval "$(k8s-ovs lab env)"`."""

    cluster: Cluster
    stage: Stage

    async def run(self, *words: str, quiet: bool = False, stdin: str = "") -> str:
        """Show the command, run it, show what it printed, and return that. `quiet` shows neither.

        The word `k8s-ovs` means this very installation. Raises LabError if the command fails.
        """
        argv = commands.product(*words[1:]) if words[0] == "k8s-ovs" else words
        if words[:2] == ("k8s-ovs", "lab") and self.cluster.directory.parent != DEFAULT_BASE:
            argv += (f"--state-dir={self.cluster.directory.parent}",)
        if not quiet:
            self.stage.say(f"   $ {shlex.join(words)}")
        environment = self._environment()
        if shutil.which(argv[0], path=environment["PATH"]) is None:
            raise LabError(f"{argv[0]} is missing on this machine", remedy=_REMEDIES.get(argv[0], ""))
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                out, err = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode != 0:
            raise LabError(f"`{shlex.join(words)}` ended with {process.returncode}: {err.decode().strip()}")
        text = out.decode()
        if not quiet:
            self.stage.lines(line.rstrip() for line in text.splitlines())
        return text

    def _environment(self) -> dict[str, str]:
        path = ":".join([*map(str, places.program_directories()), os.environ.get("PATH", os.defpath)])
        return {**os.environ, **places.shell_environment(self.cluster), "PATH": path}


_REMEDIES = {"kubectl": "`make kubectl` fetches one", "etcdctl": "apt-get install etcd-client"}
