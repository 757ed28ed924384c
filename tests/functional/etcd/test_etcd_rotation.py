"""Credentials for etcd that are exchanged, and tokens that expire, while everything goes on; the etcd is real."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fakes.certificates import Certificates, Pair
from fakes.private_etcd import PrivateEtcd, private_etcd
from fakes.secret_volume import SecretVolume
from fakes.storeworld import CONFIG
from fakes.watching import until, watching
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.errors import EtcdDenied
from k8s_ovs.model.types import Tenant, Vni
from k8s_ovs.sources.etcd import client
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.records import Keys
from k8s_ovs.sources.store import Change

KEYS = Keys(DEFAULT_PREFIX, CONFIG.name)
CHEAP = ("--bcrypt-cost", "4")
"""A login costs the server little."""
MOVED = "a new connection with the new credentials"


def volume(folder: Path, ca: bytes, pair: Pair) -> SecretVolume:
    return SecretVolume(folder, ca=ca, cert=pair.cert.read_bytes(), key=pair.key.read_bytes())


def settings_for(server: PrivateEtcd, secret: SecretVolume) -> EtcdSettings:
    where = secret.folder
    return EtcdSettings(
        (server.endpoint,),
        cafile=where / "ca",
        certfile=where / "cert",
        keyfile=where / "key",
        timeout=1.5,
        watchdog=0.3,
    )


@asynccontextmanager
async def writing(server: PrivateEtcd) -> AsyncIterator[list[int]]:
    """Somebody writes records as fast as it goes; the list says how many there are."""
    written = [0]

    async def write() -> None:
        while True:
            record = f'{{"Namespace":"n{written[0]}","NetID":{10 + written[0]}}}'
            await asyncio.to_thread(server.put, KEYS.tenant(f"n{written[0]}"), record)
            written[0] += 1

    task = asyncio.create_task(write())
    try:
        yield written
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_SECONDS", 0.1)


async def test_another_user_takes_over_without_an_outage(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = certificates.issue("first", common_name="first")
    second = certificates.issue("second", common_name="second")
    with private_etcd(tls=certificates, options=CHEAP) as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        server.enable_auth("secret", DEFAULT_PREFIX + "/", "first", "second")
        secret = volume(tmp_path / "volume", certificates.ca.read_bytes(), first)
        async with EtcdStore(settings_for(server, secret)) as store, watching(store) as seen:
            await seen.until_synced()
            async with writing(server) as written:
                await until(lambda: written[0] > 5)
                secret.put(
                    ca=certificates.ca.read_bytes(),
                    cert=second.cert.read_bytes(),
                    key=second.key.read_bytes(),
                )
                await until(lambda: MOVED in caplog.text)
                # In its time; the former user is good for nothing from here on.
                await until(lambda: not store._client._leaving)
                await asyncio.to_thread(server.call, "auth/user/delete", {"name": "first"})
                base = (await store.snapshot()).revision
                count = written[0]
                await until(lambda: written[0] > count + 5)
            await seen.count(written[0])
            assert base > 0
            assert store.outage is None
    assert "no news from etcd" not in caplog.text


async def test_half_an_exchange_is_waited_for(
    tls_etcd: PrivateEtcd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert tls_etcd.tls is not None
    other = tls_etcd.tls.issue("other", common_name="other")
    anonymous = tls_etcd.tls.anonymous
    ca = tls_etcd.tls.ca.read_bytes()
    secret = volume(tmp_path / "volume", ca, anonymous)
    async with EtcdStore(settings_for(tls_etcd, secret)) as store, watching(store) as seen:
        await seen.until_synced()
        secret.put(ca=ca, cert=other.cert.read_bytes(), key=anonymous.key.read_bytes())
        await until(lambda: "going on with the old ones" in caplog.text)
        assert await store.network_config() == CONFIG
        assert MOVED not in caplog.text
        secret.put(ca=ca, cert=other.cert.read_bytes(), key=other.key.read_bytes())
        await until(lambda: MOVED in caplog.text)
        tls_etcd.put(KEYS.tenant("red"), '{"Namespace":"red","NetID":10}')
        await seen.count(1)
        assert store.outage is None
    assert len([r for r in caplog.records if "going on" in r.message and r.levelno > logging.INFO]) == 1


async def test_a_new_ca_server_and_client_certificate_lose_no_event(
    certificates: Certificates, tmp_path: Path
) -> None:
    """The server is started anew with its new files in the middle, as it has to be for another CA."""
    (tmp_path / "new").mkdir()
    new = Certificates(tmp_path / "new", "new")
    both = certificates.ca.read_bytes() + new.ca.read_bytes()
    with private_etcd(tls=certificates) as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        secret = volume(tmp_path / "volume", certificates.ca.read_bytes(), certificates.anonymous)
        async with EtcdStore(settings_for(server, secret)) as store, watching(store) as seen:
            await seen.until_synced()
            old = certificates.anonymous
            secret.put(ca=both, cert=old.cert.read_bytes(), key=old.key.read_bytes())
            for number in range(30):
                server.put(KEYS.tenant(f"n{number}"), f'{{"Namespace":"n{number}","NetID":{10 + number}}}')
                if number == 10:
                    certificates.ca.write_bytes(both)
                    certificates.server = new.server
                    server.kill()
                    server.start()
                if number == 20:
                    pair = new.anonymous
                    secret.put(ca=new.ca.read_bytes(), cert=pair.cert.read_bytes(), key=pair.key.read_bytes())
            await seen.count(30)
            await until(lambda: store.outage is None)
            base = (await store.snapshot()).revision
            assert await store.commit(Change(base, put_tenants=[Tenant("last", Vni(99))]))
            await seen.count(31)


async def test_tokens_that_expire_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "k8s_ovs")
    password = tmp_path / "password"
    password.write_text("s3cret-word\n")
    with private_etcd(options=("--auth-token-ttl", "1", "--log-level", "info", *CHEAP)) as server:
        server.put(f"{DEFAULT_PREFIX}/config", CONFIG.to_json())
        server.enable_auth("s3cret-word", DEFAULT_PREFIX + "/", "net")
        settings = EtcdSettings(
            (server.endpoint,), username="net", password_file=password, timeout=1.5, watchdog=5.0
        )
        async with EtcdStore(settings) as store, watching(store) as seen:
            await seen.until_synced()
            connection = await store._client.connection()
            tokens = {connection._token}
            await _expired(server, connection._token)
            base = (await store.snapshot()).revision
            assert await store.commit(Change(base, put_tenants=[Tenant("t0", Vni(10))]))
            await seen.count(1)
            tokens.add(connection._token)
            assert len(tokens) == 2
            assert await store._client.connection() is connection, "nothing was connected anew"
            assert store.outage is None
            password.write_text("wrong-word")
            async with asyncio.timeout(10):
                while "going on with the old ones" not in caplog.text:
                    await store.snapshot()
            await _expired(server, connection._token)
            assert (await store.snapshot()).tenants.keys() == {"t0"}, "the former password still works"
            server.call("auth/user/changepw", {"name": "net", "password": "another-word"})
            with pytest.raises(EtcdDenied, match="invalid user ID or password"):
                await store.snapshot()
            password.write_text("another-word")
            assert (await store.snapshot()).tenants.keys() == {"t0"}
    assert not any(word in caplog.text for word in ("s3cret-word", "wrong-word", "another-word", *tokens))


async def _expired(server: PrivateEtcd, token: str) -> None:
    """Wait until etcd knows the token no more. Asking with it would keep it alive, so its own log is read."""
    assert token
    log = server.folder / f"{server.name}.log"

    def told() -> bool:
        lines = log.read_text().splitlines()
        return any("deleted a simple token" in line and token in line for line in lines)

    await until(told, "the token has expired", 10)
