"""Nothing in the product is decided by the calendar, which people and NTP set back and forth, but for what is named here."""

import ast
from pathlib import Path

import k8s_ovs

SOURCE = Path(k8s_ovs.__file__).parent
ALLOWED = {
    "sources/kube/clock.py": "what is written into Leases and Events for people, and when a plugin's token ends (RFC 3339)",
    "runtime/logs.py": "the time in a line of the log",
    "runtime/openssl.py": "whether a certificate will still be valid: its end is a date",
}
"""Where the calendar is read, and what for. The lab is no part of the product's path."""
CALENDAR = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("date", "today"),
}
CALENDAR |= {("datetime", "fromtimestamp"), ("time", "localtime"), ("time", "gmtime")}


def reads_calendar(text: str) -> bool:
    names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    found = [(node.value.id, node.attr) for node in names if isinstance(node.value, ast.Name)]
    imported = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return bool(CALENDAR & {*found, *imported})


def test_the_calendar_is_read_where_it_has_to_be_and_nowhere_else() -> None:
    files = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != "lab"]
    assert len(files) > 100
    found = {str(path.relative_to(SOURCE)) for path in files if reads_calendar(path.read_text())}
    assert found == ALLOWED.keys()
