"""Where credentials come from, what is refused, and what follows a rotation. No server: see test_kube_tls.py for TLS."""

import asyncio
import base64
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.kube_script import AutoClock, Reply, ScriptServer, obj, status
from fakes.kube_tls import Authority
from k8s_ovs.errors import ConfigError, KubeDenied
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import Credentials, KubeSettings, load_credentials
from k8s_ovs.sources.kube.kubeconfig import Profile, read_kubeconfig, server_url
from k8s_ovs.sources.kube.objects import NODES

SERVER = "http://10.0.0.9:8080"


@pytest.fixture(scope="module")
def kube_ca() -> bytes:
    return Authority("ca").pem


def kubeconfig(
    path: Path, user: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] | None = None
) -> Path:
    """A file with two contexts: `main` (as asked for) and `other`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "preferences": {},
        "contexts": [
            {"name": "other", "context": {"cluster": "c2", "user": "", "namespace": "x"}},
            {"name": "main", "context": {"cluster": "c1", "user": "u1"}},
        ],
        "clusters": [
            {"name": "c1", "cluster": {"server": SERVER, **(cluster or {})}},
            {"name": "c2", "cluster": {"server": "other:1"}},
        ],
        "users": [{"name": "u1", "user": dict(user or {})}],
    }
    path.write_text(json.dumps(config))
    return path


def service_account(folder: Path, ca: bytes, token: str = "first") -> KubeSettings:
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(token + "\n")
    (folder / "ca.crt").write_bytes(ca)
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    return KubeSettings(environ=environ, service_account_dir=folder)


def load(path: Path, clock: AutoClock | None = None, environ: Mapping[str, str] | None = None) -> Credentials:
    settings = KubeSettings(kubeconfig=path, environ=environ or {})
    return load_credentials(settings, clock=clock or AutoClock())


async def test_precedence(tmp_path: Path, kube_ca: bytes) -> None:
    option = kubeconfig(tmp_path / "option", cluster={"server": "http://option"})
    named = kubeconfig(tmp_path / "named", cluster={"server": "http://named"})
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    kubeconfig(home / ".kube" / "config", cluster={"server": "http://home"})
    account = service_account(tmp_path / "account", kube_ca)
    environ = {
        "KUBECONFIG": f"{tmp_path}/missing:{named}",
        "KUBERNETES_MASTER": "master:8080",
        "HOME": str(home),
        **account.environ,
    }
    folder = account.service_account_dir
    assert load_credentials(KubeSettings(option, "", environ, folder)).server == "http://option"
    expected = ["http://named", "http://master:8080", "https://10.96.0.1:443", "http://home"]
    for name, server in zip(
        ["KUBECONFIG", "KUBERNETES_MASTER", "KUBERNETES_SERVICE_HOST", "HOME"], expected, strict=True
    ):
        assert load_credentials(KubeSettings(None, "", environ, folder)).server == server
        environ = {key: value for key, value in environ.items() if key != name}
    with pytest.raises(ConfigError, match=r"no Kubernetes API server given: .*give --kubeconfig FILE"):
        load_credentials(KubeSettings(None, "", environ, folder))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("api.example:8080/", "http://api.example:8080"),
        ("https://api.example:6443", "https://api.example:6443"),
        ("[fd00::1]:8080", "http://[fd00::1]:8080"),
    ],
)
def test_kubernetes_master_as_in_the_seed(text: str, url: str) -> None:
    assert load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": text})).server == url


@pytest.mark.parametrize("text", ["ftp://x:1", "http://", "x:port", "x:99999", ":8080"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"KUBERNETES_MASTER: server .* give HOST:PORT or a URL"):
        load_credentials(KubeSettings(environ={"KUBERNETES_MASTER": text}))


def test_an_address_without_scheme_is_https_where_tls_is_configured() -> None:
    assert server_url("h:1", origin="x", default_scheme="https") == "https://h:1"


def test_ipv6_service_host(tmp_path: Path, kube_ca: bytes) -> None:
    settings = service_account(tmp_path / "account", kube_ca)
    six = KubeSettings(
        environ={"KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account_dir=settings.service_account_dir
    )
    assert load_credentials(six).server == "https://[fd00::1]:443"


def test_contexts(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config")
    assert read_kubeconfig(path).server == SERVER
    assert read_kubeconfig(path, "other").server == "http://other:1"
    assert load_credentials(KubeSettings(kubeconfig=path, context="other")).server == "http://other:1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"current-context": "gone"},
            "context 'gone' does not exist: use one of those in the file: other, main",
        ),
        ({"current-context": ""}, "no current-context"),
        ({"clusters": None}, "context main: cluster 'c1' does not exist: use one of those in the file: none"),
        ({"users": []}, "context main: user 'u1' does not exist"),
        ({"contexts": "x"}, r"Expected `array \| null`, got `str` - at `\$.contexts`"),
        ({"clusters": [{"name": "c1", "cluster": {}}]}, "server '' is no address"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = kubeconfig(tmp_path / "config")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message) as caught:
        read_kubeconfig(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"auth-provider": {"name": "gcp"}}, "auth-provider is not supported"),
        ({"as": "root"}, r"impersonation \(as\) is not supported"),
        ({"client-certificate-data": "aGFsbG8="}, "client certificate and key belong together"),
        ({"client-certificate-data": "%%", "client-key-data": "aGFsbG8="}, "not base64"),
        ({"tokenFile": "missing"}, "token .*/missing: .*make the token file readable"),
    ],
)
def test_a_user_that_cannot_be_used_says_why(tmp_path: Path, user: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(kubeconfig(tmp_path / "config", user))


def test_inline_data_wins_over_a_file(tmp_path: Path, kube_ca: bytes) -> None:
    both = {
        "certificate-authority": "missing.pem",
        "certificate-authority-data": base64.encodebytes(kube_ca).decode(),
    }
    profile = read_kubeconfig(kubeconfig(tmp_path / "config", cluster={**both, "server": "h:1"}))
    assert profile.ca == kube_ca
    assert profile.server == "https://h:1"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"{", b"- a\n- b\n"])
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"kubeconfig {path}: "):
        load(path)


def test_kubeconfig_that_names_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="KUBECONFIG=/nowhere:/neither: no such file"):
        load_credentials(KubeSettings(environ={"KUBECONFIG": "/nowhere:/neither"}))


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({"token": "t"}, "Bearer t"),
        ({"token": "t", "tokenFile": "file"}, "Bearer from-file"),
        ({"username": "u", "password": "p"}, "Basic " + base64.b64encode(b"u:p").decode()),
        ({}, ""),
    ],
)
async def test_authorization(tmp_path: Path, user: dict[str, Any], header: str) -> None:
    (tmp_path / "file").write_text("from-file\n")
    access = await load(kubeconfig(tmp_path / "config", user)).access()
    assert access.authorization == header
    assert "from-file" not in repr(access)


async def test_a_rotated_token_is_read_again(tmp_path: Path, kube_ca: bytes) -> None:
    """As the kubelet does it: a new folder, and a symbolic link that moves over in one step."""
    clock = AutoClock()
    settings = service_account(tmp_path / "one", kube_ca)
    service_account(tmp_path / "two", kube_ca, "second")
    link = tmp_path / "account"
    link.symlink_to("one")
    followed = KubeSettings(environ=settings.environ, service_account_dir=link)
    credentials = load_credentials(followed, clock=clock)
    assert (await credentials.access()).authorization == "Bearer first"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(link)
    assert (await credentials.access()).authorization == "Bearer first"
    clock.elapsed += 2.0
    assert (await credentials.access()).authorization == "Bearer second"


async def test_half_a_rotation_keeps_the_last_good_token(
    tmp_path: Path, kube_ca: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    clock = AutoClock()
    settings = service_account(tmp_path / "account", kube_ca)
    credentials = load_credentials(settings, clock=clock)
    token = tmp_path / "account" / "token"
    token.write_text("")
    clock.elapsed += 2.0
    assert (await credentials.access()).authorization == "Bearer first"
    assert "going on with the old ones" in caplog.text
    token.write_text("second")
    clock.elapsed += 2.0
    assert (await credentials.access()).authorization == "Bearer second"


async def test_a_rewritten_kubeconfig_is_read_again(tmp_path: Path) -> None:
    clock = AutoClock()
    path = kubeconfig(tmp_path / "config", {"token": "old"})
    credentials = load(path, clock)
    assert (await credentials.access()).authorization == "Bearer old"
    kubeconfig(path, {"token": "new-one"})
    clock.elapsed += 2.0
    assert (await credentials.access()).authorization == "Bearer new-one"


async def test_what_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    clock = AutoClock()
    path = kubeconfig(tmp_path / "config", {"token": "0"})
    reads = 0

    def reading() -> Profile:
        nonlocal reads
        profile = read_kubeconfig(path)
        reads += 1
        if reads < 3:
            kubeconfig(path, {"token": f"number-{reads}" + "x" * reads})
        return profile

    credentials = Credentials(reading, environ={}, clock=clock)
    await credentials.access()
    clock.elapsed += 2.0
    assert (await credentials.access()).authorization == "Bearer number-2xx"


async def test_401_reads_the_credentials_anew_once(tmp_path: Path) -> None:
    server = ScriptServer()
    await server.start()
    try:
        refused = Reply(status(401, "Unauthorized"), status=401)
        server.on("GET", "/api/v1/nodes/n", Reply(obj("n", 1)), refused, Reply(obj("n", 2)), refused, refused)
        path = kubeconfig(tmp_path / "config", {"token": "old"}, {"server": server.url})
        async with KubeClient(load(path)) as client:
            await client.get(NODES, "n")
            kubeconfig(path, {"token": "new"}, {"server": server.url})
            assert (await client.get(NODES, "n")).metadata.resource_version == "2"
            with pytest.raises(
                KubeDenied, match=r"401 Unauthorized: renew the credentials in kubeconfig .*config"
            ):
                await client.get(NODES, "n")
        sent = [seen.headers["Authorization"] for seen in server.seen]
        assert sent == ["Bearer old", "Bearer old", "Bearer new", "Bearer new", "Bearer new"]
    finally:
        await server.stop()


PLUGIN = """#!{python}
import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], os.environ.get("GIVEN"), info]) + "\\n")
count = len(open({log!r}).readlines())
print(json.dumps({{"apiVersion": info["apiVersion"], "kind": "ExecCredential", "status": {{
    "token": "token-%d" % count, "expirationTimestamp": "2024-05-06T08:08:09Z"}}}}))
