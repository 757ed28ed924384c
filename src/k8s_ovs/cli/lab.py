"""`k8s-ovs lab …`: a whole cluster on this machine.

The group itself; its commands are in `lab_commands`, which is imported when one of them is used: the agent's start
must not pay for the lab.
"""

from importlib import import_module

import click


class _LazyGroup(click.Group):
    """A group whose commands are in another module."""

    @property
    def _loaded(self) -> dict[str, click.Command]:
        commands: dict[str, click.Command] = import_module("k8s_ovs.cli.lab_commands").COMMANDS
        return commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._loaded)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._loaded.get(cmd_name)


@click.group(cls=_LazyGroup)
def lab() -> None:
    """A whole cluster on this machine: nodes, pods and a control plane in network namespaces."""
