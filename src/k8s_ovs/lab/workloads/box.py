"""The inside of a container, as far as a process can tell: started as `python -I -S box.py SPEC.json`, becomes the process.

Run by the workload runner in the node's network namespace. It makes a mount namespace of its own whose root is a
copy-on-write view of this machine (overlayfs) with an image layer above it; /run, /tmp, /opt and the like are empty, and the volumes
are where the specification says. Standard library only, nothing of k8s_ovs. See `Box` in boxes.py for the fields.
"""

import ctypes
import json
import os
import socket
import sys
from typing import Any

_CLONE_NEWNS, _CLONE_NEWUTS = 0x00020000, 0x04000000
_RDONLY, _NOSUID, _REMOUNT, _BIND, _REC = 1, 2, 32, 4096, 16384
_PRIVATE, _SLAVE = 1 << 18, 1 << 19
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    done = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {source} on {target}: {os.strerror(code)}")


def _point(root: str, path: str, *, file: bool) -> str:
    """A mount point below the new root for an absolute path, with the links on the way followed inside the root."""
    at = root
    for part in path.strip("/").split("/"):
        at = os.path.join(at, part)
        seen = 0
        while os.path.islink(at) and seen < 8:
            seen += 1
            to = os.readlink(at)
            at = root + to if to.startswith("/") else os.path.normpath(os.path.join(os.path.dirname(at), to))
    if file:
        os.makedirs(os.path.dirname(at), exist_ok=True)
        if not os.path.exists(at):
            os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o644))
    else:
        os.makedirs(at, exist_ok=True)
    return at


def _root(spec: dict[str, Any]) -> str:
    """The new root: image layer over this machine's file system, changes in memory."""
    base: str = spec["base"]
    os.makedirs(base, exist_ok=True)
    _mount("box", base, "tmpfs", _NOSUID, "mode=0755")
    for name in ("upper", "work", "root"):
        os.mkdir(os.path.join(base, name))
    root = os.path.join(base, "root")
    layers = f"lowerdir={spec['layer']}:/,upperdir={base}/upper,workdir={base}/work"
    _mount("overlay", root, "overlay", 0, layers)
    for path in spec["empty"]:
        _mount("tmpfs", _point(root, path, file=False), "tmpfs", _NOSUID, "mode=0755")
    for path in ("/proc", "/sys", "/dev"):
        _mount(path, _point(root, path, file=False), "", _BIND | _REC)
    for path in spec["own"]:
        if os.path.isdir(path):
            _mount(path, _point(root, path, file=False), "", _BIND | _REC)
    return root


def _volumes(root: str, spec: dict[str, Any]) -> None:
    for mount in sorted(spec["mounts"], key=lambda entry: str(entry["at"])):
        source: str = mount["source"]
        target = _point(root, mount["at"], file=not os.path.isdir(source))
        _mount(source, target, "", _BIND | _REC)
        _mount("", target, "", (_SLAVE if mount["propagates"] else _PRIVATE) | _REC)
        if mount["read_only"]:
            _mount("", target, "", _REMOUNT | _BIND | _RDONLY)
    for path in spec["read_only"]:
        target = root + path
        if path != "/":
            _mount(target, target, "", _BIND | _REC)
        _mount("", target, "", _REMOUNT | _BIND | _RDONLY)


def _enter(root: str) -> None:
    old = os.path.join(root, ".old")
    os.makedirs(old, exist_ok=True)
    os.chdir(root)
    if _libc.pivot_root(b".", b".old") != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"pivot_root: {os.strerror(code)}")
    os.chdir("/")
    _libc.umount2(b"/.old", _MNT_DETACH)


def main() -> None:
    """Become the process. What cannot be made is said on stderr, with status 126."""
    with open(sys.argv[1]) as file:
        spec: dict[str, Any] = json.load(file)
    try:
        if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        _mount("", "/", "", _SLAVE | _REC)
        socket.sethostname(spec["hostname"])
        root = _root(spec)
        os.makedirs(os.path.join(root, ".old"), exist_ok=True)
        _volumes(root, spec)
        _enter(root)
        os.chdir(spec["directory"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["environment"])
    except OSError as err:
        sys.stderr.write(f"container {spec['hostname']}/{spec['argv'][0]}: {err}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
