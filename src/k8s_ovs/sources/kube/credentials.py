"""Where the API server is and how to prove who we are, now and after every rotation.

Used by the client, which asks for `access()` before each request. Reads files and runs credential plugins; never talks
to the API server itself. Nothing here reads the process environment: it is handed in with the settings.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from ssl import SSLContext

from k8s_ovs.errors import ConfigError, KubeDenied
from k8s_ovs.sources.files import Signatures, signatures
from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock
from k8s_ovs.sources.kube.exec_plugin import PluginStatus, run_plugin
from k8s_ovs.sources.kube.kubeconfig import Profile, read_kubeconfig, server_url
from k8s_ovs.sources.kube.tls import tls_context

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CHECK_SECONDS = 2.0
"""How often the files are looked at: a stat of each before a request, but not before every one of a burst."""
EXPIRY_MARGIN = timedelta(seconds=10)
"""A plugin's credentials are replaced this long before they expire."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """What the user said about the API server. `environ` is the process environment, handed in by the CLI."""

    kubeconfig: Path | None = None
    context: str = ""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_account_dir: Path = SERVICE_ACCOUNT_DIR


@dataclass(frozen=True, slots=True)
class Access:
    """What one request needs: base URL, value of the Authorization header (may be empty), TLS, proxy (may be empty)."""

    server: str
    authorization: str = field(repr=False)
    tls: SSLContext | None
    server_hostname: str
    proxy: str


