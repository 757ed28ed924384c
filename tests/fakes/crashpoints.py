"""Where a daemon can be killed: just before and just after each of its effects.

Loaded into the real daemons of a lab from outside (`site`, `environment`): the product has no hooks. It wraps what
changes something beyond the process: netlink requests, ioctls and sysctls, OVSDB transactions, commands that are run,
meters, conntrack, etcd, the answer to the container runtime. Each passage is a point, named by daemon, effect, how many-th
of that name, and moment:

    node1: netlink: veth LINK with peer eth0 #1 before

The file `plan` in the directory of the points says what is wanted: to record the points that are passed, or to be
killed (SIGKILL) at one of them, once. `fakes.crashing` writes it.
"""

import asyncio
import functools
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PLACE = "K8S_OVS_TEST_POINTS_AT"
"""The environment variable that names the directory of the points."""
PLAN, FIRED, LOG = "plan", "fired", "log"
LEASE = (3.0, 2.0, 0.5)
"""Seconds of the controllers' lease: a killed leader's successor need not be waited for in each of many points."""

CONNTRACK, CONNTRACK_GET = 0x100, 1
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET (linux/netfilter/nfnetlink_conntrack.h)."""
RTNETLINK_GET = 2
_QUERIES = frozenset({"-S", "-C", "dump-flows", "dump-groups", "dump-meters", "diff-flows"})
_WORDS = (
    (re.compile(r"kovs[0-9a-f]{11}"), "LINK"),
    (re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"), "MAC"),
    (re.compile(r"\d+\.\d+\.\d+\.\d+(/\d+)?"), "ADDRESS"),
    (re.compile(r"[0-9a-f]{32}"), "SANDBOX"),
    (re.compile(r"p[0-9a-f]{8}\b"), "POD"),
)


def environment(site: Path, place: Path) -> dict[str, str]:
    """What daemons have to inherit so that they have points. `site` is a directory of this alone, and so is `place`."""
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if {'agent', 'controller'} & set(sys.orig_argv):\n"
        "    from fakes import crashpoints\n"
        "    crashpoints.install()\n"
    )
    import k8s_ovs  # noqa: PLC0415 - the daemons import this module before they import the product

    paths = [site, Path(__file__).parent.parent, Path(k8s_ovs.__file__).parent.parent]
    return {"PYTHONPATH": os.pathsep.join(map(str, paths)), PLACE: str(place)}


class Points:
    """The points of this process. Threads may reach them at the same time."""

    def __init__(self, place: Path, daemon: str) -> None:
        self._place = place
        self._daemon = daemon
        self._lock = threading.Lock()
        self._seen = (0, 0)
        self._plan: dict[str, Any] = {}
        self._passed: Counter[tuple[str, str]] = Counter()

    def reach(self, effect: str, moment: str) -> None:
        """This is a point: be killed here if that is the plan."""
        with self._lock:
            if not self._planned():
                return
            effect = _plain(effect)
            self._passed[effect, moment] += 1
            point = f"{self._daemon}: {effect} #{self._passed[effect, moment]} {moment}"
            if self._plan["point"] == point:
                (self._place / PLAN).rename(self._place / FIRED)
                os.kill(os.getpid(), signal.SIGKILL)
            elif not self._plan["point"]:
                with (self._place / LOG).open("a") as log:
                    log.write(point + "\n")

    def _planned(self) -> bool:
        """Whether there is a plan. Counting begins anew with each."""
        try:
            found = (self._place / PLAN).stat()
            if (found.st_ino, found.st_mtime_ns) != self._seen:
                self._plan = json.loads((self._place / PLAN).read_text())
                self._seen = (found.st_ino, found.st_mtime_ns)
                self._passed.clear()
        except FileNotFoundError:
            return False
        return True


def _plain(effect: str) -> str:
    for pattern, word in _WORDS:
        effect = pattern.sub(word, effect)
    return effect


def install() -> None:
    """Give this process its points. Called by `sitecustomize`, before the product's own code runs."""
    hostname = next(word.partition("=")[2] for word in sys.orig_argv if word.startswith("--hostname="))
    points = Points(Path(os.environ[PLACE]), "controller" if "controller" in sys.orig_argv else hostname)
    if "controller" in sys.orig_argv:
        _controller(points)
    else:
        for part in (_kernel, _commands, _openflow, _ovsdb, _cni, _agent_records):
            part(points)


Label = Callable[..., str]
"""Names the effect of a call, from its arguments; "" if it is none."""


