"""How to reach etcd: endpoints, files and credentials, and what is read from those files.

The CLI builds EtcdSettings from flags and environment. Files are read anew for every connection, so that
certificates and passwords can be exchanged under a running program. Nothing here opens a connection.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import ConfigError, EtcdDenied

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of the etcd cluster: `host` is a name or an address (IPv6 without brackets)."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, default_tls: bool = False) -> "Endpoint":
        """Read `http://HOST:PORT`, `https://HOST:PORT` or `HOST:PORT`. Raises ConfigError."""
        remedy = "give endpoints like https://etcd1.example:2379,https://etcd2.example:2379"
        if "@" in text:  # endpoints are in logs and errors
            raise ConfigError(
                f"etcd endpoint at {text.rpartition('@')[2]!r} has a user or password in it",
                remedy=f"{remedy}; users go to --etcd-username and --etcd-password-file",
            )
        try:
            url = urlsplit(text if "://" in text else f"{'https' if default_tls else 'http'}://{text}")
            host, port = url.hostname, DEFAULT_PORT if url.port is None else url.port
        except ValueError as err:
            raise ConfigError(f"etcd endpoint {text!r}: {err}", remedy=remedy) from err
        if url.scheme not in ("http", "https") or not host or url.path not in ("", "/"):
            raise ConfigError(f"etcd endpoint {text!r} is no http:// or https:// address", remedy=remedy)
        return cls(host, port, url.scheme == "https")


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is and who we are to it.

    `endpoints` are tried in turn. `cafile` signs the servers' certificates (the system's CAs if None);
    `certfile` and `keyfile` are our own certificate, `username` and `password_file` a user of etcd; both may
    be given, and then the user counts. `timeout` bounds every call, in seconds; `watchdog` is how long a
    watch may be silent, in seconds, before the server is asked whether it still lives. Raises ConfigError for
    combinations that cannot work.
    """

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    prefix: str = DEFAULT_PREFIX
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    username: str = ""
    password_file: Path | None = None
    timeout: float = 3.0
    watchdog: float = 3.0

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ConfigError("no etcd endpoint", remedy="give --etcd-endpoints")
        if not self.prefix.strip("/ "):
            raise ConfigError(
                f"etcd prefix {self.prefix!r} names no place of its own: everything in etcd would be ours",
                remedy=f"give --etcd-prefix like {DEFAULT_PREFIX}",
            )
        self.parsed()
        if (self.certfile is None) != (self.keyfile is None):
            raise ConfigError(
                "a client certificate for etcd needs both files",
                remedy="give --etcd-certfile and --etcd-keyfile",
            )
        if bool(self.username) != (self.password_file is not None):
            raise ConfigError(
                "an etcd user needs a name and a password",
                remedy="give --etcd-username and --etcd-password-file",
            )

    def parsed(self) -> tuple[Endpoint, ...]:
        """The endpoints; one without a scheme is https if a certificate file is given, as for etcdctl."""
        tls = self.cafile is not None or self.certfile is not None
        return tuple(Endpoint.parse(text, default_tls=tls) for text in self.endpoints)

    @property
    def files(self) -> tuple[Path, ...]:
        """What a connection is made from; a change of any of them asks for a new one."""
        files = (self.cafile, self.certfile, self.keyfile, self.password_file)
        return tuple(path for path in files if path is not None)

    def password(self) -> str:
        """The password as the file has it now, without the line's end. Raises EtcdDenied."""
        if self.password_file is None:
            return ""
        return _readable(self.password_file, "--etcd-password-file").decode(errors="replace").rstrip("\r\n")

    def tls_context(self) -> ssl.SSLContext:
        """TLS as the files say now. Raises EtcdDenied that names the file."""
        if self.cafile is not None:
            _readable(self.cafile, "--etcd-cafile")
        try:
            context = ssl.create_default_context(cafile=self.cafile)
        except ssl.SSLError as err:
            raise EtcdDenied(
                f"{self.cafile} holds no CA certificate ({err})", remedy="give a PEM file with --etcd-cafile"
            ) from err
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        if self.certfile is not None and self.keyfile is not None:
            _load_own(context, self.certfile, self.keyfile)
        return context


def split_endpoints(text: str) -> tuple[str, ...]:
    """The endpoints in a list with commas, as the flag has it."""
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def _load_own(context: ssl.SSLContext, certfile: Path, keyfile: Path) -> None:
    _readable(certfile, "--etcd-certfile")
    _readable(keyfile, "--etcd-keyfile")
    try:
        # the empty password makes an encrypted key an error; without one OpenSSL would ask on the terminal
        context.load_cert_chain(certfile, keyfile, password="")
    except (ssl.SSLError, ValueError) as err:
        raise EtcdDenied(
            f"{certfile} and {keyfile} are not a certificate and its unencrypted key ({err})",
            remedy="give matching PEM files with --etcd-certfile and --etcd-keyfile",
        ) from err


def _readable(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise EtcdDenied(
            f"cannot read {path} ({err.strerror})", remedy=f"check the file given with {flag}"
        ) from err
