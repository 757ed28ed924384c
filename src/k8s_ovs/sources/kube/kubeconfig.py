"""A kubeconfig file, reduced to what one connection needs (a `Profile`).

Used by credentials.py. Reads files; never connects, never runs a plugin. Format: the Config kind of client-go,
https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from k8s_ovs.errors import ConfigError

Blob = Path | bytes
"""PEM data, or the file that holds it (and that may be replaced while we run)."""


class ExecEnv(msgspec.Struct, frozen=True):
    """One environment variable for the plugin."""

    name: str
    value: str = ""


class ExecSpec(msgspec.Struct, frozen=True, rename="camel"):
    """A credential plugin (client.authentication.k8s.io, ExecCredential)."""

    command: str
    api_version: str = ""
    args: tuple[str, ...] | None = None
    env: tuple[ExecEnv, ...] | None = None
    provide_cluster_info: bool = False
    install_hint: str = ""


class _Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _User(msgspec.Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    username: str = ""
    password: str = ""
    exec: ExecSpec | None = None
    auth_provider: object = None
    as_: str = msgspec.field(name="as", default="")


class _Context(msgspec.Struct, frozen=True):
    cluster: str = ""
    user: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: _User


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: _Context


class _File(msgspec.Struct, frozen=True, rename="kebab"):
    current_context: str = ""
    clusters: tuple[_NamedCluster, ...] | None = None
    users: tuple[_NamedUser, ...] | None = None
    contexts: tuple[_NamedContext, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to reach one API server. `origin` names it in messages; `directory` is where a plugin's relative path starts.

    `sources` are the files that this profile itself was read from; the Paths in the other fields are read at each load.
    """

    origin: str
    server: str
    ca: Blob | None = None
    cert: Blob | None = None
    key: Blob | None = field(default=None, repr=False)
    insecure: bool = False
    tls_server_name: str = ""
    proxy: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    exec: ExecSpec | None = field(default=None, repr=False)
    directory: Path = Path("/")
    sources: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file whose change means that the profile has to be loaded anew."""
        blobs = (self.ca, self.cert, self.key, self.token_file)
        return (*self.sources, *(blob for blob in blobs if isinstance(blob, Path)))


def read_kubeconfig(path: Path, context: str = "") -> Profile:
    """The profile of `context`, or of the file's current-context. Raises ConfigError, naming file and entry."""
    config = _parse(path)
    name = context or config.current_context
    if not name:
        raise ConfigError(
            f"kubeconfig {path}: no current-context", remedy="set one: kubectl config use-context NAME"
        )
    chosen = _named(config.contexts, name, f"kubeconfig {path}: context").context
    cluster = _named(config.clusters, chosen.cluster, f"kubeconfig {path}: context {name}: cluster").cluster
    user = _User()
    if chosen.user:
        user = _named(config.users, chosen.user, f"kubeconfig {path}: context {name}: user").user
    return _profile(path, f"kubeconfig {path} (context {name})", cluster, user)


def _profile(path: Path, origin: str, cluster: _Cluster, user: _User) -> Profile:
    if user.auth_provider is not None or user.as_:
        what = "auth-provider" if user.auth_provider is not None else "impersonation (as)"
        raise ConfigError(
            f"{origin}: {what} is not supported", remedy="use a token, a client certificate or exec"
        )
    directory = path.absolute().parent
    ca = _blob(directory, cluster.certificate_authority, cluster.certificate_authority_data, f"{origin}: CA")
    cert = _blob(
        directory, user.client_certificate, user.client_certificate_data, f"{origin}: client certificate"
    )
    key = _blob(directory, user.client_key, user.client_key_data, f"{origin}: client key")
    if (cert is None) != (key is None):
        raise ConfigError(f"{origin}: client certificate and key belong together", remedy="give both or none")
    secure = ca is not None or cert is not None or cluster.insecure_skip_tls_verify
    return Profile(
        origin=origin,
        server=server_url(cluster.server, origin=origin, default_scheme="https" if secure else "http"),
        ca=ca,
        cert=cert,
        key=key,
        insecure=cluster.insecure_skip_tls_verify,
        tls_server_name=cluster.tls_server_name,
        proxy=_proxy(cluster.proxy_url, origin),
        token=user.token,
        token_file=directory / user.token_file if user.token_file else None,
        username=user.username,
        password=user.password,
        exec=user.exec,
        directory=directory,
        sources=(path,),
    )


def server_url(text: str, *, origin: str, default_scheme: str) -> str:
    """`text` with a scheme and without a trailing slash. Raises ConfigError if it is no URL of http or https.

    Nor may it have a user or password: URLs are in logs and errors.
    """
    url = text if "://" in text else f"{default_scheme}://{text}"
    remedy = "give HOST:PORT or a URL of http or https"
    if "@" in text:
        where = text.rpartition("@")[2]
        raise ConfigError(
            f"{origin}: the server's address (at {where!r}) has a user or password in it",
            remedy=f"{remedy}; user and password belong into a kubeconfig",
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError as err:
        raise ConfigError(f"{origin}: server {text!r} is no address ({err})", remedy=remedy) from err
    if not usable:
        raise ConfigError(f"{origin}: server {text!r} is no address", remedy=remedy)
    return url.rstrip("/")


def _proxy(text: str, origin: str) -> str:
    """A proxy's URL, which may hold a password: it is in no message."""
    try:
        parts = urlsplit(text)
        usable = not text or (parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{origin}: proxy-url is no address", remedy="give a URL of http or https")
    return text


def _parse(path: Path) -> _File:
    remedy = "give a kubeconfig file that this user can read"
    try:
        text = path.read_bytes()
    except OSError as err:
        raise ConfigError(f"kubeconfig {path}: {err.strerror or err}", remedy=remedy) from err
    try:
        return msgspec.yaml.decode(text, type=_File)
    except msgspec.ValidationError as err:
        raise ConfigError(f"kubeconfig {path}: {err}", remedy=remedy) from err
    except msgspec.MsgspecError as err:
        # What a YAML parser says can quote the file, which holds secrets; not even as a cause may it get into a log.
        raise ConfigError(f"kubeconfig {path}: no YAML{_place(err)}", remedy=remedy) from None


def _place(err: BaseException) -> str:
    """Where a YAML parser stumbled: the line as people count."""
    found = re.findall(r"line (\d+), column \d+", str(err))
    return f" (line {found[-1]})" if found else ""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _named(entries: tuple[N, ...] | None, name: str, what: str) -> N:
    for entry in entries or ():
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries or ()) or "none"
    raise ConfigError(f"{what} {name!r} does not exist", remedy=f"use one of those in the file: {known}")


def _blob(directory: Path, file: str, data: str, what: str) -> Blob | None:
    """Inline data wins over a file, as in client-go. Relative files are relative to the kubeconfig."""
    if data:
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except binascii.Error as err:
            raise ConfigError(
                f"{what}: the data is not base64 ({err})", remedy="encode the PEM with base64 -w0"
            ) from err
    return directory / file if file else None