"""


def plugin(folder: Path, text: str = PLUGIN) -> tuple[Path, Path]:
    """An executable beside the kubeconfig, and the log that it writes."""
    log, program = folder / "log", folder / "plugin"
    program.write_text(text.format(python=sys.executable, log=str(log)) if text is PLUGIN else text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program, log


def exec_user(command: str, **fields: Any) -> dict[str, Any]:
    return {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "env": None, **fields}
    }


async def test_exec_plugin(tmp_path: Path) -> None:
    clock = AutoClock()
    _, log = plugin(tmp_path)
    env = [{"name": "GIVEN", "value": "yes"}]
    user = exec_user(
        "./plugin", args=["get", "token"], env=env, provideClusterInfo=True, interactiveMode="Never"
    )
    credentials = load(kubeconfig(tmp_path / "config", user), clock, {"PATH": os.defpath})
    first = await credentials.access()
    assert first.authorization == "Bearer token-1"
    assert await credentials.access() is first
    args, given, info = json.loads(log.read_text().splitlines()[0])
    assert (args, given) == (["get", "token"], "yes")
    assert info["spec"] == {
        "interactive": False,
        "cluster": {"server": SERVER, "insecure-skip-tls-verify": False},
    }
    clock.elapsed += 3590.0
    assert (await credentials.access()).authorization == "Bearer token-2"


async def test_exec_plugin_runs_again_after_401_but_once_for_many(tmp_path: Path) -> None:
    plugin(tmp_path)
    credentials = load(kubeconfig(tmp_path / "config", exec_user("./plugin")), AutoClock())
    first = await credentials.access()
    await asyncio.gather(*(credentials.renew(first) for _ in range(5)))
    assert (await credentials.access()).authorization == "Bearer token-2"
    await credentials.renew(first)
    assert (await credentials.access()).authorization == "Bearer token-2"


async def test_exec_plugin_from_path(tmp_path: Path) -> None:
    plugin(tmp_path)
    path = kubeconfig(tmp_path / "config", exec_user("plugin"))
    access = await load(path, environ={"PATH": str(tmp_path)}).access()
    assert access.authorization == "Bearer token-1"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho 'secret'; echo 'log in first' >&2; exit 3\n", "exit status 3: log in first"),
        ("#!/bin/sh\necho secret\n", "its output is no ExecCredential"),
        (
            '#!/bin/sh\necho \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{}}\'\n',
            "neither a token nor a certificate",
        ),
        (
            '#!/bin/sh\necho \'{"apiVersion":"v1","kind":"Status","status":{"token":"secret"}}\'\n',
            "answered in v1 Status",
        ),
        ("#!/nowhere/sh\n", "No such file"),
    ],
)
async def test_exec_plugin_that_fails_says_why_without_secrets(
    tmp_path: Path, script: str, message: str
) -> None:
    plugin(tmp_path, script)
    credentials = load(kubeconfig(tmp_path / "config", exec_user("./plugin", installHint="install it")))
    with pytest.raises(KubeDenied, match=message) as caught:
        await credentials.access()
    assert "secret" not in str(caught.value)
    assert "install it" in str(caught.value)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (exec_user("./missing"), "credential plugin ./missing: no such program"),
        (exec_user("./missing", apiVersion="client.authentication.k8s.io/v1alpha1"), "v1alpha1.*use .*/v1"),
    ],
)
async def test_exec_plugin_that_cannot_be_run(tmp_path: Path, user: dict[str, Any], message: str) -> None:
    with pytest.raises(KubeDenied, match=message):
        await load(kubeconfig(tmp_path / "config", user)).access()
