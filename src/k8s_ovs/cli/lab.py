"""`k8s-ovs lab …`: a whole cluster on this machine.

The group itself. A command's module is imported when the command is used: the agent's start must not pay for the lab,
nor `lab exec` for the matrix.
"""

from importlib import import_module

import click

_COMMANDS = {
    "up": "lab_basic:up",
    "down": "lab_basic:down",
    "env": "lab_basic:env",
    "exec": "lab_basic:exec_",
    "status": "lab_reports:status_",
    "matrix": "lab_reports:matrix_",
    "demo": "lab_reports:demo_",
}


class _LazyGroup(click.Group):
    """A group whose commands are in other modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"k8s_ovs.cli.{module}"), name)
        return command


@click.group(cls=_LazyGroup)
def lab() -> None:
    """A whole cluster on this machine: nodes, pods and a control plane in network namespaces."""
