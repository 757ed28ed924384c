"""The CNI executable of the lab: taken from the build directory, given as an option, or compiled now.

Called by `lifecycle.up`. The kubelet finds it in the lab's own directory under the name that the conflist gives it.
"""

import os
import shutil
import subprocess
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import Cluster

PLUGIN = "k8s-ovs"
_PACKAGE = Path(__file__).resolve().parents[1]
SOURCE = _PACKAGE / "cni" / "shim.c"
BUILT = _PACKAGE.parents[1] / "build" / "k8s-ovs-cni"
"""Where `make shim` puts it in a checkout."""


def install(cluster: Cluster) -> None:
    """Put the executables of the chain into the cluster's CNI directory. Raises LabError."""
    cluster.cni_bin.mkdir(parents=True, exist_ok=True)
    target = cluster.cni_bin / PLUGIN
    given = cluster.shim
    if given is not None:
        if not os.access(given, os.X_OK):
            raise LabError(f"--cni-bin {given} is not an executable", remedy="build it with `make shim`")
        target.symlink_to(given.resolve())
    elif _is_fresh(BUILT):
        shutil.copy(BUILT, target)
    else:
        _compile(target)
    if cluster.portmap is not None:
        (cluster.cni_bin / "portmap").symlink_to(cluster.portmap)


def _is_fresh(built: Path) -> bool:
    try:
        return os.access(built, os.X_OK) and built.stat().st_mtime >= SOURCE.stat().st_mtime
    except OSError:
        return False


def _compile(target: Path) -> None:
    compiler = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)
    if compiler is None:
        raise LabError(
            "the CNI executable is not built and there is no C compiler",
            remedy="apt-get install gcc libc6-dev, or give one that is built with --cni-bin",
        )
    done = subprocess.run(
        [compiler, "-std=c11", "-O2", "-static", "-o", str(target), str(SOURCE)],
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        raise LabError(
            f"compiling {SOURCE.name} failed: {done.stderr.strip()}", remedy="apt-get install libc6-dev"
        )
