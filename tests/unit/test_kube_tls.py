"""TLS to the API server: CA, client certificate, rotation, and what a wrong certificate says. Loopback only."""

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.kube_script import AutoClock, Reply, ScriptServer, obj
from fakes.kube_tls import Authority, Pair
from k8s_ovs.errors import ConfigError, KubeDenied, KubeUnavailable
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import NODES

NODE = "/api/v1/nodes/n"


@asynccontextmanager
async def tls_server(
    tmp_path: Path,
    authority: Authority,
    *,
    mutual: bool = False,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> AsyncIterator[ScriptServer]:
    """A scripted server with TLS. Being asyncio's, it never says why it refuses a client (OpenSSL's does: functional)."""
    pair = authority.issue("api", addresses=["127.0.0.1"], names=["api.internal"])
    chain = tmp_path / "server.pem"
    chain.write_bytes(pair.cert + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    if mutual:
        context.minimum_version = context.maximum_version = version
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.pem.decode())
    server = ScriptServer(context)
    server.on("GET", NODE, *[Reply(obj("n", 1))] * 3)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def config(path: Path, cluster: dict[str, Any], user: dict[str, Any] | None = None) -> Path:
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user or {}}],
            }
        )
    )
    return path


async def ask(path: Path, clock: AutoClock | None = None) -> None:
    credentials = load_credentials(KubeSettings(kubeconfig=path), clock=clock or AutoClock())
    async with KubeClient(credentials) as client:
        await client.get(NODES, "n")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("inline", [True, False])
async def test_mutual_tls(tmp_path: Path, inline: bool, version: ssl.TLSVersion) -> None:
    authority = Authority("ca")
    user = authority.issue("agent")
    async with tls_server(tmp_path, authority, mutual=True, version=version) as server:
        cluster: dict[str, Any] = {"server": server.url}
        fields = {
            "certificate-authority": authority.pem,
            "client-certificate": user.cert,
            "client-key": user.key,
        }
        for name, data in fields.items():
            (tmp_path / name).write_bytes(data)
        given = (
            {f"{name}-data": b64(data) for name, data in fields.items()}
            if inline
            else {name: name for name in fields}
        )
        cluster |= {name: value for name, value in given.items() if name.startswith("certificate-authority")}
        own = {name: value for name, value in given.items() if name.startswith("client")}
        await ask(config(tmp_path / "config", cluster, own))
        assert len(server.seen) == 1


async def test_an_unknown_ca_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with tls_server(tmp_path, Authority("ca")) as server:
        cluster = {"server": server.url, "certificate-authority-data": b64(Authority("another").pem)}
        with pytest.raises(
            KubeDenied, match=r"certificate is not to be trusted.*correct the certificate authority"
        ):
            await ask(config(tmp_path / "config", cluster))


async def test_a_wrong_name_is_refused_and_can_be_given(tmp_path: Path) -> None:
    authority = Authority("ca")
    async with tls_server(tmp_path, authority) as server:
        cluster = {"server": server.url, "certificate-authority-data": b64(authority.pem)}
        with pytest.raises(KubeDenied, match="not to be trusted"):
            await ask(config(tmp_path / "config", {**cluster, "tls-server-name": "elsewhere.internal"}))
        await ask(config(tmp_path / "config", {**cluster, "tls-server-name": "api.internal"}))


async def test_insecure_skip_tls_verify(tmp_path: Path) -> None:
    async with tls_server(tmp_path, Authority("ca")) as server:
        await ask(config(tmp_path / "config", {"server": server.url, "insecure-skip-tls-verify": True}))
        assert len(server.seen) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("foreign", [True, False])
async def test_a_server_that_drops_us_for_our_certificate_gives_a_hint(
    tmp_path: Path, foreign: bool, version: ssl.TLSVersion
) -> None:
    authority = Authority("ca")
    pair = Authority("another").issue("agent")
    user = {"client-certificate-data": b64(pair.cert), "client-key-data": b64(pair.key)} if foreign else {}
    async with tls_server(tmp_path, authority, mutual=True, version=version) as server:
        cluster = {"server": server.url, "certificate-authority-data": b64(authority.pem)}
        with pytest.raises(KubeUnavailable, match="and the client certificate if the server wants one"):
            await ask(config(tmp_path / "config", cluster, user))
        assert not server.seen


async def test_a_server_without_tls_is_named_as_such(tmp_path: Path) -> None:
    server = ScriptServer()
    await server.start()
    try:
        cluster = {"server": server.url.replace("http:", "https:"), "insecure-skip-tls-verify": True}
        with pytest.raises(KubeDenied, match="TLS failed"):
            await ask(config(tmp_path / "config", cluster))
    finally:
        await server.stop()


