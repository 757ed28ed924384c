"""The listening end of the agent's CNI socket: made atomically, for root only, and removed at the end.

The CNI server uses it. It never reads a request.
"""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Who is at the other end of a unix socket, from when it connected."""

    pid: int
    uid: int


def peer_credentials(peer: socket.socket) -> PeerCredentials:
    """SO_PEERCRED of unix(7)."""
    octets = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", octets)
    return PeerCredentials(pid, uid)


@contextmanager
def listen_unix(path: Path, backlog: int) -> Iterator[socket.socket]:
    """Listen on `path`, mode 0600, for the block; its folder is made with mode 0700 if it is missing.

    The socket appears under its name only when it is ready (bind to another name, then rename), and replaces one
    that an agent before us left. Raises ConfigError if an agent answers there, or if others may write into the
    folder.
    """
    _prepare_folder(path)
    if _is_answered(path):
        raise ConfigError(
            f"{path}: another agent serves this socket", remedy="stop it, or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.unlink(missing_ok=True)
            listener.bind(str(temporary))
            temporary.chmod(0o600)
            listener.listen(backlog)
            ours = temporary.stat()
            temporary.rename(path)
        except OSError as err:
            temporary.unlink(missing_ok=True)
            raise ConfigError(f"{path}: cannot listen ({err})", remedy="choose another --cni-socket") from err
        try:
            yield listener
        finally:
            _unlink_ours(path, ours)


def _unlink_ours(path: Path, ours: os.stat_result) -> None:
    """Remove the socket, unless the next agent has put its own in its place already."""
    try:
        now = path.lstat()
        if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
            path.unlink()
    except FileNotFoundError:
        return


def _prepare_folder(path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as err:
        raise ConfigError(
            f"{folder}: no folder for the CNI socket ({err})", remedy="choose another --cni-socket"
        ) from err
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"{folder}: others may write into the folder of the CNI socket (mode {stat.S_IMODE(mode):04o})",
            remedy=f"chmod 0700 {folder}",
        )


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its backlog is full: somebody listens
            return True
        except OSError:
            return False
    return True
