"""Keeps etcd's certificates in Kubernetes: what there should be, made from what there is.

Called by `k8s-ovs etcd-tls`. Level-triggered: every run reads the objects, and writes what is missing, ends soon or does
not fit. Two runs at once agree, because every write says which version it was made from. Nothing here prints, and no
key leaves the Secrets but for the files that `write_files` makes.

    Secret ca_secret    ca.crt, ca.key            signs; next.crt, next.key: will, once everybody trusts it
    Secret secret       ca.crt                    whom to trust: the CA, the next one, and former ones until they end
                        server.crt, server.key    etcd's own      client.crt, client.key    of agents and controllers
    ConfigMap           K8S_OVS_ETCD_ENDPOINTS

A CA is exchanged in two steps, so that nobody meets a certificate that it does not trust yet: the next CA is published
first; it signs when etcd starts the next time, not before SETTLE_SECONDS.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from k8s_ovs.errors import ConfigError, KubeConflict, KubeNotFound, KubeUnavailable
from k8s_ovs.runtime.openssl import (
    Pair,
    Purpose,
    Wanted,
    ca_serves,
    complaint,
    is_older,
    is_valid,
    issue,
    make_ca,
    split_bundle,
)
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.objects import (
    CONFIG_MAPS,
    SECRETS,
    ConfigMap,
    KubeObject,
    ObjectMeta,
    Resource,
    Secret,
)

ENDPOINTS_KEY = "K8S_OVS_ETCD_ENDPOINTS"
OWNER_LABEL = "app.kubernetes.io/managed-by"
OWNER = "k8s-ovs-etcd-tls"
SETTLE_SECONDS = 600.0
"""How long a CA is published before it signs. The kubelet brings a changed Secret to its pods within two minutes."""
ATTEMPTS = 10

Content = dict[str, bytes]
K = TypeVar("K", bound=KubeObject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Where the objects are."""

    namespace: str
    secret: str
    ca_secret: str
    config_map: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is wanted: for which addresses and names of etcd (the first ones are its endpoints), for how many days."""

    addresses: tuple[str, ...]
    port: int = 2379
    server_name: str = "k8s-ovs-etcd"
    client_name: str = "k8s-ovs"
    days: int = 365
    ca_days: int = 3650
    renew_before: float = 90.0

    @property
    def server(self) -> Wanted:
        """The server's certificate."""
        names = dict.fromkeys((*self.addresses, "127.0.0.1", "localhost"))
        return Wanted(self.server_name, Purpose.SERVER, self.days, tuple(names))

    @property
    def client(self) -> Wanted:
        """The clients' certificate; its CommonName is the user, where etcd's authentication is on."""
        return Wanted(self.client_name, Purpose.CLIENT, self.days)

    @property
    def endpoints(self) -> str:
        """As --etcd-endpoints takes them."""
        hosts = (f"[{host}]" if ":" in host else host for host in self.addresses)
        return ",".join(f"https://{host}:{self.port}" for host in hosts)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the Secret has now, what was changed (sentences), and whether a CA waits for etcd's next start."""

    content: Content
    changes: tuple[str, ...]
    ca_waits: bool


async def keep(kube: KubeClient, names: Names, terms: Terms, *, starting: bool) -> Kept:
    """Bring Secrets and ConfigMap to where they should be. `starting`: etcd has not read its files yet.

    Raises ConfigError for a Secret that is somebody else's, and KubeError.
    """
    changes: list[str] = []
    authority = await _keep_secret(
        kube, names.namespace, names.ca_secret, lambda had: wanted_ca(had, terms, starting=starting), changes
    )
    # Before the Secret: pods that mount that one wait for it, and then have all that they need to start.
    await _keep_endpoints(kube, names, terms.endpoints, changes)
    content = await _keep_secret(
        kube, names.namespace, names.secret, lambda had: wanted_tls(had, authority, terms), changes
    )
    upcoming = authority.get("next.crt", b"")
    return Kept(content, tuple(changes), bool(upcoming) and is_older(upcoming, SETTLE_SECONDS))


def wanted_ca(had: Mapping[str, bytes], terms: Terms, *, starting: bool) -> tuple[Content, list[str]]:
    """What the CA's Secret should hold, and what is new about it."""
    current, upcoming = _pair(had, "ca"), _pair(had, "next")
    lasting = terms.days + terms.renew_before
    if not ca_serves(current, 0):
        current, upcoming, news = make_ca("k8s-ovs etcd CA", terms.ca_days), Pair(b"", b""), ["made a CA"]
    elif ca_serves(current, lasting):
        upcoming, news = Pair(b"", b""), []
    elif not ca_serves(upcoming, lasting):
        upcoming = make_ca("k8s-ovs etcd CA", terms.ca_days)
        news = ["made the next CA, since the present one ends too soon to sign"]
    elif starting and is_older(upcoming.cert, SETTLE_SECONDS):
        current, upcoming, news = upcoming, Pair(b"", b""), ["the next CA signs from now on"]
    else:
        news = []
    content = {"ca.crt": current.cert, "ca.key": current.key}
    if upcoming.cert:
        content |= {"next.crt": upcoming.cert, "next.key": upcoming.key}
    return content, news


