"""Starts a unit's command as systemd would, where no systemd runs: environment, capabilities, system calls, notifications.

For the packages' tests. What a unit says is read from the file that is installed: a mistake in it fails a test.
"""

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CONFINE = Path(__file__).with_name("unit_confine.py")


@dataclass(frozen=True)
class Unit:
    """The settings of a unit's [Service] section, each with all its values."""

    name: str
    settings: Mapping[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> "Unit":
        """Raises AssertionError for a line that is no setting."""
        section, settings = "", dict[str, list[str]]()
        for line in path.read_text().splitlines():
            if not line or line[0] in "#;":
                continue
            if line[0] == "[":
                section = line
            elif section == "[Service]":
                assert "=" in line, line
                name, value = line.split("=", 1)
                settings.setdefault(name, []).append(value)
        return cls(path.name, settings)

    def one(self, name: str) -> str:
        """The value of a setting that stands once."""
        [value] = self.settings[name]
        return value

    def environment(self, root: Path) -> dict[str, str]:
        """What Environment= and, on top, the files of EnvironmentFile= below `root` say."""
        found = dict(value.split("=", 1) for value in self.settings.get("Environment", []))
        for name in self.settings.get("EnvironmentFile", []):
            lines = (root / name.lstrip("-").lstrip("/")).read_text().splitlines()
            found |= dict(line.split("=", 1) for line in lines if line and line[0] != "#")
        return found

    def commands(self, name: str, environment: Mapping[str, str]) -> list[list[str]]:
        """Command lines, variables filled in (systemd.service(5))."""

        def fill(word: str) -> str:
            return re.sub(r"\$(\$|\{(\w+)\})", lambda m: "$" if m[1] == "$" else environment[m[2]], word)

        return [[fill(word) for word in shlex.split(line)] for line in self.settings.get(name, [])]


@dataclass
class Service:
    """A unit's process, and what it has told."""

    process: "subprocess.Popen[bytes]"
    listener: socket.socket
    log: Path
    told: list[str] = field(default_factory=list)

    def wait_for(self, message: str, *, seconds: float = 60) -> None:
        """Until the process has sent this line to its NOTIFY_SOCKET."""
        deadline = time.monotonic() + seconds
        while message not in self.told:
            assert self.process.poll() is None, f"ended: {self.process.returncode}\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not told {message}, but {self.told}\n{self.log.read_text()}"
            self._listen(0.1)

    def stop(self) -> int:
        """SIGTERM, as for KillMode=mixed. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=10)
        self._listen(0)
        return status

    def _listen(self, seconds: float) -> None:
        while select.select([self.listener], [], [], seconds)[0]:
            self.told += self.listener.recv(4096).decode().splitlines()


@contextmanager
def started(unit: Unit, root: Path, netns: Path, scratch: Path) -> Iterator[Service]:
    """The unit as installed below `root`, in a node's network; killed at the end if it is not stopped before.

    What ExecStartPre= runs has `root`'s /usr over the machine's; ExecStart= is taken from `root`. Settings: `root`'s /etc.
    """
    environment = unit.environment(root)
    address = scratch / f"{unit.name}.notify"
    log = scratch / f"{unit.name}.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, log.open("wb") as output:
        listener.bind(str(address))
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        given = environment | {"PATH": path, "LANG": "C.UTF-8", "NOTIFY_SOCKET": str(address)}
        for command in unit.commands("ExecStartPre", environment):
            line = _confined(unit, netns, command, *_laid_over(root))
            subprocess.run(line, env=given, check=True, timeout=60, stdout=output, stderr=output)
        [command] = unit.commands("ExecStart", environment)
        # Of the machine's own mounts, as the unit's are: pods' namespaces are mounts, which come later.
        line = _confined(unit, netns, [str(root / command[0].lstrip("/")), *command[1:]])
        process = subprocess.Popen(line, env=given, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield Service(process, listener, log)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
            print(f"{unit.name}:\n{log.read_text()}")  # pytest shows it if the test fails


def _laid_over(root: Path) -> list[str]:
    """The step into mounts in which `root`'s /usr lies over the machine's."""
    return [
        "unshare",
        "-m",
        "--",
        "sh",
        "-c",
        f'mount -t overlay -o "lowerdir={root}/usr:/usr" overlay /usr && exec "$@"',
        "sh",
    ]


def _confined(unit: Unit, netns: Path, command: list[str], *before: str) -> list[str]:
    """Each step replaces itself by the next, so that the process is the command's own."""
    keep = [f"+{name.removeprefix('CAP_').lower()}" for name in unit.one("CapabilityBoundingSet").split()]
    return [
        *("nsenter", f"--net={netns}", "--"),
        *before,
        *("setpriv", "--inh-caps=-all", f"--bounding-set={','.join(['-all', *keep])}", "--"),
        *(sys.executable, "-IS", str(CONFINE), *_system_calls(unit), "--", *command),
    ]


def _system_calls(unit: Unit) -> list[str]:
    """The names that SystemCallFilter= leaves, as this machine's systemd knows its groups."""
    allowed = set[str]()
    for value in unit.settings.get("SystemCallFilter", []):
        names = _expanded(value.removeprefix("~").split())
        allowed = allowed - names if value.startswith("~") else allowed | names
    return sorted(allowed)


def _expanded(groups: list[str]) -> set[str]:
    found, todo = set[str](), list(groups)
    while todo:
        name = todo.pop()
        if not name.startswith("@"):
            found.add(name)
            continue
        printed = subprocess.run(
            ["systemd-analyze", "--no-pager", "syscall-filter", name],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env=dict(os.environ, LC_ALL="C"),
        ).stdout
        todo += [line.strip() for line in printed.splitlines()[1:] if line.strip() and "#" not in line]
    return found
