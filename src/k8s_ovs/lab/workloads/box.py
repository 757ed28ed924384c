"""The inside of a container, as far as a process can tell: started as `python -I -S box.py SPEC.json`, becomes the process.

Run by the workload runner in the node's network namespace. It makes a mount namespace of its own whose root is a
copy-on-write view of this machine (overlayfs) with the image's own files above it; /run, /tmp, /opt and the like are
empty, and the volumes are where the specification says. Standard library only, nothing of k8s_ovs. See `Box` in boxes.py.
"""

import ctypes
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

_CLONE_NEWNS, _CLONE_NEWUTS = 0x00020000, 0x04000000
_RDONLY, _NOSUID, _REMOUNT, _BIND, _REC = 1, 2, 32, 4096, 16384
_PRIVATE, _SLAVE = 1 << 18, 1 << 19
_MNT_DETACH = 2
_OLD = ".old"

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    done = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _checked(f"mount {source} on {target}", done)


def _point(root: str, path: str, *, file: bool) -> str:
    """A mount point below the new root for an absolute path, with the links on the way followed inside the root."""
    at = Path(root)
    for part in path.strip("/").split("/"):
        at = at / part
        seen = 0
        while at.is_symlink() and seen < 8:
            seen += 1
            to = str(at.readlink())
            at = Path(root + to) if to.startswith("/") else Path(os.path.normpath(at.parent / to))
    if file:
        at.parent.mkdir(parents=True, exist_ok=True)
        if not at.exists():
            at.touch(mode=0o644)
    else:
        at.mkdir(parents=True, exist_ok=True)
    return str(at)


def _root(spec: dict[str, Any]) -> str:
    """The new root: the image's files over this machine's file system, changes in memory."""
    base = Path(spec["base"])
    base.mkdir(parents=True, exist_ok=True)
    _mount("box", str(base), "tmpfs", _NOSUID, "mode=0755")
    shutil.copytree(spec["layer"], base / "upper")
    for name in ("work", "root"):
        (base / name).mkdir()
    root = str(base / "root")
    _mount("overlay", root, "overlay", 0, f"lowerdir=/,upperdir={base}/upper,workdir={base}/work")
    for path in spec["empty"]:
        _mount("tmpfs", _point(root, path, file=False), "tmpfs", _NOSUID, "mode=0755")
    for path in ("/proc", "/sys", "/dev"):
        _mount(path, _point(root, path, file=False), "", _BIND | _REC)
    return root


def _volumes(root: str, spec: dict[str, Any]) -> None:
    for mount in sorted(spec["mounts"], key=lambda entry: str(entry["at"])):
        source: str = mount["source"]
        target = _point(root, mount["at"], file=not Path(source).is_dir())
        _mount(source, target, "", _BIND | _REC)
        _mount("", target, "", (_SLAVE if mount["propagates"] else _PRIVATE) | _REC)
        if mount["read_only"]:
            _mount("", target, "", _REMOUNT | _BIND | _RDONLY)
    for path in spec["own"]:  # after the volumes: one of them may be at /tmp, and the program below it
        if Path(path).is_dir():
            _mount(path, _point(root, path, file=False), "", _BIND | _REC)
    for path in spec["read_only"]:
        target = root + path
        if path != "/":
            _mount(target, target, "", _BIND | _REC)
        _mount("", target, "", _REMOUNT | _BIND | _RDONLY)


def _enter(spec: dict[str, Any]) -> None:
    _checked("unshare", _libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS))
    _mount("", "/", "", _SLAVE | _REC)
    socket.sethostname(spec["hostname"])
    root = _root(spec)
    (Path(root) / _OLD).mkdir(exist_ok=True)
    _volumes(root, spec)
    os.chdir(root)
    _checked("pivot_root", _libc.pivot_root(b".", _OLD.encode()))
    os.chdir("/")
    _libc.umount2(b"/" + _OLD.encode(), _MNT_DETACH)
    os.chdir(spec["directory"])


def main() -> None:
    """Become the process. What cannot be made is said on stderr, with status 126."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    argv: list[str] = spec["argv"]
    try:
        _enter(spec)
        os.execvpe(argv[0], argv, spec["environment"])  # noqa: S606 - there is no shell in a container
    except OSError as err:
        sys.stderr.write(f"container {spec['hostname']}/{argv[0]}: {err}\n")
        sys.exit(126)


if __name__ == "__main__":
    main()
