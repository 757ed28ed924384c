"""Puts CNI plugins where the container runtime executes them, each in one step, and takes our own away again.

For `k8s-ovs install-cni` (the DaemonSet's init container) and `k8s-ovs uninstall`. Our own executable is always made
what we bring; the standard plugins belong to all networks of a host: one that is there stays, whoever put it there.

The runtime may execute a plugin at any moment, and we may be killed at any moment. So a plugin is written under another
name in its own folder, tried there, made durable, and renamed; there is the old one, or the new one, or none.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from k8s_ovs.cni.plugins import supported_versions
from k8s_ovs.errors import ConfigError

OWN = "k8s-ovs"
STANDARD = ("portmap", "loopback")
"""Of the CNI project's own plugins, those that a pod network needs beside its own: host ports, and `lo` of a sandbox."""
CHUNK = 1 << 16


class Outcome(StrEnum):
    """What became of a plugin."""

    INSTALLED = "installed"
    REPLACED = "replaced"
    CURRENT = "current"
    KEPT = "kept"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Placed:
    """`path` of a plugin, and what was done; `trouble`: why one that was kept cannot be used, empty if it can."""

    path: Path
    outcome: Outcome
    trouble: str = ""


def install(source: Path, folder: Path) -> list[Placed]:
    """Install our executable, and the standard plugins that are missing, from `source` into `folder`. Raises ConfigError.

    `source` need not have the standard plugins. Whatever is raised, no plugin in `folder` is less than it was.
    """
    with _locked(folder):
        own = _put(source / OWN, folder / OWN)
        return [own, *(_complement(source / name, folder / name) for name in STANDARD)]


def remove(folder: Path) -> bool:
    """Remove our executable, and what a killed installation left of it. False if there was none. Raises ConfigError."""
    path = folder / OWN
    with suppress(OSError):  # it would do no harm: nobody executes it
        _draft(path).unlink()
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:
        raise ConfigError(f"cannot remove {path}: {err.strerror}", remedy="remove it by hand") from err
    return True


def standard_in(folder: Path) -> list[str]:
    """The standard plugins that `folder` has, whoever put them there."""
    return [name for name in STANDARD if os.path.lexists(folder / name)]


def _complement(source: Path, target: Path) -> Placed:
    """A standard plugin: ours only where there is none.

    A link that leads nowhere stays too: in a container, one to the host's own /usr/lib/cni looks like that.
    """
    if os.path.lexists(target):
        if not target.exists():
            return Placed(
                target, Outcome.KEPT, f"{target} leads to {target.readlink()}, which cannot be seen from here"
            )
        try:
            supported_versions(target)
        except ConfigError as err:
            return Placed(target, Outcome.KEPT, str(err))
        return Placed(target, Outcome.KEPT)
    if not source.exists():
        return Placed(target, Outcome.MISSING)
    return _put(source, target)


def _put(source: Path, target: Path) -> Placed:
    """Make `target` an executable with the content of `source`. Raises ConfigError."""
    if not source.is_file():
        raise ConfigError(
            f"no CNI plugin at {source}",
            remedy="name the folder that tools/install.sh has filled with --plugins-from",
        )
    existed = os.path.lexists(target)
    draft = _draft(target)
    try:
        if existed and _is(source, target):
            return Placed(target, Outcome.CURRENT)
        _copy(source, draft)
        supported_versions(draft)
        draft.replace(target)
        _sync(target.parent)
    except (OSError, ConfigError) as err:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(err, ConfigError):
            raise
        raise _cannot_write(target, err) from err
    return Placed(target, Outcome.REPLACED if existed else Outcome.INSTALLED)


def _draft(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


def _is(source: Path, target: Path) -> bool:
    """Whether `target` is what we bring: a file of its own, executable, with the same content."""
    if target.is_symlink() or not target.is_file() or not os.access(target, os.X_OK):
        return False
    return source.read_bytes() == target.read_bytes()


def _copy(source: Path, draft: Path) -> None:
    draft.unlink(missing_ok=True)  # of an installation that was killed
    with source.open("rb") as reader, draft.open("xb") as writer:
        while octets := reader.read(CHUNK):
            writer.write(octets)
        writer.flush()
        os.fchmod(writer.fileno(), 0o755)
        os.fsync(writer.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only one that installs into `folder`: drafts have fixed names. Raises ConfigError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as err:
        raise ConfigError(
            f"cannot install CNI plugins into {folder}: {err.strerror}",
            remedy="mount or make the folder where the container runtime looks for plugins, or choose --cni-bin-dir",
        ) from err
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ConfigError(f"another installation into {folder} is under way", remedy="try again") from err
        yield
    finally:
        os.close(descriptor)


def _cannot_write(target: Path, err: OSError) -> ConfigError:
    remedies = {
        errno.EROFS: "mount the folder writable, or choose one that is with --cni-bin-dir",
        errno.ENOSPC: "make room on that file system",
        errno.EISDIR: "remove the directory that has the plugin's name",
    }
    return ConfigError(
        f"cannot write the CNI plugin {target}: {err.strerror}",
        remedy=remedies.get(err.errno or 0, "run this as root, on a folder that can be written"),
    )
