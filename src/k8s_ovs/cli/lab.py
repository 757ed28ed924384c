"""`k8s-ovs lab …`: a whole cluster on this machine.

The group itself. A command's module is imported when the command is used: the agent's start must not pay for the lab,
nor `lab exec` for the matrix.
"""

import os
import sys
from pathlib import Path

import click

import k8s_ovs
from k8s_ovs.cli.lazy import LazyGroup

_COMMANDS = {
    "up": "lab_basic:up",
    "down": "lab_basic:down",
    "add-host": "lab_basic:add_host",
    "stop": "lab_basic:stop",
    "start": "lab_basic:start",
    "env": "lab_places:env",
    "exec": "lab_places:exec_",
    "status": "lab_status:status_",
    "list": "lab_status:list_",
    "matrix": "lab_matrix:matrix_",
    "demo": "lab_demo:demo_",
}


@click.group(cls=LazyGroup, commands_in=_COMMANDS)
def lab() -> None:
    """A whole cluster on this machine: nodes, pods and a control plane in network namespaces."""
    if sys.flags.isolated:
        # Installed by tools/install.sh, where only the launcher knows the package's place; the lab's processes need it too.
        os.environ["PYTHONPATH"] = str(Path(k8s_ovs.__file__).parents[1])
