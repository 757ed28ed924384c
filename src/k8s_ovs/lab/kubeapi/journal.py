"""The journal: every change as one JSON line, so that the API's state survives kill -9.

Used by the store only. A line is written with one write(2) before the change is visible to anybody; what the kernel
has taken survives the death of the process (not of the machine: there is no fsync per line, this is a lab). A torn
last line, from a death within the write, is cut off at the next start.

    {"journal":1,"base":40}                          state up to this revision follows as plain "set" lines
    {"rv":12,"of":"pods","set":{…}}                  the object is now this
    {"rv":41,"of":"pods","del":["red","web"]}        no such object any more
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from k8s_ovs.errors import LabError

FORMAT = 1


class Journal:
    """An append-only file of JSON lines; one process writes it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._fd = -1

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the records of the file, if there is one; the torn tail of a death is left out.

        Raises LabError when a line before the last cannot be read: then the file is no journal, or damaged.
        """
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                record = msgspec.json.decode(line)
            except msgspec.DecodeError as err:
                if number == len(lines):
                    return
                raise LabError(
                    f"{self.path}: line {number} is no JSON ({err})", remedy="remove the file to start empty"
                ) from err
            if not isinstance(record, dict):
                raise LabError(
                    f"{self.path}: line {number} is no record", remedy="remove the file to start empty"
                )
            yield record

    def rewrite(self, records: Iterable[bytes], base: int) -> None:
        """Replace the file by these records (one line each, without the newline), then append to it.

        Atomic: a death in the middle leaves the old file.
        """
        fresh = self.path.with_name(self.path.name + ".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode({"journal": FORMAT, "base": base}) + b"\n")
            for record in records:
                file.write(record + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        self.close()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.size = self.path.stat().st_size

    def append(self, record: bytes) -> None:
        """Write one record. Raises OSError (disk full, read-only); then nothing of it stays in the file."""
        line = record + b"\n"
        try:
            written = os.write(self._fd, line)
        except OSError:
            os.truncate(self.path, self.size)
            raise
        if written != len(line):
            os.truncate(self.path, self.size)
            raise OSError(f"{self.path}: only {written} of {len(line)} octets written: is the disk full?")
        self.size += written

    def close(self) -> None:
        """Close the file; appending is over."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
