"""Who is let in: a static bearer token, or a client certificate; TLS contexts.

Called by the server. Who comes with the static token or a certificate, or when nothing is asked for, is the
administrator; who comes with a service account's token is that account, and rbac.py tells what it may do.
"""

import hmac
import ssl
from pathlib import Path

from aiohttp import web

from k8s_ovs.errors import ConfigError
from k8s_ovs.lab.kubeapi.answers import unauthorized
from k8s_ovs.lab.kubeapi.rbac import ADMIN, User
from k8s_ovs.lab.kubeapi.settings import Settings, TlsFiles
from k8s_ovs.lab.kubeapi.tokens import ServiceAccountTokens

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

    def __init__(self, settings: Settings, accounts: ServiceAccountTokens | None = None) -> None:
        self._accounts = accounts
        self._token = TokenFile(settings.token_file) if settings.token_file else None
        certificates = settings.tls is not None and settings.tls.client_ca is not None
        self._open = self._token is None and not certificates and accounts is None

    def identify(self, request: web.Request) -> User:
        """Who asks. Raises ApiError 401 without a token that is known or a certificate of the client CA."""
        if self._open or request.path in OPEN_PATHS:
            return ADMIN
        transport = request.transport
        if transport is not None and transport.get_extra_info("peercert"):
            return ADMIN
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self._token is not None and self._token.matches(given.strip()):
                return ADMIN
            user = self._accounts.user(given.strip()) if self._accounts is not None else None
            if user is not None:
                return user
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
