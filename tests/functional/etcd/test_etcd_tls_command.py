"""`k8s-ovs etcd-tls` against an API server, the program openssl and a real etcd."""

import asyncio
import base64
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fakes.certificates import Certificates, KeptCertificates
from fakes.daemon import launcher
from fakes.private_etcd import private_etcd
from fakes.private_kubeapi import KubeApi, wait_for
from fakes.storeworld import CONFIG
from k8s_ovs.cli.etcd_tls_keep import Kept, Names, Terms, keep, wanted_ca, wanted_tls
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import ConfigError
from k8s_ovs.runtime.openssl import Pair, complaint, split_bundle
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials

NAMES = Names(namespace="kube-system", secret="tls", ca_secret="ca", config_map="etcd")
TERMS = Terms(addresses=("127.0.0.1", "etcd.example"))
SETTLE = "k8s_ovs.cli.etcd_tls_keep.SETTLE_SECONDS"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    server = KubeApi(tmp_path_factory.mktemp("api"))
    yield server
    server.close()


@pytest.fixture
def api(server: KubeApi) -> KubeApi:
    """The shared server, without anything of the test before."""
    server.call("DELETE", "/lab/faults")
    for kind in ("secrets", "configmaps"):
        path = f"/api/v1/namespaces/kube-system/{kind}"
        for item in server.call("GET", path)["items"]:
            server.call("DELETE", f"{path}/{item['metadata']['name']}")
    return server


def run(api: KubeApi, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "k8s_ovs", "etcd-tls", *arguments]
    master = {"KUBERNETES_MASTER": api.url}
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | master | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def read(api: KubeApi, kind: str, name: str) -> Any:
    return api.call("GET", f"/api/v1/namespaces/kube-system/{kind}/{name}")


async def kept(api: KubeApi, terms: Terms, *, starting: bool = True) -> Kept:
    settings = KubeSettings(environ={"KUBERNETES_MASTER": api.url})
    async with KubeClient(load_credentials(settings)) as client:
        return await keep(client, NAMES, terms, starting=starting)


