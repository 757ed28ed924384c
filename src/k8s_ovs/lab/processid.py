"""A process that cannot be mistaken for another one with the same pid.

Recorded by the supervisor in state.json (pid and start time), so that `down`, `stop` and `status` know the lab's processes
even after the supervisor is gone, without ever taking another process for one of them.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid that cannot be mistaken: `start` is its start time in clock ticks since boot (proc(5), stat field 22)."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The process that has this pid now, or None. A zombie counts as none: it runs no more."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in {"Z", "X"} else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def pidfd(self) -> int | None:
        """A descriptor of this very process, or None if it is gone. The caller closes it."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return None
        if self.alive:
            return descriptor
        os.close(descriptor)
        return None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process is gone."""
        descriptor = self.pidfd()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True
