"""Tells systemd how the daemon is doing (sd_notify(3)), without libsystemd.

For `cli` and `agent`: READY=1 once pods can be served, STATUS=… while waiting, STOPPING=1 at the end. Without
NOTIFY_SOCKET nothing is sent. A notification that cannot be delivered never stops the daemon.
"""

import logging
import os
import socket
from collections.abc import Mapping

_log = logging.getLogger(__name__)


class Notifier:
    """The service manager's notification socket; `address` as in NOTIFY_SOCKET, empty for none."""

    def __init__(self, address: str = "") -> None:
        self._address = address
        self._status = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Notifier":
        """The socket that NOTIFY_SOCKET names, if the service manager set it."""
        return cls(environ.get("NOTIFY_SOCKET", ""))

    @property
    def enabled(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        """Start-up is finished. Returns whether the message was delivered."""
        return self._send("READY=1", *self._status_lines(status))

    def stopping(self, status: str = "") -> bool:
        """The daemon is about to end."""
        return self._send("STOPPING=1", *self._status_lines(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`; the same line twice in a row is sent once."""
        if text == self._status:
            return True
        return self._send(*self._status_lines(text))

    def _status_lines(self, text: str) -> list[str]:
        if not text:
            return []
        self._status = text
        return ["STATUS=" + " ".join(text.split())]

    def _send(self, *lines: str) -> bool:
        if not self._address:
            return False
        # A leading "@" stands for the NUL octet of an abstract socket (unix(7)).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # a service manager that hangs must not take us with it
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as err:
            _log.debug("sd_notify to %s: %s", self._address, err)
            return False
        return True
