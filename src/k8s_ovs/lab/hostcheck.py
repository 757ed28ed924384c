"""What the machine under the lab has: programs, privileges, networks in use.

Called by `lifecycle.up` before anything is made, so that a missing package is one sentence and not half a lab.
"""

import json
import os
import shutil
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

from k8s_ovs.errors import LabError

_PROGRAMS = {
    "ovsdb-server": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovsdb-tool": "openvswitch-common",
    "ovs-vsctl": "openvswitch-common",
    "ovs-ofctl": "openvswitch-common",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "iptables-restore": "iptables",
    "nsenter": "util-linux",
}
"""Program to Debian package."""

_PORTMAP_DIRS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")


def check_root() -> None:
    """Raise LabError unless we may make namespaces."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, and only root may", remedy="run it with sudo")


def check_programs() -> None:
    """Raise LabError naming every program that is missing and the Debian package that has it."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        packages = sorted({_PROGRAMS[program] for program in missing})
        raise LabError(
            f"missing on this machine: {', '.join(missing)}", remedy=f"apt-get install {' '.join(packages)}"
        )


def networks_in_use() -> list[IPv4Network]:
    """Every IPv4 destination in the host's routing tables, without the default route."""
    done = subprocess.run(
        ["ip", "-4", "-json", "route", "show", "table", "all"], capture_output=True, check=False, text=True
    )
    if done.returncode != 0:
        return []  # a hint for defaults only: the lab's networks live in namespaces of their own
    found = []
    for route in json.loads(done.stdout or "[]"):
        destination = route.get("dst", "default")
        if destination != "default" and route.get("type") != "broadcast":
            found.append(IPv4Network(destination, strict=False))
    return found


def find_portmap() -> Path | None:
    """The standard portmap plugin, if the machine has it."""
    for directory in _PORTMAP_DIRS:
        path = Path(directory) / "portmap"
        if os.access(path, os.X_OK):
            return path
    return None
