"""Processes of our own programs, for tests that kill them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Daemon:
    """A running Python process, with its log (stdout and stderr)."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(20)

    @property
    def running(self) -> bool:
        return self.process.poll() is None


@dataclass
class Launcher:
    """Starts Python with the test's own import path; `folder` holds the logs."""

    folder: Path
    started: list[Daemon] = field(default_factory=list)

    def __call__(self, *arguments: str, **environment: str) -> Daemon:
        """The process dies with the test process, however that ends."""
        log = self.folder / f"daemon{len(self.started)}.log"
        argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, *arguments]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        with log.open("wb") as out:
            process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
        self.started.append(Daemon(process, log))
        return self.started[-1]


@contextmanager
def launcher(folder: Path) -> Iterator[Launcher]:
    """Ends by pid whatever is still running."""
    starting = Launcher(folder)
    try:
        yield starting
    finally:
        for daemon in starting.started:
            if daemon.running:
                daemon.end()
