"""Put a new directory in the place of an old one: `swap.py NEW PLACE`, for install.sh.

Both are on one file system. Where the kernel can exchange two directories (renameat2(2)), PLACE is complete at every
moment; else (some overlay file systems) the old one is moved aside first, and back if the new one cannot take its place.
The old one is under NEW's name afterwards, for the caller to remove.
"""

import ctypes
import errno
import os
import sys
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""linux/fs.h"""
CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EPERM})
"""What kernels and file systems say that know no exchange."""


def swap(new: Path, place: Path) -> None:
    """OSError if `new` cannot be put into `place`; then `place` is as it was."""
    if not place.exists():
        new.rename(place)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(place), RENAME_EXCHANGE) == 0:
        return
    if (code := ctypes.get_errno()) not in CANNOT:
        raise OSError(code, os.strerror(code), str(place))
    aside = new.with_name(f"{new.name}.old")
    place.rename(aside)
    try:
        new.rename(place)
    except OSError:
        aside.rename(place)
        raise
    aside.rename(new)


if __name__ == "__main__":
    swap(*map(Path, sys.argv[1:]))
