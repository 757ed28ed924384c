"""What the pages in `docs/` show as a terminal: commands with what they print, read so that a test can repeat them.

A block between lines of three backticks is a transcript if it begins with `$ `. What follows a command is its output, up to the
next command. A line `…` stands for lines that were left out. The same reading serves for comparing: times, counters and ports
differ from run to run, names and addresses do not.
"""

import re
from dataclasses import dataclass

BLOCK = re.compile(r"^```\n(\$ .*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?(?![\w.]*\.\d)")


@dataclass(frozen=True)
class Shown:
    """A command of a page and the lines that it prints there."""

    command: str
    output: tuple[str, ...]


def transcripts(text: str) -> list[Shown]:
    """The commands of a page, in its order."""
    return [shown for block in BLOCK.findall(text) for shown in _commands(block)]


def _commands(block: str) -> list[Shown]:
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [
        Shown(first, tuple(line for line in rest if line.strip() and line.strip() != "…"))
        for first, *rest in (part.splitlines() for part in parts)
    ]


def missing(shown: Shown, printed: str) -> list[str]:
    """Lines of the page that the command has not printed, whatever the numbers in them."""
    found = {plain(line) for line in printed.splitlines()}
    return [line for line in shown.output if plain(line) not in found]


def plain(line: str) -> str:
    """A line without what differs from run to run: numbers that are no address, and the width of columns."""
    return " ".join(NUMBER.sub("N", re.sub(r"\b\d+(m\d+)?s\b", "AGE", line)).split())
