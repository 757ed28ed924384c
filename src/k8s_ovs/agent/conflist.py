"""The file that makes kubelet's runtime call us: 80-k8s-ovs.conflist.

Written by the agent once it can serve (kubelet then calls the node Ready), removed by `k8s-ovs uninstall`. A restart of
the agent leaves it where it is: the plugin answers "try again later" meanwhile.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from k8s_ovs.errors import ConfigError

CONFLIST = "80-k8s-ovs.conflist"
PLUGIN = "k8s-ovs"
CNI_VERSION = "1.1.0"


def render(socket: Path, *, portmap: bool) -> str:
    """The network configuration list (CNI specification 1.1, section 1)."""
    plugins: list[dict[str, object]] = [
        {"type": PLUGIN, "socket": str(socket), "capabilities": {"bandwidth": True}}
    ]
    if portmap:
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
    return json.dumps({"cniVersion": CNI_VERSION, "name": PLUGIN, "plugins": plugins}, indent=2) + "\n"


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