async def test_a_rotated_client_certificate_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, clock = Authority("ca"), AutoClock()
    async with tls_server(tmp_path, authority, mutual=True) as server:
        put(tmp_path, Authority("expired").issue("agent"))
        user = {"client-certificate": "cert.pem", "client-key": "key.pem"}
        cluster = {"server": server.url, "certificate-authority-data": b64(authority.pem)}
        settings = KubeSettings(kubeconfig=config(tmp_path / "config", cluster, user))
        async with KubeClient(load_credentials(settings, clock=clock)) as client:
            with pytest.raises(KubeUnavailable):
                await client.get(NODES, "n")
            good = authority.issue("agent")
            (tmp_path / "cert.pem").write_bytes(good.cert)
            clock.elapsed += 2.0
            # The key does not belong to the certificate yet: half a rotation is no reason to give up.
            with pytest.raises(KubeUnavailable):
                await client.get(NODES, "n")
            assert "going on with the old ones" in caplog.text
            put(tmp_path, good)
            clock.elapsed += 2.0
            assert (await client.get(NODES, "n")).metadata.name == "n"


async def test_another_ca_is_read_when_its_file_changes(tmp_path: Path) -> None:
    old, new, clock = Authority("ca"), Authority("ca"), AutoClock()
    (tmp_path / "..1").mkdir()
    (tmp_path / "..1" / "ca.crt").write_bytes(old.pem)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "ca.crt").symlink_to("..data/ca.crt")
    async with tls_server(tmp_path, new) as server:
        path = config(tmp_path / "config", {"server": server.url, "certificate-authority": "ca.crt"})
        async with KubeClient(load_credentials(KubeSettings(kubeconfig=path), clock=clock)) as client:
            with pytest.raises(KubeDenied, match="not to be trusted"):
                await client.get(NODES, "n")
            # As the kubelet does it for a Secret.
            (tmp_path / "..2").mkdir()
            (tmp_path / "..2" / "ca.crt").write_bytes(new.pem)
            (tmp_path / "..tmp").symlink_to("..2")
            (tmp_path / "..tmp").rename(tmp_path / "..data")
            clock.elapsed += 2.0
            assert (await client.get(NODES, "n")).metadata.name == "n"


def put(folder: Path, pair: Pair) -> None:
    (folder / "cert.pem").write_bytes(pair.cert)
    (folder / "key.pem").write_bytes(pair.key)


async def test_an_exec_plugin_may_hand_over_a_certificate(tmp_path: Path) -> None:
    authority = Authority("ca")
    pair = authority.issue("agent")
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"clientCertificateData": pair.cert.decode(), "clientKeyData": pair.key.decode()},
    }
    (tmp_path / "answer").write_text(json.dumps(credential))
    async with tls_server(tmp_path, authority, mutual=True) as server:
        user = {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "/bin/cat",
                "args": [str(tmp_path / "answer")],
                "provideClusterInfo": True,
            }
        }
        cluster = {"server": server.url, "certificate-authority-data": b64(authority.pem)}
        await ask(config(tmp_path / "config", cluster, user))
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"certificate-authority-data": b64(b"nonsense")}, "the CA cannot be used .*give the PEM of the CA"),
        ({"certificate-authority": "missing.pem"}, "CA .*missing.pem: No such file"),
    ],
)
def test_a_ca_that_is_none_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = config(tmp_path / "config", {"server": "https://10.0.0.1", **fields})
    with pytest.raises(ConfigError, match=message):
        load_credentials(KubeSettings(kubeconfig=path))


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority("ca")
    one, two = authority.issue("one"), authority.issue("two")
    user = {"client-certificate-data": b64(one.cert), "client-key-data": b64(two.key)}
    path = config(tmp_path / "config", {"server": "https://10.0.0.1"}, user)
    with pytest.raises(
        ConfigError, match=r"client certificate and key cannot be used .*key that belongs to it"
    ):
        load_credentials(KubeSettings(kubeconfig=path))


def test_an_encrypted_key_is_refused_without_asking_for_its_password(tmp_path: Path) -> None:
    pair = Authority("ca").issue("one")
    user = {"client-certificate-data": b64(pair.cert), "client-key-data": b64(pair.encrypted_key("secret"))}
    path = config(tmp_path / "config", {"server": "https://10.0.0.1"}, user)
    with pytest.raises(ConfigError, match="cannot be used"):
        load_credentials(KubeSettings(kubeconfig=path))
