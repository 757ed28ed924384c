"""A lab's beginning and end, and what is added in between: `up`, `add_host` and `down`.

Called by `cli.lab` and the demo. `up` writes lab.json, starts the supervisor and follows it until the lab is ready;
whatever goes wrong on the way, it calls `down`. `down` needs only the lab's directory and leaves nothing, whether the
lab is whole, half built, or its supervisor was killed.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab import commands, hostcheck, labfile, namespaces, realkube, shim
from k8s_ovs.lab.cluster import (
    DEFAULT_BASE,
    METRICS_PORT,
    OUTSIDE_CANDIDATES,
    POD_CANDIDATES,
    SERVICE_CANDIDATES,
    UNDERLAY_CANDIDATES,
    Cluster,
    ExternalHost,
    Networks,
    Node,
    check_name,
    pick,
)
from k8s_ovs.lab.forward import free_ports
from k8s_ovs.lab.processes import log_tail
from k8s_ovs.lab.processid import ProcessId
from k8s_ovs.lab.state import LAB_FILE, READY, LabState, Phase, replace_file
from k8s_ovs.lab.wait import http_ok, until
from k8s_ovs.lab.workloads import manifests

_STARTER = "starter.pid"
_LOCK = "lab.lock"
_ERROR = "error: "
_STOP_SECONDS = 5.0
_HOST_SECONDS = 60.0
_NO_AUTHORITIES = {"SSL_CERT_FILE": os.devnull}
"""A lab's processes trust no authority but the lab's own. Python's HTTP client reads those of the host twice when it is
imported, all hundred and more: 0.08 s of each start (aiohttp/connector.py, openssl-env(7))."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose; None means the default that collides with nothing."""

    name: str
    base: Path = DEFAULT_BASE
    nodes: int = 3
    mode: Mode = Mode.MULTITENANT
    pods: IPv4Network | None = None
    services: IPv4Network | None = None
    underlay: IPv4Network | None = None
    host_bits: int = 10
    controllers: int = 2
    bare: bool = False
    shim: Path | None = None
    kube_bin: Path | None = None
    manifests: Path | None = None
    token_seconds: int = 3607


def plan(options: Options) -> Cluster:
    """The cluster that follows from the options on this machine. Raises LabError."""
    taken = hostcheck.networks_in_use()
    given = [network for network in (options.pods, options.services, options.underlay) if network is not None]
    chosen = list(given)

    def choose(what: str, network: IPv4Network | None, candidates: tuple[str, ...]) -> IPv4Network:
        if network is None:
            network = pick(what, candidates, [*taken, *chosen])
            chosen.append(network)
        return network

    etcd_port, api_port = free_ports(2)
    cluster = Cluster(
        name=check_name(options.name),
        directory=options.base / options.name,
        node_count=options.nodes,
        mode=options.mode,
        networks=Networks(
            pods=choose("pod network", options.pods, POD_CANDIDATES),
            services=choose("Service network", options.services, SERVICE_CANDIDATES),
            underlay=choose("underlay", options.underlay, UNDERLAY_CANDIDATES),
            outside=choose("outside network", None, OUTSIDE_CANDIDATES),
        ),
        host_bits=options.host_bits,
        loopback_etcd=etcd_port,
        loopback_api=api_port,
        controllers=options.controllers,
        bare=options.bare,
        shim=options.shim,
        portmap=hostcheck.find_portmap(),
        kube_bin=None if options.manifests else realkube.find(options.kube_bin, os.environ),
        manifests=options.manifests,
        token_seconds=options.token_seconds,
        etcd_pod_port=manifests.etcd_port(options.manifests) if options.manifests else None,
    )
    cluster.check()
    return cluster


def up(options: Options, say: Say) -> Cluster:
    """Start a lab and return when it is ready. Raises LabError; then, and on Ctrl-C, nothing is left of it."""
    hostcheck.check_root()
    hostcheck.check_programs()
    cluster = plan(options)
    _claim(cluster, say)
    try:
        for directory in (cluster.logs, cluster.pods_dir, cluster.netns("x").parent):
            directory.mkdir()
        shim.install(cluster)
        if cluster.manifests is not None:
            objects = manifests.load(cluster.manifests)
            manifests.check(objects)
            replace_file(cluster.manifests_file, manifests.dump(objects))
            namespaces.share(cluster.netns("x").parent)
        replace_file(cluster.directory / LAB_FILE, labfile.to_json(cluster))
        _start_supervisor(cluster, say)
        (cluster.directory / _STARTER).unlink()
    except BaseException:
        remove(cluster)
        raise
    return cluster


def add_host(cluster: Cluster, host: ExternalHost, *, register: bool = True) -> Node:
    """Add an external host to a running lab, and return when it serves. Raises LabError.

    It is registered as an administrator does it, with `k8s-ovs subnet assign`; with `register` False it is not, and
    waits for that.
    """
    hostcheck.check_root()
    with _only_one_writes(cluster.directory):
        current = labfile.from_json((cluster.directory / LAB_FILE).read_text())
        state = LabState.read(cluster.directory)
        if state is None or state.phase is not Phase.READY:
            raise LabError(f"lab {cluster.name!r} is not ready", remedy="see `k8s-ovs lab status`")
        if state.hosts.get(host.name):
            raise LabError(f"host {host.name} could not be built before", remedy="choose another name")
        grown = current.with_host(host)
        added = grown.node(host.name)
        if register and not cluster.bare:
            _register(grown, added)
        replace_file(cluster.directory / LAB_FILE, labfile.to_json(grown))
        try:
            _await_host(grown, added, state, serving=register and not cluster.bare)
        except LabError:
            now = LabState.read(cluster.directory)
            if now is None or now.hosts.get(host.name) != "":  # it was not built
                replace_file(cluster.directory / LAB_FILE, labfile.to_json(current))
            raise
    return added


