"""How commands print what they found: a table for people, JSON or YAML for programs.

Used by the commands for tenants and subnets. It knows nothing of what it prints.
"""

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "yaml")

format_option: Callable[[F], F] = click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="json and yaml are for programs.",
)


def emit(output: str, data: object, table: Callable[[], str]) -> None:
    """Print `data` (plain lists, dicts, strings, numbers) as `output` says; `table` makes the text for people."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    elif output == "yaml":
        yaml = import_module("yaml")  # which takes as long to load as the rest of a command
        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(table())


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text with aligned columns; the first row is the header. An empty cell is shown as a dash."""
    filled = [[cell or "-" for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in filled) for column in range(len(filled[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in filled
    )


def say(text: str) -> None:
    """Tell the user something beside the result: on stderr, so that programs read only the result."""
    click.echo(text, err=True)
