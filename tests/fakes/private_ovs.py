"""A private Open vSwitch in a network namespace of its own: ovsdb-server, ovs-vswitchd, userspace datapath.

For every test that needs the real switch. `private_ovs()` starts one and takes everything away again, also on
failure: the daemons by pid, the namespace by name, the folder. The host's own Open vSwitch is never touched.

    @pytest.fixture
    def ovs() -> Iterator[PrivateOvs]:
        with private_ovs() as switch:
            yield switch

`rundir` holds `db.sock` and, once a bridge `br0` exists, `br0.mgmt`: what the agent expects to find there.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 20.0
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


def until(probe: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Call `probe` until it returns something true, and return that; AssertionError after `deadline` s."""
    end = time.monotonic() + deadline
    while True:
        if found := probe():
            return found
        assert time.monotonic() < end, f"{what}: not within {deadline} s"
        time.sleep(0.01)


def run(*argv: str, stdin: str | None = None) -> str:
    """Run a command and return its stdout; AssertionError with its stderr when it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def unique(prefix: str) -> str:
    """A name that no parallel test run uses: for namespaces and interfaces (7 characters of prefix fit)."""
    return f"{prefix}{os.getpid() % 65536:04x}{secrets.token_hex(2)}"


@contextmanager
def network_namespace(prefix: str = "k8t") -> Iterator[str]:
    """A fresh network namespace with `lo` up; yields its name (as in `ip netns`)."""
    name = unique(prefix)
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


def netns_path(name: str) -> str:
    """The file that stands for the namespace `name`, as a container runtime would hand it to CNI."""
    return f"/run/netns/{name}"


class PrivateOvs:
    """One ovsdb-server and one ovs-vswitchd, each of which a test may kill and start again."""

    def __init__(self, netns: str, rundir: Path) -> None:
        self.netns = netns
        self.rundir = rundir
        self.ovsdb: subprocess.Popen[bytes] | None = None
        self.vswitchd: subprocess.Popen[bytes] | None = None

    @property
    def remote(self) -> str:
        """The address of the database for ovs-vsctl and friends."""
        return f"unix:{self.rundir}/db.sock"

    @property
    def env(self) -> dict[str, str]:
        """The environment that points the tools and daemons of Open vSwitch at this instance."""
        folder = str(self.rundir)
        here = {f"OVS_{name}DIR": folder for name in ("RUN", "DB", "LOG", "SYSCONF")}
        return {**os.environ, **here}

    def start_ovsdb(self) -> None:
        """Start ovsdb-server on the database file (made when there is none) and wait for its socket."""
        database = self.rundir / "conf.db"
        if not database.exists():
            run("ovsdb-tool", "create", str(database), str(SCHEMA))
        sock = self.rundir / "db.sock"
        sock.unlink(missing_ok=True)
        self.ovsdb = self._spawn("ovsdb-server", str(database), f"--remote=punix:{sock}")
        until(sock.exists, "ovsdb-server's db.sock")

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd and wait until it has taken the configuration."""
        self.vswitchd = self._spawn("ovs-vswitchd", self.remote)
        self.vsctl("--timeout=15", "init")

    def kill_ovsdb(self) -> None:
        """kill -9 of ovsdb-server."""
        _kill(self.ovsdb)
        self.ovsdb = None

    def kill_vswitchd(self) -> None:
        """kill -9 of ovs-vswitchd."""
        _kill(self.vswitchd)
        self.vswitchd = None

    def stop(self) -> None:
        """End both daemons: vswitchd first, with SIGTERM, so that it takes its devices away."""
        for daemon in (self.vswitchd, self.ovsdb):
            if daemon is not None:
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(DEADLINE)
                except subprocess.TimeoutExpired:
                    _kill(daemon)
        self.ovsdb = self.vswitchd = None

    def exec(self, *argv: str, stdin: str | None = None) -> str:
        """Run a command inside the namespace; its stdout."""
        return run("nsenter", f"--net={netns_path(self.netns)}", *argv, stdin=stdin)

    def vsctl(self, *argv: str) -> str:
        """ovs-vsctl against this instance; its stdout."""
        return run("ovs-vsctl", f"--db={self.remote}", *argv).strip()

    def ofctl(self, *argv: str, stdin: str | None = None) -> str:
        """ovs-ofctl with OpenFlow 1.5; name the target as `unix:RUNDIR/br0.mgmt` (see `mgmt`)."""
        return run("ovs-ofctl", "-O", "OpenFlow15", *argv, stdin=stdin)

    def appctl(self, *argv: str, daemon: str = "ovs-vswitchd") -> str:
        """ovs-appctl against a daemon, as in `appctl("ofproto/trace", "br0", "in_port=1")`; its stdout."""
        return run("ovs-appctl", "-t", f"{self.rundir}/{daemon}.ctl", *argv)

    def mgmt(self, bridge: str = "br0") -> str:
        """The OpenFlow target of a bridge."""
        return f"unix:{self.rundir}/{bridge}.mgmt"

    def _spawn(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        log, pid = self.rundir / f"{program}.log", self.rundir / f"{program}.pid"
        pid.unlink(missing_ok=True)
        control = self.rundir / f"{program}.ctl"
        common = (
            f"--log-file={log}",
            "-vconsole:off",
            "-vsyslog:off",
            f"--pidfile={pid}",
            f"--unixctl={control}",
        )
        argv = ("nsenter", f"--net={netns_path(self.netns)}", program, *arguments, *common)
        return subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(daemon: "subprocess.Popen[bytes] | None") -> None:
    assert daemon is not None, "the daemon does not run"
    daemon.kill()
    daemon.wait(DEADLINE)


@contextmanager
def private_ovs() -> Iterator[PrivateOvs]:
    """A running private switch without bridges. Everything of it is gone when the block ends."""
    with network_namespace("k8o") as netns:
        rundir = Path(tempfile.mkdtemp(prefix="k8s-ovs-test-"))
        switch = PrivateOvs(netns, rundir)
        try:
            switch.start_ovsdb()
            switch.start_vswitchd()
            yield switch
        finally:
            switch.stop()
            shutil.rmtree(rundir)
