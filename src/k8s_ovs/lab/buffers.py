"""More room in the sockets through which a node's userspace switch receives.

Called by the supervisor. The main thread of such a switch reads the packets of all interfaces, and does everything else
too. While it waits for the kernel, where all namespaces of a machine share one lock for their interfaces, packets wait in
its sockets: net.core.rmem_default, 208 KiB, is 250 small packets, and what comes after them is lost. That setting is
the whole machine's, not the lab's to change, so each socket is enlarged by itself (pidfd_getfd(2), socket(7)).
"""

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from k8s_ovs.lab.processid import ProcessId

log = logging.getLogger(__name__)

OCTETS = 1 << 20
"""What is asked for; the kernel doubles it. Much more would hold seconds of a flood."""
_SETTLING = 0.2
"""Seconds from an interface's change to the look at the switch's sockets, which it opens then."""
_SO_RCVBUFFORCE = 33
_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


async def keep_roomy(switch: Callable[[], ProcessId | None], stirred: asyncio.Event) -> None:
    """Until cancelled: whenever interfaces have changed, enlarge the new packet sockets of the process `switch`."""
    known: set[str] = set()
    while True:
        await stirred.wait()
        stirred.clear()
        await asyncio.sleep(_SETTLING)
        try:
            process = switch()
            known = enlarge(process.pid, known) if process is not None else set()
        except PermissionError as err:
            log.warning("the switch's sockets stay small (%s): a busy machine may lose packets", err)
            return


def enlarge(pid: int, known: set[str]) -> set[str]:
    """Enlarge the packet sockets of a process, but for those that are `known`. Its sockets of now.

    A process that has ended has none. Raises PermissionError without CAP_SYS_PTRACE and CAP_NET_ADMIN.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return set()
    try:
        found = _sockets(pid)
        for name in found.keys() - known:
            _enlarge(process, found[name])
        return set(found)
    finally:
        os.close(process)


def _sockets(pid: int) -> dict[str, int]:
    """Descriptors by the name of what they are, which no other socket ever has: socket:[INODE]."""
    found = {}
    try:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            name = str(path.readlink())
            if name.startswith("socket:"):
                found[name] = int(path.name)
    except FileNotFoundError:
        pass  # closed or ended while we looked: the next change tells
    return found


def _enlarge(process: int, descriptor: int) -> None:
    own = _libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if own < 0:
        error = OSError(ctypes.get_errno(), "pidfd_getfd")
        if isinstance(error, PermissionError):
            raise error
        return  # closed meanwhile
    with socket.socket(fileno=own) as theirs:
        if theirs.family == socket.AF_PACKET:
            theirs.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, OCTETS)
