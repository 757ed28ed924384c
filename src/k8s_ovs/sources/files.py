"""Whether files with credentials have changed. For the sources of etcd and Kubernetes; nothing is read here."""

from collections.abc import Iterable
from pathlib import Path

Signatures = tuple[tuple[int, int, int] | None, ...]


def signatures(files: Iterable[Path]) -> Signatures:
    """What tells that a file was replaced or written; None for one that cannot be read now.

    Links are followed: the kubelet brings a new version of a Secret by moving the link ..data to another folder.
    """

    def one(path: Path) -> tuple[int, int, int] | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size)

    return tuple(one(path) for path in files)
