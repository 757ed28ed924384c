"""Refused client certificates against a TLS server that is not Python's: OpenSSL's own."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fakes.kube_tls import Authority
from k8s_ovs.errors import KubeDenied
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, load_credentials
from k8s_ovs.sources.kube.objects import NODES

DEADLINE = 20.0


@asynccontextmanager
async def openssl_server(folder: Path, authority: Authority) -> AsyncIterator[int]:
    """`openssl s_server` that demands a client certificate of `authority`; yields its port."""
    pair = authority.issue("api", addresses=["127.0.0.1"])
    (folder / "server.pem").write_bytes(pair.cert + pair.key)
    (folder / "ca.pem").write_bytes(authority.pem)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    files = ["-cert", "server.pem", "-key", "server.pem", "-CAfile", "ca.pem"]
    process = await asyncio.create_subprocess_exec(
        *[
            "openssl",
            "s_server",
            "-accept",
            f"127.0.0.1:{port}",
            *files,
            "-Verify",
            "2",
            "-verify_return_error",
            "-www",
        ],
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            while (await process.stdout.readline()).strip() != b"ACCEPT":
                assert process.returncode is None
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("who", ["nobody", "foreign"])
async def test_a_client_certificate_that_the_server_refuses_is_named(tmp_path: Path, who: str) -> None:
    foreign = Authority("another").issue("agent")
    (tmp_path / "cert.pem").write_bytes(foreign.cert)
    (tmp_path / "key.pem").write_bytes(foreign.key)
    user = {"client-certificate": "cert.pem", "client-key": "key.pem"} if who == "foreign" else {}
    async with openssl_server(tmp_path, Authority("ca")) as port:
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.pem"},
                }
            ],
            "users": [{"name": "u", "user": user}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        credentials = load_credentials(KubeSettings(kubeconfig=tmp_path / "config"))
        async with KubeClient(credentials) as client:
            with pytest.raises(KubeDenied, match=r"TLS failed .* alert .*: check the client certificate"):
                await client.get(NODES, "n")