class Credentials:
    """The address of the API server and the current proof of identity.

    `load` reads the profile; it is called again when one of the profile's files has changed and after a 401. If what
    it finds then is unusable (half a rotation, say), the last good one stays in use and the log says so.
    """

    def __init__(
        self, load: Callable[[], Profile], *, environ: Mapping[str, str], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._load = load
        self._environ = environ
        self._clock = clock
        self._lock = asyncio.Lock()
        self._plugin = PluginStatus()
        self._plugin_due = True
        self._next_check = 0.0
        self._complaint = ""
        self._seen: Signatures = ()
        self._profile, self._access = self._read_all()

    @property
    def origin(self) -> str:
        """Where the credentials come from, for messages."""
        return self._profile.origin

    @property
    def server(self) -> str:
        """The API server's base URL."""
        return self._access.server

    async def access(self) -> Access:
        """What to use for the next request. Raises KubeDenied if a credential plugin fails."""
        async with self._lock:
            now = self._clock.monotonic()
            if now >= self._next_check:
                self._next_check = now + CHECK_SECONDS
                if signatures(self._profile.files) != self._seen:
                    self._reload()
            if self._profile.exec is not None and self._plugin_expired():
                await self._run_plugin()
            return self._access

    async def renew(self, refused: Access) -> None:
        """Read everything anew, after the server refused `refused` with 401. Costs nothing if that is done already."""
        async with self._lock:
            if refused is not self._access:
                return
            self._reload()
            self._plugin_due = True

    def _reload(self) -> None:
        try:
            self._profile, self._access = self._read_all()
            self._complaint = ""
        except ConfigError as err:
            text = f"Kubernetes credentials changed and cannot be used, going on with the old ones: {err}"
            log.log(logging.DEBUG if text == self._complaint else logging.WARNING, "%s", text)
            self._complaint = text

    def _read_all(self) -> tuple[Profile, Access]:
        # The files' state of before they are read: what changes meanwhile is seen as a change the next time.
        seen = signatures(self._load().files)
        profile = self._load()
        access = self._build(profile)
        self._seen = seen
        return profile, access

    def _build(self, profile: Profile) -> Access:
        plugin = self._plugin if profile.exec is not None else PluginStatus()
        cert = plugin.client_certificate_data.encode() or profile.cert
        key = plugin.client_key_data.encode() or profile.key
        return Access(
            server=profile.server,
            authorization=_authorization(profile, plugin),
            tls=tls_context(profile, cert, key) if profile.server.startswith("https://") else None,
            server_hostname=profile.tls_server_name,
            proxy=profile.proxy,
        )

    def _plugin_expired(self) -> bool:
        expires = self._plugin.expiration_timestamp
        return self._plugin_due or (expires is not None and expires - EXPIRY_MARGIN <= self._clock.now())

    async def _run_plugin(self) -> None:
        self._plugin = await run_plugin(self._profile, self._environ)
        try:
            self._access = self._build(self._profile)
        except ConfigError as err:
            raise KubeDenied(
                f"{self.origin}: what the credential plugin gave cannot be used ({err})"
            ) from err
        self._plugin_due = False


def load_credentials(settings: KubeSettings, *, clock: Clock = SYSTEM_CLOCK) -> Credentials:
    """The first that is given of: option, KUBECONFIG, KUBERNETES_MASTER, in-cluster, ~/.kube/config.

    KUBECONFIG may list several files, as for kubectl; unlike kubectl, the first that exists is taken and nothing is
    merged. Raises ConfigError if none is given, or if the one that is cannot be used.
    """
    return Credentials(_loader(settings), environ=settings.environ, clock=clock)


def credentials_given(settings: KubeSettings) -> bool:
    """Whether any of them is given at all: a host outside Kubernetes has none."""
    environ = settings.environ
    named = any(environ.get(name) for name in ("KUBECONFIG", "KUBERNETES_MASTER", "KUBERNETES_SERVICE_HOST"))
    return settings.kubeconfig is not None or named or _home_config(environ) is not None


def _home_config(environ: Mapping[str, str]) -> Path | None:
    home = Path(environ["HOME"]) / ".kube" / "config" if environ.get("HOME") else None
    return home if home is not None and home.exists() else None


def _loader(settings: KubeSettings) -> Callable[[], Profile]:
    environ = settings.environ
    if settings.kubeconfig is not None:
        path = settings.kubeconfig
        return lambda: read_kubeconfig(path, settings.context)
    if environ.get("KUBECONFIG"):
        listed = _first_listed(environ["KUBECONFIG"])
        return lambda: read_kubeconfig(listed, settings.context)
    if environ.get("KUBERNETES_MASTER"):
        return lambda: _master(environ["KUBERNETES_MASTER"])
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return lambda: _in_cluster(settings)
    home = _home_config(environ)
    if home is not None:
        return lambda: read_kubeconfig(home, settings.context)
    raise ConfigError(
        "no Kubernetes API server given: neither --kubeconfig, KUBECONFIG, KUBERNETES_MASTER, a Pod's service account "
        "nor ~/.kube/config",
        remedy="give --kubeconfig FILE, or set KUBERNETES_MASTER=HOST:PORT for a server without TLS",
    )


def _first_listed(value: str) -> Path:
    listed = [Path(entry) for entry in value.split(":") if entry]
    for path in listed:
        if path.exists():
            return path
    raise ConfigError(f"KUBECONFIG={value}: no such file", remedy="correct it, or unset it")


def _master(value: str) -> Profile:
    origin = "KUBERNETES_MASTER"
    return Profile(origin=origin, server=server_url(value, origin=origin, default_scheme="http"))


def _in_cluster(settings: KubeSettings) -> Profile:
    """The service account of the Pod that we run in (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/)."""
    host = settings.environ["KUBERNETES_SERVICE_HOST"]
    port = settings.environ.get("KUBERNETES_SERVICE_PORT", "443")
    folder = settings.service_account_dir
    origin = f"service account in {folder}"
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Profile(
        origin=origin,
        server=server_url(f"https://{address}", origin=origin, default_scheme="https"),
        ca=folder / "ca.crt",
        token_file=folder / "token",
    )


def _authorization(profile: Profile, plugin: PluginStatus) -> str:
    token = plugin.token or profile.token
    if not plugin.token and profile.token_file is not None:
        token = _token(profile.token_file, profile.origin)
    if token:
        return f"Bearer {token}"
    if profile.username:
        pair = f"{profile.username}:{profile.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()
    return ""


def _token(path: Path, origin: str) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{origin}: token {path}: {err}", remedy="make the token file readable") from err
    if not token:
        raise ConfigError(f"{origin}: token {path} is empty", remedy="write a bearer token into it")
    return token
