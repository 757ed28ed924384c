"""Who may reach etcd: certificates, users, and what is said when it refuses or does not answer."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.certificates import Certificates
from fakes.private_etcd import PrivateEtcd, free_port, private_etcd
from fakes.storeworld import CONFIG
from fakes.watching import until, watching
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import EtcdDenied, EtcdUnavailable
from k8s_ovs.model.types import NetNamespace, Tenant, Vni
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.records import Keys
from k8s_ovs.sources.store import Change

KEYS = Keys(DEFAULT_PREFIX, CONFIG.name)
RED = '{"Namespace":"red","NetID":10}'


def secure(server: PrivateEtcd) -> EtcdSettings:
    """Settings that this server, which wants a client certificate, accepts."""
    assert server.tls is not None
    client = server.tls.anonymous
    return EtcdSettings((server.endpoint,), cafile=server.tls.ca, certfile=client.cert, keyfile=client.key)


async def refused(settings: EtcdSettings) -> str:
    """The message of the refusal, which has to come at once, to calls and to a watch."""
    begun = time.monotonic()
    async with EtcdStore(settings) as store:
        with pytest.raises(EtcdDenied) as calling:
            await store.network_config()
        with pytest.raises(EtcdDenied) as listening:
            await anext(store.watch())
    assert time.monotonic() - begun < 2
    assert calling.value.remedy
    assert str(calling.value) == str(listening.value)
    assert settings.endpoints[0] in str(calling.value)
    return str(calling.value)


def password_file(folder: Path, password: str) -> Path:
    path = folder / "password"
    path.write_text(password + "\n")
    return path


async def test_ca_and_client_certificate(tls_etcd: PrivateEtcd) -> None:
    async with EtcdStore(secure(tls_etcd)) as store, watching(store) as seen:
        await seen.until_synced()
        base = (await store.snapshot()).revision
        assert await store.commit(Change(base, put_tenants=[Tenant("red", Vni(10))]))
        await seen.count(1)


async def test_an_endpoint_without_scheme_is_tls_with_certificates(tls_etcd: PrivateEtcd) -> None:
    settings = replace(secure(tls_etcd), endpoints=(f"localhost:{tls_etcd.port}",))
    async with EtcdStore(settings) as store:
        assert await store.network_config() == CONFIG


async def test_without_a_client_certificate(tls_etcd: PrivateEtcd) -> None:
    text = await refused(replace(secure(tls_etcd), certfile=None, keyfile=None))
    assert "no client certificate" in text
    assert "--etcd-certfile" in text


async def test_a_client_certificate_of_another_ca(tls_etcd: PrivateEtcd, tmp_path: Path) -> None:
    alien = Certificates(tmp_path, "alien").anonymous
    text = await refused(replace(secure(tls_etcd), certfile=alien.cert, keyfile=alien.key))
    assert str(alien.cert) in text
    assert "signed" in text


async def test_a_server_of_another_ca(tls_etcd: PrivateEtcd, tmp_path: Path) -> None:
    alien = Certificates(tmp_path, "alien")
    text = await refused(replace(secure(tls_etcd), cafile=alien.ca))
    assert str(alien.ca) in text
    assert "--etcd-cafile" in text


async def test_a_server_certificate_for_another_address(tls_etcd: PrivateEtcd, tmp_path: Path) -> None:
    assert tls_etcd.tls is not None
    tls_etcd.kill()
    tls_etcd.tls.server = tls_etcd.tls.issue("elsewhere", common_name="etcd", addresses=("192.0.2.9",))
    tls_etcd.start(wait=False)
    settings = secure(tls_etcd)
    text = ""
    while "mismatch" not in text:
        async with EtcdStore(settings) as store:
            try:
                await store.network_config()
            except EtcdDenied as err:
                text = str(err)
            except EtcdUnavailable:  # not yet up
                continue
    assert "127.0.0.1" in text
    assert "name or address" in text


@pytest.mark.parametrize("field", ["cafile", "certfile", "keyfile"])
async def test_a_missing_or_broken_file_is_named(tls_etcd: PrivateEtcd, tmp_path: Path, field: str) -> None:
    path = tmp_path / "missing.pem"
    settings = replace(secure(tls_etcd), **{field: path})
    text = await refused(settings)
    assert f"cannot read {path} (No such file or directory)" in text
    assert f"--etcd-{field}" in text
    path.write_text("no PEM")
    assert str(path) in await refused(settings)


async def test_tls_where_there_is_none_and_the_reverse(etcd: PrivateEtcd, tls_etcd: PrivateEtcd) -> None:
    async with EtcdStore(replace(secure(tls_etcd), endpoints=(f"https://127.0.0.1:{etcd.port}",))) as store:
        with pytest.raises(EtcdUnavailable, match=r"with TLS .else use http://"):
            await store.network_config()
    async with EtcdStore(EtcdSettings((f"http://127.0.0.1:{tls_etcd.port}",))) as store:
        with pytest.raises(EtcdUnavailable, match=r"without TLS .else use https://"):
            await store.network_config()


async def test_certificates_exchanged_under_a_running_watch(tls_etcd: PrivateEtcd, tmp_path: Path) -> None:
    old = tls_etcd.tls
    assert old is not None
    settings = replace(secure(tls_etcd), timeout=1.5, watchdog=0.3)
    async with EtcdStore(settings) as store, watching(store) as seen:
        await seen.until_synced()
        tls_etcd.kill()
        tls_etcd.tls = new = Certificates(tmp_path, "new")
        tls_etcd.start()
        await until(lambda: isinstance(store.outage, EtcdDenied))
        for ours, theirs in (
            (old.ca, new.ca),
            (old.anonymous.cert, new.anonymous.cert),
            (old.anonymous.key, new.anonymous.key),
        ):
            ours.write_bytes(theirs.read_bytes())
        tls_etcd.put(KEYS.tenant("red"), RED)
        await seen.count(1)


async def test_nobody_at_home() -> None:
    endpoints = tuple(f"http://127.0.0.1:{free_port()}" for _ in range(2))
    async with EtcdStore(EtcdSettings(endpoints)) as store:
        with pytest.raises(EtcdUnavailable) as info:
            await store.snapshot()
    for endpoint in endpoints:
        assert endpoint in info.value.message
    assert "Connect call failed" in info.value.message or "refused" in info.value.message
    assert "etcd runs there" in info.value.remedy
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_server_that_accepts_and_never_answers(etcd: PrivateEtcd) -> None:
    etcd.pause()
    task = asyncio.current_task()
    assert task is not None
    async with EtcdStore(EtcdSettings((etcd.endpoint,), timeout=0.5)) as store:
        with pytest.raises(EtcdUnavailable, match=r"no answer within 0\.5 s"):
            await store.snapshot()
        assert task.cancelling() == 0
        etcd.resume()
        base = await store.snapshot()
        etcd.pause()
        with pytest.raises(EtcdUnavailable, match=r"transaction: no answer within 0\.5 s"):
            await store.commit(Change(base.revision, put_namespaces=[NetNamespace("red", Vni(10))]))
    assert task.cancelling() == 0


async def test_nothing_runs_on_after_close(etcd: PrivateEtcd) -> None:
    before = asyncio.all_tasks()
    async with EtcdStore(EtcdSettings((etcd.endpoint,))) as store, watching(store) as seen:
        await seen.until_synced()
    await until(lambda: asyncio.all_tasks() == before)
    etcd.kill()
    assert asyncio.all_tasks() == before


async def test_user_and_password(etcd: PrivateEtcd, tmp_path: Path) -> None:
    etcd.enable_auth("secret", DEFAULT_PREFIX + "/", "net")
    settings = EtcdSettings((etcd.endpoint,), username="net", password_file=password_file(tmp_path, "secret"))
    async with EtcdStore(settings) as store, watching(store) as seen:
        await seen.until_synced()
        etcd.put(KEYS.tenant("red"), RED)
        await seen.count(1)
        base = (await store.snapshot()).revision
        assert await store.commit(Change(base, delete_tenants=["red"]))
        await seen.count(2)


async def test_wrong_password_wrong_user_and_no_user(etcd: PrivateEtcd, tmp_path: Path) -> None:
    etcd.enable_auth("secret", DEFAULT_PREFIX + "/", "net")
    wrong = EtcdSettings((etcd.endpoint,), username="net", password_file=password_file(tmp_path, "guess"))
    text = await refused(wrong)
    assert "invalid user ID or password" in text
    assert "--etcd-password-file" in text
    assert "guess" not in text
    assert "invalid user ID or password" in await refused(replace(wrong, username="nobody"))
    assert "--etcd-username" in await refused(EtcdSettings((etcd.endpoint,)))
    missing = replace(wrong, password_file=tmp_path / "missing")
    assert f"cannot read {tmp_path / 'missing'}" in await refused(missing)


async def test_a_user_without_rights(etcd: PrivateEtcd, tmp_path: Path) -> None:
    etcd.enable_auth("secret", "/elsewhere/", "net")
    text = await refused(
        EtcdSettings((etcd.endpoint,), username="net", password_file=password_file(tmp_path, "secret"))
    )
    assert "permission denied" in text
    assert "grant" in text


async def test_a_user_where_users_are_off(etcd: PrivateEtcd, tmp_path: Path) -> None:
    settings = EtcdSettings((etcd.endpoint,), username="net", password_file=password_file(tmp_path, "any"))
    async with EtcdStore(settings) as store:
        assert await store.network_config() == CONFIG


async def test_tokens_that_are_gone_are_replaced(etcd: PrivateEtcd, tmp_path: Path) -> None:
    etcd.enable_auth("secret", DEFAULT_PREFIX + "/", "net")
    path = password_file(tmp_path, "secret")
    settings = EtcdSettings((etcd.endpoint,), username="net", password_file=path, timeout=1.5, watchdog=0.3)
    async with EtcdStore(settings) as store, watching(store) as seen:
        await seen.until_synced()
        base = (await store.snapshot()).revision
        # a changed password ends the user's tokens at once, while the connection stays
        etcd.call("auth/user/changepw", {"name": "net", "password": "new secret"})
        path.write_text("new secret")
        assert await store.commit(Change(base, put_tenants=[Tenant("red", Vni(10))]))
        await seen.count(1)
        # the tokens die with the server, and its auth revision moves with every grant
        etcd.kill()
        etcd.start()
        etcd.add_user("other", "secret", "net")
        etcd.put(KEYS.tenant("blue"), '{"Namespace":"blue","NetID":11}')
        await seen.count(2)
        assert store.outage is None


async def test_a_certificates_common_name_is_the_user(certificates: Certificates, tmp_path: Path) -> None:
    named = certificates.issue("net", common_name="net")
    stranger = certificates.issue("stranger", common_name="stranger")
    with private_etcd(tls=certificates) as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        server.enable_auth("secret", DEFAULT_PREFIX + "/", "net")
        settings = replace(secure(server), certfile=named.cert, keyfile=named.key)
        async with EtcdStore(settings) as store, watching(store) as seen:
            await seen.until_synced()
            server.put(KEYS.tenant("red"), RED)
            await seen.count(1)
        await refused(replace(settings, certfile=stranger.cert, keyfile=stranger.key))
        # a user with a password counts more than the certificate
        settings = replace(
            settings,
            certfile=stranger.cert,
            keyfile=stranger.key,
            username="net",
            password_file=password_file(tmp_path, "secret"),
        )
        async with EtcdStore(settings) as store:
            assert await store.network_config() == CONFIG


async def test_two_controllers_at_once(etcd: PrivateEtcd) -> None:
    settings = EtcdSettings((etcd.endpoint,))
    async with EtcdStore(settings) as one, EtcdStore(settings) as two:
        for round_ in range(20):
            base = (await one.snapshot()).revision
            assert (await two.snapshot()).revision == base
            outcome = await asyncio.gather(
                one.commit(Change(base, put_namespaces=[NetNamespace(f"a{round_}", Vni(10 + round_))])),
                two.commit(Change(base, put_namespaces=[NetNamespace(f"b{round_}", Vni(10 + round_))])),
            )
            assert sorted(outcome) == [False, True]
        ids = [record.net_id for record in (await one.snapshot()).net_namespaces.values()]
        assert sorted(ids) == list(range(10, 30))
