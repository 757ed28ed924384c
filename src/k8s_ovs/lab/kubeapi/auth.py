"""Who is let in: a static bearer token, or a client certificate; TLS contexts.

Called by the server. There are no users and no rights: whoever is let in may do everything.
"""

import hmac
import ssl
from pathlib import Path

from aiohttp import web

from k8s_ovs.errors import ConfigError
from k8s_ovs.lab.kubeapi.answers import unauthorized
from k8s_ovs.lab.kubeapi.settings import Settings, TlsFiles

OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version")


class TokenFile:
    """The token in a file, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def matches(self, given: str) -> bool:
        """Whether this is the token now; false when the file cannot be read or is empty."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._token = self._path.read_text().strip()
                self._stamp = stamp
        except OSError:
            return False
        return bool(self._token) and hmac.compare_digest(self._token.encode(), given.encode())


class Gate:
    """Lets requests in, or not."""

    def __init__(self, settings: Settings) -> None:
        self._token = TokenFile(settings.token_file) if settings.token_file else None
        certificates = settings.tls is not None and settings.tls.client_ca is not None
        self._open = self._token is None and not certificates

    def check(self, request: web.Request) -> None:
        """Raise ApiError 401 unless the request has the token or came with a certificate of the client CA."""
        if self._open or request.path in OPEN_PATHS:
            return
        transport = request.transport
        if transport is not None and transport.get_extra_info("peercert"):
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if self._token is None or scheme.lower() != "bearer" or not self._token.matches(given.strip()):
            raise unauthorized()


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """The server's TLS context. Raises ConfigError for files that cannot be used.

    Clients may come without a certificate: the gate answers them with 401, as the real API server does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as err:
        raise ConfigError(
            f"TLS of the API server: {files.cert}, {files.key}, {files.client_ca}: {err}",
            remedy="give PEM files that belong together",
        ) from err
    return context
