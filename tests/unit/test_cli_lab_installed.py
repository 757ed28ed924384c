"""The lab of an installed product, whose package only the launcher's own path leads to."""

import os
import subprocess
import sys
from pathlib import Path

import k8s_ovs

PLACE = Path(k8s_ovs.__file__).parents[1]
CHILD = "import k8s_ovs; print(k8s_ovs.__file__)"
LAUNCHER = f"""
import subprocess, sys
sys.path[:0] = {sys.path!r}
from k8s_ovs.cli import lab
lab.lab.callback()
print(subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True).stdout.strip())
"""


def test_its_processes_find_the_package(tmp_path: Path) -> None:
    """They ended with "No module named k8s_ovs"."""
    (tmp_path / "k8s_ovs").symlink_to(PLACE / "k8s_ovs")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = LAUNCHER.replace("sys.path[:0] = ", f"sys.path[:0] = [{str(tmp_path)!r}] + ")
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (f"{tmp_path}/k8s_ovs/__init__.py", "")
