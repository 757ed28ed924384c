"""The file that makes kubelet's runtime call us: 80-k8s-ovs.conflist.

Written by the agent once it can serve (kubelet then calls the node Ready), removed by `k8s-ovs uninstall`. A restart of
the agent leaves it where it is: the plugin answers "try again later" meanwhile.
"""

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from k8s_ovs.cni.plugins import supported_versions
from k8s_ovs.cni.protocol import SUPPORTED_VERSIONS
from k8s_ovs.errors import ConfigError

log = logging.getLogger(__name__)

CONFLIST = "80-k8s-ovs.conflist"
PLUGIN = "k8s-ovs"
PORTMAP = "portmap"
OLD_RUNTIME = "1.0.0"
"""What containerd 1.6 and 1.7 and CRI-O before 1.31 know (libcni before 1.2); they fail each ADD of a newer list."""
KNOWN_TO_ALL = tuple(version for version in SUPPORTED_VERSIONS if version <= OLD_RUNTIME)


def chain_versions(bin_dir: Path, *, portmap: bool) -> tuple[str, ...]:
    """The versions of the specification that every plugin of our chain speaks, the oldest first.

    A plugin refuses a newer one than it knows, and with it the pod: portmap before 1.5 knows no 1.1.0 (Debian 12 has 1.1.1).
    Where it cannot be asked, 1.0.0 is what we count on; where there is none, it refuses nothing.
    """
    path = bin_dir / PORTMAP
    if not portmap or (bin_dir.is_dir() and not os.path.lexists(path)):
        return SUPPORTED_VERSIONS
    try:
        stat = path.stat()
    except OSError:
        return KNOWN_TO_ALL
    return _spoken(path, stat.st_ino, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _spoken(path: Path, _inode: int, _changed: int) -> tuple[str, ...]:
    """Asked once for each file that was there."""
    try:
        spoken = supported_versions(path)
    except ConfigError as err:
        log.warning("%s", err)
        return KNOWN_TO_ALL
    return tuple(version for version in SUPPORTED_VERSIONS if version in spoken) or KNOWN_TO_ALL


def render(socket: Path, versions: Sequence[str], *, portmap: bool) -> str:
    """The network configuration list (CNI specification 1.1, section 1) for a chain that speaks `versions`.

    Runtimes that read `cniVersions` take the newest that they know; those that do not read it know `cniVersion`.
    """
    oldest = [version for version in versions if version in KNOWN_TO_ALL] or list(versions)
    offered = [version for version in versions if version >= oldest[-1]]
    plugins: list[dict[str, object]] = [
        {"type": PLUGIN, "socket": str(socket), "capabilities": {"bandwidth": True}}
    ]
    if portmap:
        plugins.append({"type": PORTMAP, "capabilities": {"portMappings": True}})
    conf = {"cniVersion": oldest[-1], "cniVersions": offered, "name": PLUGIN, "plugins": plugins}
    return json.dumps(conf, indent=2) + "\n"


def write(directory: Path, text: str) -> bool:
    """Make the file hold `text`, never half of it. False if it did already. Raises ConfigError."""
    path = directory / CONFLIST
    draft = directory / f".{CONFLIST}.new"
    try:
        if path.exists() and path.read_bytes() == text.encode():
            return False
        directory.mkdir(parents=True, exist_ok=True)
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as err:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write {path}: {err.strerror}",
            remedy="make the directory writable or choose --cni-conf-dir",
        ) from err
    return True


def remove(directory: Path) -> bool:
    """Remove the file. False if there was none. Raises ConfigError."""
    path = directory / CONFLIST
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as err:
        raise ConfigError(f"cannot remove {path}: {err.strerror}", remedy="remove it by hand") from err
    return True
