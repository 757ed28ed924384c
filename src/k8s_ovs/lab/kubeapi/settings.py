"""How the API server is started: addresses, files, Service CIDR.

Filled by __main__ from the command line, by the lab and by tests directly.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

DEFAULT_SERVICE_CIDR = IPv4Network("10.96.0.0/16")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate and key of the server (PEM), and the CA that clients' certificates must come from, if any."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """One server.

    `listen` are addresses to bind (port 0 lets the kernel choose), `fds` sockets that listen already. Without a
    journal, state ends with the process. `token_file` holds the one bearer token that is let in; it is read again when
    it changes. With `account_key` (a file, made if it is missing) service accounts have tokens, signed with it, and RBAC
    tells what they may do. `advertise` (address, port) is where pods find the API behind the Service default/kubernetes.
    `bookmark_interval` is in seconds.
    """

    listen: tuple[tuple[str, int], ...] = ()
    fds: tuple[int, ...] = ()
    journal: Path | None = None
    service_cidr: IPv4Network = DEFAULT_SERVICE_CIDR
    token_file: Path | None = None
    account_key: Path | None = None
    tls: TlsFiles | None = None
    advertise: tuple[str, int] | None = None
    bookmark_interval: float = 15.0