def wanted_tls(
    had: Mapping[str, bytes], authority: Mapping[str, bytes], terms: Terms
) -> tuple[Content, list[str]]:
    """What the Secret of certificates should hold, and what is new about it."""
    ca = _pair(authority, "ca")
    content: Content = {"ca.crt": _bundle(had.get("ca.crt", b""), authority)}
    news = []
    if content["ca.crt"] != had.get("ca.crt"):
        news.append(f"{len(split_bundle(content['ca.crt']))} CA(s) to trust")
    for name, wanted in (("server", terms.server), ("client", terms.client)):
        pair = _pair(had, name)
        why = complaint(pair, ca.cert, wanted, margin_days=terms.renew_before)
        if why:
            pair = issue(ca, wanted)
            news.append(f"made a {name} certificate: {why}")
        content |= {f"{name}.crt": pair.cert, f"{name}.key": pair.key}
    return content, news


def write_files(folder: Path, content: Mapping[str, bytes]) -> list[str]:
    """Write what changed, each file at once, keys for their owner only; the names of those written. Raises ConfigError."""
    written = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in sorted(content.items(), key=lambda item: not item[0].endswith(".key")):
            path = folder / name
            if not path.exists() or path.read_bytes() != data:
                _write(path, data)
                written.append(name)
            path.chmod(_mode(name))
    except OSError as err:
        raise ConfigError(
            f"cannot write certificates to {folder} ({err})",
            remedy="give a folder that can be written with --dir",
        ) from err
    return written


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _mode(path.name))
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _mode(name: str) -> int:
    return 0o600 if name.endswith(".key") else 0o644


def _pair(content: Mapping[str, bytes], name: str) -> Pair:
    return Pair(content.get(f"{name}.crt", b""), content.get(f"{name}.key", b""))


def _bundle(had: bytes, authority: Mapping[str, bytes]) -> bytes:
    """The CA, the next one, and whatever was trusted until now and has not ended."""
    ours = [authority[name] for name in ("ca.crt", "next.crt") if authority.get(name)]
    former = [cert for cert in split_bundle(had) if cert not in ours and is_valid(cert)]
    return b"".join([*ours, *former])


async def _keep_secret(
    kube: KubeClient,
    namespace: str,
    name: str,
    decide: Callable[[Mapping[str, bytes]], tuple[Content, list[str]]],
    changes: list[str],
) -> Content:
    for _ in range(ATTEMPTS):
        found = await _found(kube, SECRETS, name, namespace)
        had = (found.data if found is not None else None) or {}
        labels = (found.metadata.labels if found is not None else None) or {}
        if had and labels.get(OWNER_LABEL) != OWNER:
            raise ConfigError(
                f"Secret {namespace}/{name} holds what this command has not made",
                remedy="leave etcd-tls out if these are your own certificates, else remove the Secret",
            )
        content, news = decide(had)
        if content == had:
            return content
        secret = Secret(metadata=_meta(name, namespace, found), type="Opaque", data=content)
        if await _written(kube, SECRETS, secret, found):
            changes += [f"Secret {namespace}/{name}: {one}" for one in news]
            return content
    raise _outrun(f"Secret {namespace}/{name}")


async def _keep_endpoints(kube: KubeClient, names: Names, endpoints: str, changes: list[str]) -> None:
    what = f"ConfigMap {names.namespace}/{names.config_map}"
    for _ in range(ATTEMPTS):
        found = await _found(kube, CONFIG_MAPS, names.config_map, names.namespace)
        had = (found.data if found is not None else None) or {}
        if had.get(ENDPOINTS_KEY) == endpoints:
            return
        meta = _meta(names.config_map, names.namespace, found)
        wanted = ConfigMap(metadata=meta, data={ENDPOINTS_KEY: endpoints})
        if await _written(kube, CONFIG_MAPS, wanted, found):
            changes.append(f"{what}: {ENDPOINTS_KEY}={endpoints}")
            return
    raise _outrun(what)


async def _found(kube: KubeClient, resource: Resource[K], name: str, namespace: str) -> K | None:
    try:
        return await kube.get(resource, name, namespace)
    except KubeNotFound:
        return None


async def _written(kube: KubeClient, resource: Resource[K], wanted: K, found: K | None) -> bool:
    """Create or change; False if somebody else was faster."""
    meta = wanted.metadata
    try:
        if found is None:
            await kube.create(resource, wanted)
            return True
    except KubeConflict:
        return False
    body = msgspec.to_builtins(wanted)
    if resource.kind == SECRETS.kind:  # all of its keys are ours
        before = msgspec.to_builtins(found).get("data") or {}
        body["data"] = {**dict.fromkeys(before), **body["data"]}
    try:
        await kube.patch(resource, meta.name, body, meta.namespace)
    except (KubeConflict, KubeNotFound):
        return False
    return True


def _meta(name: str, namespace: str, found: KubeObject | None) -> ObjectMeta:
    """With the version that the change is based on: the API refuses it if the object is another by now."""
    version = found.metadata.resource_version if found is not None else ""
    return ObjectMeta(name=name, namespace=namespace, resource_version=version, labels={OWNER_LABEL: OWNER})


def _outrun(what: str) -> KubeUnavailable:
    return KubeUnavailable(
        f"{what} was changed by others {ATTEMPTS} times while this command tried to write it",
        reason="Conflict",
        remedy="run it again",
    )
