"""Log records of the daemons: one line each, plain or JSON, with the pod, sandbox and request they belong to.

`cli` calls `setup_logging` once; everybody else uses `logging.getLogger(__name__)` and `log_context`. Nothing
here opens a file: logs go to stderr, where systemd, the container runtime or the lab collects them.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from k8s_ovs.errors import ConfigError

QUIET_VERBOSITY = -1
"""Warnings only: for commands that end, whose output is what they are asked for."""
SILENT_VERBOSITY = -2
"""Not even warnings: for commands that look once, and say in one sentence why they could not."""
DEBUG_VERBOSITY = 4
"""From here `--v` shows what this program does in detail (the seed starts it with --v=5)."""
LIBRARY_VERBOSITY = 6
"""From here `--v` shows the details of the libraries too."""
TELLTALES = ("hpack",)
"""Libraries that are never asked for details: this one writes every HTTP/2 header to the log, and so etcd's tokens."""

_PACKAGE = "k8s_ovs"
_context: ContextVar[Mapping[str, str]] = ContextVar("k8s_ovs_log_context")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`verbosity` is the number of `--v`; `as_json` one JSON object per line instead of plain text."""

    verbosity: int = 0
    as_json: bool = False


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add fields (pod="web/a", sandbox, request) to all records logged inside, also by tasks begun there."""
    token = _context.set({**current_context(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def current_context() -> Mapping[str, str]:
    """The fields that `log_context` has set here."""
    return _context.get({})


def setup_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all records to `stream` (stderr). Called again, it replaces what it set before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.as_json else PlainFormatter())
    logging.basicConfig(handlers=[handler], force=True)
    set_verbosity(settings.verbosity)


def set_verbosity(verbosity: int) -> None:
    """Set the levels for a `--v` number: 0 to 3 info, 4 and 5 debug, from 6 on the libraries' debug too; below 0 less."""
    usual = {QUIET_VERBOSITY: logging.WARNING, SILENT_VERBOSITY: logging.ERROR}.get(verbosity, logging.INFO)
    logging.getLogger(_PACKAGE).setLevel(logging.DEBUG if verbosity >= DEBUG_VERBOSITY else usual)
    logging.getLogger().setLevel(logging.DEBUG if verbosity >= LIBRARY_VERBOSITY else logging.WARNING)
    for name in TELLTALES:
        logging.getLogger(name).setLevel(logging.WARNING)


def parse_verbosity(text: str) -> int:
    """A `--v` number, or "info", "debug" or "trace" for 0, 4 and 6. Raises ConfigError."""
    words = {"info": 0, "debug": DEBUG_VERBOSITY, "trace": LIBRARY_VERBOSITY}
    word = text.strip().lower()
    if word in words:
        return words[word]
    if word.isascii() and word.isdigit():
        return int(word)
    raise ConfigError(
        f"log level {text.strip()!r} is unknown", remedy="use a number from 0 to 6, info, debug or trace"
    )


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO agent.app: message pod=web/a`; line ends inside a message are escaped.

    Names, labels and error texts come from outside: an unescaped line end would let them forge records.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by the traceback if there is one."""
        name = record.name.removeprefix(_PACKAGE + ".")
        fields = "".join(f" {key}={_quote(value)}" for key, value in current_context().items())
        message = _one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname} {name}: {message}{fields}"
        trace = _traceback(self, record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the context's fields, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        entry: dict[str, str] = {
            **current_context(),
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        trace = _traceback(self, record)
        if trace:
            entry["exception"] = trace
        return json.dumps(entry, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quote(value: str) -> str:
    plain = value and value.isprintable() and not any(c in ' "=' for c in value)
    return value if plain else json.dumps(value, ensure_ascii=False)
