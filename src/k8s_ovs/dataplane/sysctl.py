"""Where the kernel's network settings (sysctl net.*) can be written: also in a container that is not privileged.

For `links` and `hostnet`. The container runtime mounts /proc/sys read-only; the manifests therefore mount the host's
/proc/sys/net at a second place. Either shows the settings of the network namespace of the thread that opens a file
(net/sysctl_net.c in the kernel), so that nothing but the path differs.
"""

from collections.abc import Sequence
from pathlib import Path

MOUNTED = Path("/host/proc/sys/net")
"""Where deploy/ mounts the host's /proc/sys/net."""
USUAL = Path("/proc/sys/net")


def settings_root(candidates: Sequence[Path] = (MOUNTED, USUAL)) -> Path:
    """The first candidate that is there: the folder above `ipv4` and `ipv6`."""
    return next((path for path in candidates if (path / "ipv4").is_dir()), USUAL)


SETTINGS = settings_root()
