"""The lab's embedded Kubernetes API as a private process, the kubectl to use with it, and waiting for a condition.

`KubeApi` starts `python -m k8s_ovs.lab.kubeapi` on a free loopback port, can kill and restart it on the same port and
journal, and ends it by pid. `kubectl` runs the real client with a home of its own, so that nobody's cache is used.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

OLDEST_KUBECTL = (1, 32)
REPOSITORY = Path(__file__).resolve().parent.parent.parent


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for a condition within this process's event loop; AssertionError when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.005)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Wait for a condition of another process; the answer is its first true value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return found


@cache
def kubectl_path() -> str:
    """kubectl 1.32 or newer: from the PATH, else the one that tools/get-kubectl.py has put into build/bin."""
    tool = REPOSITORY / "tools" / "get-kubectl.py"
    done = subprocess.run([sys.executable, str(tool)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class KubeApi:
    """One server process; `options` are more command-line arguments."""

    def __init__(self, folder: Path, *options: str, scheme: str = "http", inherit: bool = False) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.options = options
        self.scheme = scheme
        self.log = folder / "kubeapi.log"
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64) if inherit else None
        self.port = self.listener.getsockname()[1] if self.listener else 0
        self.process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, on the same port as before, and wait until it says that it listens."""
        # It dies with the thread that starts it, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "k8s_ovs.lab.kubeapi"]
        command += ["--journal", str(self.journal), *self.options]
        pass_fds: tuple[int, ...] = ()
        if self.listener:
            pass_fds = (self.listener.fileno(),)
            command += ["--fd", str(self.listener.fileno())]
        else:
            command += ["--listen", f"127.0.0.1:{self.port}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, pass_fds=pass_fds
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the API server did not start:\n{self.log.read_text()}"
        self.port = int(json.loads(line)["listen"][0].rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End the process by a signal; the answer is how many seconds that took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return time.monotonic() - began

    def close(self) -> None:
        """Leave nothing running."""
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)
        if self.listener is not None:
            self.listener.close()

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """One request; the answer is the decoded body. HTTPError for error statuses."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers={"Content-Type": kind}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def fault(self, **fault: Any) -> Any:
        """Add a fault."""
        return self.call("POST", "/lab/faults", fault)

    def command(self, *arguments: str) -> list[str]:
        """A kubectl command line for this server."""
        return [kubectl_path(), f"--server={self.url}", *arguments]

    def environment(self) -> dict[str, str]:
        """For kubectl: its own home, nobody's kubeconfig."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
        return {**kept, "HOME": str(home), "KUBECONFIG": str(home / "none")}

    def kubectl(
        self, *arguments: str, stdin: str = "", timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end, whatever its exit status."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self.environment(),
        )

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl; its output. AssertionError with its errors when it fails."""
        done = self.kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl, which must fail; what it says."""
        done = self.kubectl(*arguments, stdin=stdin)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)} succeeded: {done.stdout}"
        return done.stderr
