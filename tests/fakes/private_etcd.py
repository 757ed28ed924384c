"""A private etcd, real: one process or a cluster on free loopback ports, with TLS and users where a test wants them.

`private_etcd()` starts a server and takes it away again, also on failure, by pid; a server dies with the test process
too. The methods do behind the program's back what an administrator or an accident would do; they speak to etcd's JSON
gateway, so that nothing of the program under test is involved.
"""

import base64
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fakes.certificates import Certificates

T = TypeVar("T")

DEADLINE = 30.0


def until(probe: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Call `probe` until it returns something true, and return that; AssertionError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        if found := probe():
            return found
        assert time.monotonic() < end, f"{what}: not within {deadline} s"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Login:
    username: str
    password: str


class PrivateEtcd:
    def __init__(
        self, folder: Path, name: str = "e0", *, tls: Certificates | None, options: Sequence[str]
    ) -> None:
        self.folder = folder
        self.name = name
        self.port, self.peer_port = free_port(), free_port()
        self.tls = tls
        self.options = list(options)
        self.cluster = f"{name}={self.peer}"
        self.state = "new"
        self.login: Login | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def peer(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def data(self) -> Path:
        return self.folder / f"{self.name}.data"

    def start(self, *, wait: bool = True) -> None:
        argv = ["setpriv", "--pdeathsig", "KILL", "etcd", "--name", self.name, "--data-dir", str(self.data)]
        argv += ["--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint]
        argv += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        argv += ["--initial-cluster", self.cluster, "--initial-cluster-state", self.state]
        argv += ["--logger", "zap", "--log-outputs", "stderr", "--log-level", "warn", *self.options]
        if self.tls is not None:
            argv += ["--cert-file", str(self.tls.server.cert), "--key-file", str(self.tls.server.key)]
            argv += ["--trusted-ca-file", str(self.tls.ca), "--client-cert-auth"]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if wait:
            until(self.healthy, f"etcd {self.endpoint} healthy")

    def kill(self, sign: int = signal.SIGKILL) -> None:
        """kill -9, or another signal; returns when the process is gone."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(sign)
            self.process.wait(DEADLINE)
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / f"{self.name}.log").read_text()[-2000:]
        try:
            self.call("kv/range", {"key": _b64("health")})
        except (OSError, AssertionError) as err:
            return "user name is empty" in str(err)
        return True

    def put(self, key: str, value: str | bytes) -> int:
        """Like etcdctl put; returns the revision."""
        answer = self.call("kv/put", {"key": _b64(key), "value": _b64(value)})
        return int(answer["header"]["revision"])

    def delete(self, key: str) -> None:
        self.call("kv/deleterange", {"key": _b64(key)})

    def compact(self, revision: int) -> None:
        self.call("kv/compaction", {"revision": str(revision), "physical": True})

    def get(self, key: str) -> bytes | None:
        kvs = self.call("kv/range", {"key": _b64(key)}).get("kvs", [])
        return base64.b64decode(kvs[0].get("value", "")) if kvs else None

    def enable_auth(self, password: str, prefix: str, *users: str) -> None:
        """Switch users on: root and `users`, all with this password; the users may read and write below `prefix`."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        self.call("auth/role/add", {"name": "root"})
        self.call("auth/role/add", {"name": "net"})
        grant = {"permType": "READWRITE", "key": _b64(prefix), "range_end": _b64(end)}
        self.call("auth/role/grant", {"name": "net", "perm": grant})
        for user in ("root", *users):
            self.call("auth/user/add", {"name": user, "password": password})
            self.call("auth/user/grant", {"user": user, "role": "root" if user == "root" else "net"})
        self.call("auth/enable", {})
        self.login = Login("root", password)

    def add_user(self, user: str, password: str, role: str | None = None) -> None:
        self.call("auth/user/add", {"name": user, "password": password})
        if role is not None:
            self.call("auth/user/grant", {"user": user, "role": role})

    def save(self, to: Path) -> None:
        """A snapshot, like etcdctl snapshot save."""
        with to.open("wb") as out:
            for line in self._open("maintenance/snapshot", {}).splitlines():
                out.write(base64.b64decode(json.loads(line)["result"].get("blob", "")))

    def restore(self, saved: Path) -> None:
        """Put the server, which is down, back to a snapshot (etcdctl snapshot restore)."""
        shutil.rmtree(self.data)
        argv = [
            "etcdctl",
            "snapshot",
            "restore",
            str(saved),
            "--name",
            self.name,
            "--data-dir",
            str(self.data),
        ]
        argv += ["--initial-cluster", self.cluster, "--initial-advertise-peer-urls", self.peer]
        subprocess.run(
            argv, check=True, env=os.environ | {"ETCDCTL_API": "3"}, capture_output=True, timeout=DEADLINE
        )

    def call(self, method: str, body: dict[str, object]) -> Any:
        text = self._open(method, body)
        return json.loads(text)

    def _open(self, method: str, body: dict[str, object]) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.login is not None and method != "auth/authenticate":
            login = {"name": self.login.username, "password": self.login.password}
            headers["Authorization"] = self.call("auth/authenticate", login)["token"]
        request = urllib.request.Request(
            f"{self.endpoint}/v3/{method}", json.dumps(body).encode(), headers=headers, method="POST"
        )
        context: ssl.SSLContext | None = None
        if self.tls is not None:
            context = ssl.create_default_context(cafile=self.tls.ca)
            context.load_cert_chain(self.tls.anonymous.cert, self.tls.anonymous.key)
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                done: bytes = answer.read()
                return done
        except urllib.error.HTTPError as err:
            raise AssertionError(f"{method}: {err.code} {err.read().decode()}") from err


@contextmanager
def private_etcd(*, tls: Certificates | None = None, options: Sequence[str] = ()) -> Iterator[PrivateEtcd]:
    """One server, running and healthy."""
    with private_cluster(1, tls=tls, options=options) as members:
        yield members[0]


@contextmanager
def private_cluster(
    size: int, *, tls: Certificates | None = None, options: Sequence[str] = ()
) -> Iterator[list[PrivateEtcd]]:
    """A cluster of `size` members, running and healthy. What was stopped may be started again with `start`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="k8s-ovs-etcd-")))
        members = [PrivateEtcd(folder, f"e{n}", tls=tls, options=options) for n in range(size)]
        for member in members:
            member.cluster = ",".join(f"{each.name}={each.peer}" for each in members)
            stack.callback(member.kill)
            member.start(wait=False)
        for member in members:
            until(member.healthy, f"etcd {member.endpoint} healthy")
        yield members


def _b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()
