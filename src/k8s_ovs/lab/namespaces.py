"""Network namespaces known by a path: make, enter, remove, and find who is inside.

Used by every part of the lab that touches a namespace. The calling thread's own namespace never changes: work inside
another one is done by a thread that lives only for that (setns(2) acts on the calling thread), or by a child process.
The files live in the lab's own directory, not in /run/netns, so that nothing is left on the host.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from k8s_ovs.errors import LabError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MS_SHARED = 1 << 20
_MNT_DETACH = 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, whose namespaces die with it, and hand on its result or exception."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as err:  # whatever it is, it is the caller's
            failures.append(err)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def create(path: Path) -> None:
    """Make a network namespace with `lo` down and keep it alive as a bind mount at `path`. Raises LabError."""

    def work() -> None:
        _checked("unshare", _libc.unshare(_CLONE_NEWNET))
        source = f"/proc/self/task/{threading.get_native_id()}/ns/net".encode()
        _checked("mount", _libc.mount(source, bytes(path), b"none", _MS_BIND, None))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except FileExistsError as err:
        raise LabError(f"the namespace {path} exists already", remedy="run `k8s-ovs lab down` first") from err
    try:
        _in_thread(work)
    except OSError as err:
        path.unlink(missing_ok=True)
        raise LabError(
            f"cannot make the network namespace {path} ({err})", remedy="run as root with CAP_SYS_ADMIN"
        ) from err


def remove(path: Path) -> None:
    """Remove the namespace at `path`; one that is not there is no error."""
    unmount(path)
    path.unlink(missing_ok=True)


def share(directory: Path) -> None:
    """Have what is mounted below the directory seen in other mount namespaces too, as on a host. Raises LabError."""
    try:
        _checked("mount", _libc.mount(bytes(directory), bytes(directory), None, _MS_BIND, None))
        _checked("mount", _libc.mount(None, bytes(directory), None, _MS_SHARED, None))
    except OSError as err:
        raise LabError(f"cannot share the mounts of {directory} ({err})", remedy="run as root") from err


def unmount(path: Path) -> None:
    """Take away every mount on `path`."""
    while _libc.umount2(bytes(path), _MNT_DETACH) == 0:
        pass


def enter(path: Path) -> None:
    """Move the calling thread into the namespace. Only for a thread or process that ends with its work there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(f"setns {path}", _libc.setns(descriptor, _CLONE_NEWNET))
    finally:
        os.close(descriptor)


def inside(path: Path, work: Callable[[], T]) -> T:
    """Run `work` in the namespace, in a thread of its own: sockets that it makes stay in that namespace."""

    def entered() -> T:
        enter(path)
        return work()

    return _in_thread(entered)


def listener(host: str, port: int) -> socket.socket:
    """A listening, non-blocking TCP socket in the calling thread's namespace."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def sysctl(path: Path, settings: Sequence[tuple[str, str]]) -> None:
    """Set `net.…` sysctls (dots or slashes) in the namespace. Unknown ones are skipped: the kernel lacks the feature."""

    def work() -> None:
        for name, value in settings:
            file = Path("/proc/sys") / name.replace(".", "/")
            if file.exists():
                file.write_text(value)

    inside(path, work)


def inode_of(path: Path) -> int | None:
    """The namespace's inode number, or None if `path` is not (or no longer) one."""
    try:
        info = path.stat()
        # A namespace's file is on nsfs, never on the file system of the directory that it is mounted in.
        return info.st_ino if info.st_dev != path.parent.stat().st_dev else None
    except OSError:
        return None


def pidfds_inside(paths: Iterable[Path]) -> list[int]:
    """A pidfd for every process whose network namespace is one of `paths`, without this one and its ancestors.

    A pidfd names one process for good: its number cannot be given to another between looking and killing.
    """
    wanted = {f"net:[{inode}]" for inode in map(inode_of, paths) if inode is not None}
    spared = _ancestors()
    found = []
    for entry in Path("/proc").iterdir():
        if not wanted or not entry.name.isdigit() or int(entry.name) in spared:
            continue
        try:
            handle = os.pidfd_open(int(entry.name))
        except OSError:
            continue  # it ended, or is a thread's entry
        try:
            inside_one = str((entry / "ns" / "net").readlink()) in wanted
        except OSError:
            inside_one = False  # it ended while we looked
        if inside_one:
            found.append(handle)
        else:
            os.close(handle)
    return found


def kill_inside(paths: Sequence[Path]) -> None:
    """Kill every process inside the namespaces, until a look finds none (a fork may race with the first look)."""
    for _ in range(100):
        handles = pidfds_inside(paths)
        if not handles:
            return
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            await_end(handle, 2.0)
            os.close(handle)


def await_end(pidfd: int, seconds: float) -> bool:
    """Wait until the process ends; False if it has not within `seconds`."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(int(seconds * 1000)))


def _ancestors() -> set[int]:
    pid = os.getpid()
    seen = {pid}
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        seen.add(pid)
    return seen


def loopback_up(path: Path) -> None:
    """Bring up `lo` in the namespace (SIOCSIFFLAGS, netdevice(7)). Raises OSError."""

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))

    inside(path, work)