def test_from_nothing_to_an_etcd_with_mutual_tls(api: KubeApi, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    arguments = ("--address", "127.0.0.1", "--port", "12379", "--dir", str(folder), "--v", "6")
    first = run(api, *arguments)
    assert first.returncode == 0, first.stderr
    secret, authority = read(api, "secrets", "k8s-ovs-etcd-tls"), read(api, "secrets", "k8s-ovs-etcd-ca")
    assert set(secret["data"]) == {"ca.crt", "server.crt", "server.key", "client.crt", "client.key"}
    assert set(authority["data"]) == {"ca.crt", "ca.key"}
    endpoints = read(api, "configmaps", "k8s-ovs-etcd")["data"]
    assert endpoints == {"K8S_OVS_ETCD_ENDPOINTS": "https://127.0.0.1:12379"}
    for name, content in secret["data"].items():
        assert (folder / name).read_bytes() == base64.b64decode(content)
        mode = stat.S_IMODE((folder / name).stat().st_mode)
        assert mode == (0o600 if name.endswith(".key") else 0o644), name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for keys in (secret["data"], authority["data"]):
        for name in keys.keys() & {"server.key", "client.key", "ca.key"}:
            for line in base64.b64decode(keys[name]).decode().splitlines()[1:-1]:
                assert line not in first.stdout + first.stderr
    second = run(api, *arguments)
    assert second.stdout == "certificates are in order\n"
    assert read(api, "secrets", "k8s-ovs-etcd-tls") == secret
    asyncio.run(_serves(KeptCertificates(folder)))


def test_who_waits_for_the_secret_finds_the_endpoint_too(api: KubeApi) -> None:
    """Otherwise a pod that starts just then fails for want of its ConfigMap, and tries again only later."""
    asyncio.run(kept(api, TERMS))
    made = {
        kind: int(read(api, kind, name)["metadata"]["resourceVersion"])
        for kind, name in (("configmaps", NAMES.config_map), ("secrets", NAMES.secret))
    }
    assert made["configmaps"] < made["secrets"]


async def _serves(files: KeptCertificates) -> None:
    client = files.anonymous
    with private_etcd(tls=files) as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        settings = EtcdSettings((server.endpoint,), cafile=files.ca, certfile=client.cert, keyfile=client.key)
        async with EtcdStore(settings) as store:
            assert await store.network_config() == CONFIG
        before = _presented(server.port, files)
        assert before == ssl.PEM_cert_to_DER_cert(files.server.cert.read_text())
        ca = Certificates(files.folder, "other")
        files.server.key.write_bytes(ca.server.key.read_bytes())
        files.server.cert.write_bytes(ca.server.cert.read_bytes())
        assert _presented(server.port, files) != before, "etcd presents its new certificate without a restart"


def _presented(port: int, files: KeptCertificates) -> bytes | None:
    """The certificate that a server has now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(files.anonymous.cert, files.anonymous.key)
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as tls:
        return tls.getpeercert(binary_form=True)


def test_the_certificates_say_what_they_are_for(tmp_path: Path) -> None:
    content, _ = wanted_tls({}, wanted_ca({}, TERMS, starting=True)[0], TERMS)
    server, client, ca = (
        x509.load_pem_x509_certificate(content[f"{n}.crt"]) for n in ("server", "client", "ca")
    )
    for certificate in (server, client, ca):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["etcd.example", "localhost"]
    usage = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (
        ExtendedKeyUsageOID.SERVER_AUTH
        in server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )
    assert client.subject.rfc4514_string() == "CN=k8s-ovs"
    stolen = Pair(content["client.crt"], content["client.key"])
    assert "purpose" in complaint(stolen, content["ca.crt"], replace(TERMS.server, names=()), margin_days=1)


def test_beside_etcd_it_mends_what_is_lost_and_ends_when_told(api: KubeApi, tmp_path: Path) -> None:
    path = "/api/v1/namespaces/kube-system/secrets/k8s-ovs-etcd-tls"
    certificate = tmp_path / "tls" / "server.crt"

    def there() -> bool:
        found = api.call("GET", "/api/v1/namespaces/kube-system/secrets")["items"]
        return any(item["metadata"]["name"] == "k8s-ovs-etcd-tls" for item in found)

    options = ["--address", "127.0.0.1", "--dir", str(certificate.parent), "--every", "0.0001"]
    with launcher(tmp_path) as start:
        daemon = start("-m", "k8s_ovs", "etcd-tls", *options, KUBERNETES_MASTER=api.url)
        wait_for(certificate.exists, "the first certificate")
        first = certificate.read_bytes()
        api.call("DELETE", path)
        wait_for(lambda: there() and certificate.read_bytes() != first, "another one")
        assert daemon.end(signal.SIGTERM) == 0, daemon.log.read_text()


async def test_several_at_once_agree(api: KubeApi) -> None:
    results = await asyncio.gather(*(kept(api, TERMS) for _ in range(4)))
    final = (await kept(api, TERMS)).content
    assert (await kept(api, TERMS)).changes == ()
    assert all(result.content == final for result in results)
    written = [change for result in results for change in result.changes]
    assert len([change for change in written if "made a CA" in change]) == 1
    assert len([change for change in written if "made a server" in change]) == 1


async def test_what_ends_soon_or_fits_no_more_is_made_anew(api: KubeApi) -> None:
    brief = replace(TERMS, days=10, renew_before=5)
    first = await kept(api, brief)
    later = await kept(api, TERMS)
    assert later.content["ca.crt"] == first.content["ca.crt"]
    assert "in 90 days" in later.changes[0]
    for name in ("server.crt", "server.key", "client.crt", "client.key"):
        assert later.content[name] != first.content[name]
    moved = await kept(api, replace(TERMS, addresses=("192.0.2.7",)))
    assert moved.content["client.crt"] == later.content["client.crt"]
    assert moved.content["server.crt"] != later.content["server.crt"]
    assert read(api, "configmaps", "etcd")["data"]["K8S_OVS_ETCD_ENDPOINTS"] == "https://192.0.2.7:2379"


async def test_a_ca_is_trusted_everywhere_before_it_signs(
    api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await kept(api, replace(TERMS, ca_days=400))
    old = first.content["ca.crt"]
    published = await kept(api, TERMS)
    assert "next CA" in published.changes[0]
    assert published.content["server.crt"] == first.content["server.crt"], "the old CA still signs"
    assert old in split_bundle(published.content["ca.crt"])
    assert len(split_bundle(published.content["ca.crt"])) == 2
    assert (await kept(api, TERMS)).changes == (), "not everybody knows the next CA yet"
    monkeypatch.setattr(SETTLE, 0.0)
    beside = await kept(api, TERMS, starting=False)
    assert beside.ca_waits
    assert beside.changes == (), "etcd has not read the next CA before it starts"
    signed = await kept(api, TERMS)
    assert signed.content["server.crt"] != first.content["server.crt"]
    assert sorted(split_bundle(signed.content["ca.crt"])) == sorted(split_bundle(published.content["ca.crt"]))
    assert set(read(api, "secrets", "ca")["data"]) == {"ca.crt", "ca.key"}, "the old key is gone"
    client = Pair(first.content["client.crt"], first.content["client.key"])
    assert complaint(client, signed.content["ca.crt"], TERMS.client, margin_days=0) == ""
    assert (await kept(api, TERMS)).changes == ()


async def test_a_lost_ca_key_cuts_nobody_off(api: KubeApi) -> None:
    first = await kept(api, TERMS)
    api.call("DELETE", "/api/v1/namespaces/kube-system/secrets/ca")
    second = await kept(api, TERMS)
    assert split_bundle(second.content["ca.crt"])[1] == first.content["ca.crt"]
    assert second.content["server.crt"] != first.content["server.crt"]


async def test_a_secret_of_somebody_else_stays(api: KubeApi) -> None:
    path = "/api/v1/namespaces/kube-system/secrets"
    api.call("POST", path, {"metadata": {"name": "tls"}, "data": {"ca.crt": "b3duCg=="}})
    with pytest.raises(ConfigError, match="leave etcd-tls out"):
        await kept(api, TERMS)
    assert read(api, "secrets", "tls")["data"] == {"ca.crt": "b3duCg=="}


async def test_an_empty_secret_of_the_manifests_is_filled(api: KubeApi) -> None:
    path = "/api/v1/namespaces/kube-system/secrets"
    for name in ("tls", "ca"):
        api.call("POST", path, {"metadata": {"name": name, "labels": {"app": "x"}}})
    await kept(api, TERMS)
    assert set(read(api, "secrets", "ca")["data"]) == {"ca.crt", "ca.key"}
    assert read(api, "secrets", "ca")["metadata"]["labels"]["app"] == "x"


def test_what_cannot_be_done_is_told(api: KubeApi, tmp_path: Path) -> None:
    wrong = run(api, "--address", "a,b\nCN=c")
    assert (wrong.returncode, "no address and no name" in wrong.stderr) == (2, True)
    wrong = run(api, "--address", "a", "--days", "30")
    assert (wrong.returncode, "do not fit together" in wrong.stderr) == (2, True)
    missing = run(api, "--address", "192.0.2.1", PATH=str(tmp_path))
    assert missing.returncode == 2
    assert "install the program openssl" in missing.stderr
    api.fault(action="status", status=403, path="/api/v1/namespaces/kube-system/secrets/k8s-ovs-etcd-ca")
    refused = run(api, "--address", "192.0.2.1")
    assert refused.returncode == 1
    assert "grant this right" in refused.stderr
