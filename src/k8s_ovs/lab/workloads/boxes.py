"""What a container's process gets to see of the machine: root, volumes, capabilities. Writes the specification for box.py.

Called by the workload runner for each container and for each node's own view (what the container runtime, and with it the
CNI executables, see). Starts nothing.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import k8s_ovs
from k8s_ovs.errors import LabError
from k8s_ovs.lab import hostcheck
from k8s_ovs.lab.cluster import Cluster

BOX = Path(__file__).with_name("box.py")
SOURCES = Path(k8s_ovs.__file__).resolve().parents[1]
_EMPTY = ("/run", "/tmp", "/opt", "/mnt", "/var/lib", "/var/log", "/etc/cni", "/root", "/home")  # noqa: S108 - inside
_PLUGINS = Path("usr/lib/k8s-ovs/cni")

DEFAULT_CAPABILITIES = frozenset(
    [
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SYS_CHROOT",
        "MKNOD",
        "AUDIT_WRITE",
        "SETFCAP",
    ]
)
"""Of containerd and CRI-O, for a container that asks for nothing."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container: a directory or file of this machine, and where it is seen."""

    source: Path
    at: str
    read_only: bool = False
    propagates: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """One container: `capabilities` None means all (privileged); `user` None is root."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    mounts: Sequence[Mount]
    hostname: str
    directory: str = "/"
    capabilities: frozenset[str] | None = None
    read_only_root: bool = False
    user: int | None = None
    group: int | None = None


def image_layer(cluster: Cluster) -> Path:
    """What the image has and this machine has not: the program, and the CNI executables. Made once."""
    layer = cluster.directory / "image"
    plugins = layer / _PLUGINS
    if layer.exists():
        return layer
    for directory in (layer / "usr/sbin", layer / "usr/bin", plugins):
        directory.mkdir(parents=True)
    text = f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(SOURCES))} exec {shlex.quote(sys.executable)} -m k8s_ovs.cli.main "$@"\n'
    for name in ("usr/sbin/k8s-ovs", "usr/bin/kubectl-ovs"):
        (layer / name).write_text(text)
        (layer / name).chmod(0o755)
    shutil.copy(cluster.cni_bin / "k8s-ovs", plugins / "k8s-ovs")
    portmap = hostcheck.find_portmap()
    for name in ("portmap", "loopback"):
        if portmap is not None and (portmap.parent / name).exists():
            shutil.copy(portmap.parent / name, plugins / name)
    return layer


def write(box: Box, cluster: Cluster, folder: Path, name: str) -> tuple[str, ...]:
    """Write the specification of a box into `folder`; the command line that starts it. Raises LabError."""
    for mount in box.mounts:
        if not mount.source.exists():
            raise LabError(f"{mount.source}, to be seen at {mount.at}, does not exist")
    folder.mkdir(parents=True, exist_ok=True)
    own = dict.fromkeys(
        str(path)
        for path in (SOURCES, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path(sys.prefix))
    )
    read_only = ["/"] if box.read_only_root else []
    if box.capabilities is not None:
        read_only += ["/proc/sys", "/sys"]
    specification = {
        "base": str(folder / f"{name}.root"),
        "layer": str(image_layer(cluster)),
        "empty": _EMPTY,
        "own": [path for path in own if not path.startswith(("/usr/", "/bin/"))],
        "mounts": [
            {"source": str(m.source), "at": m.at, "read_only": m.read_only, "propagates": m.propagates}
            for m in box.mounts
        ],
        "read_only": read_only,
        "hostname": box.hostname,
        "directory": box.directory,
        "argv": [*_privileges(box), *box.argv],
        "environment": dict(box.environment),
    }
    file = folder / f"{name}.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(specification))
    return (sys.executable, "-I", "-S", str(BOX), str(file))


def _privileges(box: Box) -> list[str]:
    """setpriv(1) takes from the process what its securityContext does not give."""
    words = []
    if box.capabilities is not None:
        kept = ",".join(["-all", *(f"+{name.lower()}" for name in sorted(box.capabilities))])
        words += [f"--bounding-set={kept}", f"--inh-caps={kept}"]
    if box.user is not None:
        words += [f"--reuid={box.user}", f"--regid={box.group or box.user}", "--clear-groups"]
    elif box.group is not None:
        words += [f"--regid={box.group}", "--clear-groups"]
    return ["setpriv", *words, "--"] if words else []