def _register(cluster: Cluster, host: Node) -> None:
    done = subprocess.run(
        commands.assign_subnet(cluster, host),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **commands.operator_environment(cluster)},
    )
    if done.returncode != 0:
        raise LabError(f"host {host.name} cannot be registered: {done.stderr.strip()}")


def _await_host(cluster: Cluster, host: Node, state: LabState, *, serving: bool) -> None:
    """Have the supervisor build the host, and wait for it. Raises LabError."""
    state.supervisor.signal(signal.SIGHUP)

    async def built() -> bool:
        now = LabState.read(cluster.directory)
        if now is None or now.phase is not Phase.READY:
            raise LabError(f"lab {cluster.name!r} went down meanwhile")
        if now.hosts.get(host.name):
            raise LabError(f"host {host.name} cannot be built: {now.hosts[host.name]}")
        if host.name not in now.hosts:
            return False
        return not serving or await http_ok(METRICS_PORT, "/readyz", netns=host.netns)

    if not asyncio.run(until(built, _HOST_SECONDS)):
        log = log_tail(cluster.logs / f"{host.name}-agent.log")
        raise LabError(f"waited {_HOST_SECONDS:.0f} s for host {host.name} to serve:\n{log}")


@contextlib.contextmanager
def _only_one_writes(directory: Path) -> Iterator[None]:
    """Two that add hosts at once would lose one of them: lab.json is read and written under a lock (flock(2))."""
    with (directory / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove(cluster: Cluster) -> None:
    """`down`, not interrupted by a second Ctrl-C."""
    with _uninterrupted():
        down(cluster.directory)


def _claim(cluster: Cluster, say: Say) -> None:
    """Make the lab's directory ours. Raises LabError if another lab of this name lives or is being started."""
    directory = cluster.directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory.exists():
        state = LabState.read(directory)
        if state is not None and state.phase is not Phase.DEAD:
            raise LabError(
                f"lab {cluster.name!r} is up already",
                remedy="use it, take it down with `k8s-ovs lab down`, or choose another --name",
            )
        starter = _starter(directory)
        if starter is not None and starter.alive:
            raise LabError(
                f"lab {cluster.name!r} is being started by process {starter.pid}", remedy="wait for it"
            )
        say("removing what a lab of this name has left behind")
        down(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir()
    except FileExistsError as err:
        raise LabError(
            f"lab {cluster.name!r} is being started by another process", remedy="wait for it"
        ) from err
    own = ProcessId.of(os.getpid())
    if own is not None:
        (directory / _STARTER).write_text(f"{own.pid} {own.start}")


def _starter(directory: Path) -> ProcessId | None:
    try:
        pid, start = (directory / _STARTER).read_text().split()
        return ProcessId(int(pid), int(start))
    except (OSError, ValueError):
        return None


def _start_supervisor(cluster: Cluster, say: Say) -> None:
    log = cluster.logs / "supervisor.log"
    read_end, write_end = os.pipe()
    with log.open("wb") as stream, os.fdopen(read_end) as progress:
        try:
            subprocess.Popen(  # it outlives us on purpose: `down` ends it
                [sys.executable, "-m", "k8s_ovs.lab.supervisor", str(cluster.directory), str(write_end)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd="/",
                env={**os.environ, **_NO_AUTHORITIES},
                pass_fds=[write_end],
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        for line in progress:
            text = line.rstrip("\n").replace("\x1f", "\n")
            if text == READY:
                return
            if text.startswith(_ERROR):
                raise LabError(text.removeprefix(_ERROR))
            say(text)
    raise LabError(f"the supervisor ended while the lab was starting:\n{log_tail(log, 30)}")


def down(directory: Path) -> bool:
    """Remove the lab in `directory`: processes, namespaces, files. False if there was none. May be repeated."""
    if not directory.exists():
        return False
    state = LabState.read(directory)
    if state is not None:
        _stop(state.supervisor)
    _stop_orphans(directory)
    paths = sorted((directory / "netns").glob("*"))
    namespaces.kill_inside(paths)
    if state is not None:
        for process in state.processes.values():
            if process.process_id is not None:
                process.process_id.signal(signal.SIGKILL)
    # What was on its way into a namespace when we looked is inside now.
    namespaces.kill_inside(paths)
    for path in paths:
        namespaces.remove(path)
    namespaces.unmount(directory / "netns")
    shutil.rmtree(directory)
    with contextlib.suppress(OSError):  # other labs are there
        directory.parent.rmdir()
    return True


def _stop(supervisor: ProcessId) -> None:
    descriptor = supervisor.pidfd()
    if descriptor is None:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not namespaces.await_end(descriptor, _STOP_SECONDS):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            namespaces.await_end(descriptor, _STOP_SECONDS)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _stop_orphans(directory: Path) -> None:
    """End a supervisor of this very directory that has not come to write its state yet."""
    wanted = [b"k8s_ovs.lab.supervisor", os.fsencode(directory)]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        process = ProcessId.of(int(entry.name))
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if process is not None and arguments[2:4] == wanted:
                _stop(process)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Cleaning up is not interrupted by a second Ctrl-C."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
