"""HTTP to the API server: connections, credentials, retries that are safe, and errors in our own words.

Used by the client only. It knows URLs and bodies, not objects.
"""

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
from aiohttp.typedefs import StrOrURL

from k8s_ovs.errors import KubeDenied, KubeError, KubeUnavailable
from k8s_ovs.sources.kube.clock import Clock
from k8s_ovs.sources.kube.credentials import Access, Credentials
from k8s_ovs.sources.kube.status import error_from, retry_after, status_from

CONNECT_TIMEOUT = 10.0
READ_BUFFER = 1 << 18
"""Octets: few wake-ups for a list of many megabytes."""
KEEPALIVE = {
    socket.TCP_KEEPIDLE: 15,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 30_000,
}
"""tcp(7): a peer that vanished without a word is noticed after half a minute, whether we wait or send."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `path` and `query` are unquoted."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"


class Transport:
    """Sends calls. `timeout` is the deadline of one call in seconds, retries included."""

    def __init__(self, credentials: Credentials, *, agent: str, timeout: float, clock: Clock) -> None:
        self.credentials = credentials
        self._agent = agent
        self._timeout = timeout
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Get ready; nothing is sent yet."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent, "Accept": "application/json"},
            read_bufsize=READ_BUFFER,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def name(self, call: Call) -> str:
        """The call for messages: method and URL, without the parameters."""
        return f"{call.method} {self.credentials.server}{call.path}"

    async def send(self, call: Call) -> bytes:
        """The body of the answer. Raises KubeError's kinds."""
        async with self.open(call) as response:
            with self.translated(call):
                return await response.read()

    @asynccontextmanager
    async def open(
        self, call: Call, timeout: aiohttp.ClientTimeout | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, its body not yet read. `timeout` replaces the call's deadline once the server has accepted it.

        429 is waited out as long as the deadline allows; 401 makes us read the credentials anew and try once more.
        """
        deadline = self._clock.monotonic() + self._timeout
        renewed = False
        while True:
            access = await self.credentials.access()
            left = deadline - self._clock.monotonic()
            limit = timeout or aiohttp.ClientTimeout(total=max(left, 0.001), sock_connect=CONNECT_TIMEOUT)
            with self.translated(call):
                response = await self._request(call, access, limit)
            try:
                if response.status < HTTPStatus.MULTIPLE_CHOICES:
                    yield response
                    return
                error = await self._error(call, response)
            finally:
                response.close()
            if error.status == HTTPStatus.UNAUTHORIZED and not renewed:
                renewed = True
                await self.credentials.renew(access)
                continue
            wait = retry_after(response.status, response.headers, safe=call.method == "GET")
            if wait is None or self._clock.monotonic() + wait >= deadline:
                error.retry_after = wait
                raise error
            await self._clock.sleep(wait)

    @contextmanager
    def translated(self, call: Call) -> Iterator[None]:
        """Turn what the network raises into KubeUnavailable, and what TLS raises into KubeDenied."""
        try:
            yield
        except (aiohttp.ClientError, ssl.SSLError, OSError, TimeoutError) as err:
            raise _network_error(self.name(call), self.credentials, err) from err

    async def _request(
        self, call: Call, access: Access, limit: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("KubeClient is used outside its `async with`")
        headers = {"Content-Type": call.content_type} if call.body is not None else {}
        if access.authorization:
            headers["Authorization"] = access.authorization
        proxy: StrOrURL | None = access.proxy or None
        return await self._session.request(
            call.method,
            access.server + call.path,
            params=call.query,
            data=call.body,
            headers=headers,
            ssl=access.tls or True,
            server_hostname=access.server_hostname or None,
            proxy=proxy,
            timeout=limit,
            allow_redirects=False,
        )

    async def _error(self, call: Call, response: aiohttp.ClientResponse) -> KubeError:
        with self.translated(call):
            body = await response.read()
        status = status_from(body, code=response.status)
        return error_from(self.name(call), status, origin=self.credentials.origin)


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _network_error(what: str, credentials: Credentials, err: Exception) -> KubeError:
    origin = credentials.origin
    if isinstance(err, aiohttp.ClientConnectorCertificateError):
        reason = f"{what}: the server's certificate is not to be trusted ({err.certificate_error})"
        remedy = f"correct the certificate authority or the server's name in {origin}"
        return KubeDenied(reason, reason="Certificate", remedy=remedy)
    tls = _tls_cause(err)
    if tls is not None and not isinstance(tls, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        remedy = f"check the client certificate, and that the server speaks TLS as {origin} says"
        return KubeDenied(f"{what}: TLS failed ({tls})", reason="TLS", remedy=remedy)
    if isinstance(err, TimeoutError):
        remedy = f"check that the API server answers, that {origin} names it, and that no firewall between drops packets"
        return KubeUnavailable(f"{what}: no answer in time", reason="Timeout", remedy=remedy)
    remedy = f"check that the API server runs and that {origin} names it"
    dropped = isinstance(err, OSError) and err.errno in {None, errno.ECONNRESET}
    if credentials.server.startswith("https://") and (
        dropped or isinstance(err, aiohttp.ServerDisconnectedError)
    ):
        # Many servers say why they refuse a client certificate; some just close the connection.
        remedy += ", and the client certificate if the server wants one"
    said = str(err) or type(err).__name__
    return KubeUnavailable(f"{what}: no answer ({said})", reason="Network", remedy=remedy)


def _tls_cause(err: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that `err` is or was raised for; aiohttp wraps alerts that come after the handshake."""
    while err is not None:
        if isinstance(err, ssl.SSLError):
            return err
        err = err.__cause__
    return None