def _around(points: Points, owner: object, name: str, label: Label) -> None:
    """Have points before and after each call of `owner.name`."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (effect := label(*args, **kwargs)):
            return inner(*args, **kwargs)
        points.reach(effect, "before")
        result = inner(*args, **kwargs)
        points.reach(effect, "after")
        return result

    @functools.wraps(inner)
    async def wait(*args: Any, **kwargs: Any) -> Any:
        if not (effect := label(*args, **kwargs)):
            return await inner(*args, **kwargs)
        points.reach(effect, "before")
        result = await inner(*args, **kwargs)
        points.reach(effect, "after")
        return result

    setattr(owner, name, wait if asyncio.iscoroutinefunction(inner) else call)


def _always(effect: str) -> Label:
    return lambda *args, **kwargs: effect


def _kernel(points: Points) -> None:
    """Every netlink request that changes something, ioctls and sysctls."""
    from k8s_ovs.agent import conflist  # noqa: PLC0415
    from k8s_ovs.dataplane import hostnet, links, netlink  # noqa: PLC0415

    def request(_self: object, kind: int, *_args: object, what: str, **_kwargs: object) -> str:
        if kind >= CONNTRACK:
            writes = kind & 0xFF != CONNTRACK_GET
        else:  # rtnetlink(7): NEW, DEL, GET, SET of each kind of thing
            writes = kind % 4 != RTNETLINK_GET and "generic netlink" not in what
        return f"netlink: {what}" if writes else ""

    def file(directory: Path, text: str) -> str:
        path = directory / conflist.CONFLIST
        return "" if path.exists() and path.read_text() == text else "conflist"

    def sysctl(name: str, value: str) -> str:
        return "" if (hostnet.SYSCTLS / name).read_text().strip() == value else f"sysctl {name}"

    _around(points, netlink.Netlink, "request", request)
    _around(points, links, "_disable_ipv6", _always("sysctl disable_ipv6 in the pod"))
    _around(points, links, "_tx_checksum_off", _always("ioctl checksum offload off"))
    _around(points, links, "_silence_kernel", _always("sysctls of LINK"))
    _around(points, hostnet, "_sysctl", sysctl)
    _around(points, conflist, "write", file)


def _commands(points: Points) -> None:
    """Commands that change something: before, started, after; and a bundle: before, its input given, after."""
    from k8s_ovs.dataplane import process  # noqa: PLC0415

    def command(argv: Sequence[str], *_args: object) -> str:
        return "" if _QUERIES & set(argv) else "command " + " ".join(argv[:1] + argv[4:5])

    start = process._start

    async def started(argv: Sequence[str], stdin: int) -> Any:
        made = await start(argv, stdin)
        if command(argv) and stdin != asyncio.subprocess.PIPE:
            points.reach(command(argv), "running")
        return made

    feed = asyncio.subprocess.Process._feed_stdin

    async def fed(self: Any, data: bytes | None) -> Any:
        result = await feed(self, data)
        points.reach("bundle", "on its way")
        return result

    process._start = started
    asyncio.subprocess.Process._feed_stdin = fed
    _around(points, process, "run", command)
    _around(points, process.Standby, "run", _always("bundle"))


def _openflow(points: Points) -> None:
    """What does not go through ovs-ofctl."""
    from k8s_ovs.dataplane import openflow  # noqa: PLC0415
    from k8s_ovs.dataplane.openflow_wire import Session  # noqa: PLC0415

    _around(points, Session, "add_meters", _always("making meters"))
    _around(points, Session, "delete_meters", _always("deleting meters"))
    _around(points, openflow, "settle", _always("waiting for the datapath"))
    _around(points, openflow, "flush", _always("forgetting connections"))


def _ovsdb(points: Points) -> None:
    """Transactions: before, sent, and confirmed while nobody knows of it yet."""
    from k8s_ovs.dataplane import ovsdb_client  # noqa: PLC0415

    submit = ovsdb_client.OvsdbClient._submit
    finish = ovsdb_client._finish

    def submitted(self: Any, replica: Any) -> None:
        waiting = [request.what for request in self._queue if not request.done.done()]
        if self._flight is not None or not waiting:
            submit(self, replica)
            return
        effect = f"OVSDB: {waiting[0]}"
        points.reach(effect, "before")
        submit(self, replica)
        points.reach(effect, "sent")

    def finished(requests: Sequence[Any], configuration: int | None) -> None:
        if requests:
            points.reach(f"OVSDB: {requests[0].what}", "after")
        finish(requests, configuration)

    ovsdb_client.OvsdbClient._submit = submitted
    ovsdb_client._finish = finished


def _cni(points: Points) -> None:
    """The request is known; the answer is about to be given; it has been given."""
    from k8s_ovs.cni.server import CniServer  # noqa: PLC0415

    _around(points, CniServer, "_carry_out", lambda _self, request: f"CNI {request.command}")
    _around(points, CniServer, "_serve_peer", _always("CNI answer"))


def _agent_records(points: Points) -> None:
    """Reports in etcd, Events."""
    from k8s_ovs.sources.etcd.connection import Connection  # noqa: PLC0415
    from k8s_ovs.sources.etcd.presence import EtcdPresence  # noqa: PLC0415
    from k8s_ovs.sources.kube.client import KubeClient  # noqa: PLC0415

    def report(_self: object, _connection: object, _key: str, report: Any) -> str:
        steps = sorted(f"{name} {step.partition('/')[2]}" for name, step in report.applied.items())
        return f"etcd: report {', '.join(steps) or 'of nothing'}"

    _around(points, EtcdPresence, "_write", report)
    _around(points, Connection, "grant_lease", _always("etcd: lease"))
    _around(points, KubeClient, "create_event", _always("Event"))


def _controller(points: Points) -> None:
    """Each commit of records."""
    from k8s_ovs.sources.etcd.store import EtcdStore  # noqa: PLC0415
    from k8s_ovs.sources.kube.client import KubeClient  # noqa: PLC0415
    from k8s_ovs.sources.kube.election import LeaseTiming  # noqa: PLC0415

    def commit(_self: object, change: Any) -> str:
        told = [
            f"tenant {one.name} {one.change.step if one.change else 'done'}" for one in change.put_tenants
        ]
        told += [f"namespace {one.name}" for one in change.put_namespaces]
        told += [f"subnet of {one.host}" for one in change.put_subnets]
        gone = (change.delete_subnets, change.delete_namespaces, change.delete_tenants)
        return "etcd: " + ", ".join([*told, *(f"{len(keys)} deleted" for keys in gone if keys)])

    LeaseTiming.__init__.__defaults__ = LEASE
    _around(points, EtcdStore, "commit", commit)
    _around(points, KubeClient, "create_event", _always("Event"))
