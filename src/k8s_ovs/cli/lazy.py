"""A command group that imports a command's module when the command is used.

A daemon must not pay for the lab, nor `lab exec` for the daemons: what Python imports is most of a command's start.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group; `commands_in` maps a command's name to "module:attribute" below `k8s_ovs.cli`."""

    def __init__(self, *args: Any, commands_in: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands_in = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they were given."""
        return list(self._commands_in)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self._commands_in:
            return None
        module, _, name = self._commands_in[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"k8s_ovs.cli.{module}"), name)
        return command
