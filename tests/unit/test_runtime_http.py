"""The daemon's HTTP endpoint, over real loopback connections."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from k8s_ovs.errors import ConfigError
from k8s_ovs.runtime.http import HealthChecks, from_this_host, http_endpoint, parse_address


class Daemon:
    """What the endpoint tells of."""

    def __init__(self) -> None:
        self.health = HealthChecks()
        self.registry = CollectorRegistry()
        self.etcd = ""
        self.loop = ""
        self.health.add_ready("etcd", lambda: self.etcd)
        self.health.add_live("loop", lambda: self.loop)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def base(daemon: Daemon) -> AsyncIterator[str]:
    async with http_endpoint("127.0.0.1:0", daemon.health, daemon.registry) as where:
        yield f"http://{where}"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield session


async def get(client: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with client.get(url) as response:
        return response.status, await response.text()


async def test_all_is_well(base: str, client: aiohttp.ClientSession) -> None:
    assert await get(client, base + "/healthz") == (200, "[+] loop: ok\nok\n")
    assert await get(client, base + "/readyz") == (200, "[+] loop: ok\n[+] etcd: ok\nok\n")


async def test_not_ready_names_the_check_and_the_reason_and_is_no_reason_to_restart(
    base: str, client: aiohttp.ClientSession, daemon: Daemon
) -> None:
    daemon.etcd = "no endpoint\nanswers"
    assert not daemon.health.ready
    assert await get(client, base + "/readyz") == (
        503,
        "[+] loop: ok\n[-] etcd: no endpoint answers\nnot ok\n",
    )
    assert (await get(client, base + "/healthz"))[0] == 200


async def test_a_note_is_told_while_it_lasts_and_decides_nothing(
    base: str, client: aiohttp.ClientSession, daemon: Daemon
) -> None:
    notes = ["no news for\nnow", ""]
    daemon.health.add_note("records", lambda: notes[0])
    told = await get(client, base + "/readyz")
    assert told == (200, "[+] loop: ok\n[+] etcd: ok\n[!] records: no news for now\nok\n")
    assert daemon.health.ready
    notes.pop(0)
    assert await get(client, base + "/readyz") == (200, "[+] loop: ok\n[+] etcd: ok\nok\n")
    with pytest.raises(ValueError, match="registered twice"):
        daemon.health.add_ready("records", lambda: "")


async def test_not_live_is_not_ready_either(base: str, client: aiohttp.ClientSession, daemon: Daemon) -> None:
    daemon.loop = "stuck"
    assert (await get(client, base + "/healthz"))[0] == 503
    assert (await get(client, base + "/readyz"))[0] == 503


async def test_metrics_are_those_of_the_registry(
    base: str, client: aiohttp.ClientSession, daemon: Daemon
) -> None:
    Counter("k8s_ovs_adds", "ADD requests", registry=daemon.registry).inc(3)
    status, text = await get(client, base + "/metrics")
    assert status == 200
    assert "k8s_ovs_adds_total 3.0" in text
    assert "python_info" not in text
    async with client.get(base + "/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert "openmetrics-text" in response.headers["Content-Type"]
        assert (await response.text()).endswith("# EOF\n")


@pytest.fixture
def package_level() -> Iterator[logging.Logger]:
    package, root = logging.getLogger("k8s_ovs"), logging.getLogger()
    levels = package.level, root.level
    yield package
    package.setLevel(levels[0])
    root.setLevel(levels[1])


async def test_the_log_level_can_be_set(
    base: str, client: aiohttp.ClientSession, package_level: logging.Logger
) -> None:
    async with client.post(base + "/loglevel", data="debug") as response:
        assert (response.status, await response.text()) == (200, "--v=4\n")
    assert package_level.level == logging.DEBUG
    async with client.post(base + "/loglevel", data="loud") as response:
        assert response.status == 400
        assert "info, debug or trace" in await response.text()
    async with client.get(base + "/loglevel") as response:
        assert response.status == 405


async def test_nobody_elsewhere_sets_the_log_level(
    base: str,
    client: aiohttp.ClientSession,
    package_level: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = package_level.level
    monkeypatch.setattr(web.BaseRequest, "remote", "192.0.2.1")
    async with client.post(base + "/loglevel", data="debug") as response:
        assert response.status == 403
        assert "from this host only" in await response.text()
    assert package_level.level == before
    assert (await get(client, base + "/metrics"))[0] == 200, "they may read"


@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("2001:db8::1", False),
        ("", False),
        (None, False),
    ],
)
def test_who_is_on_this_host(peer: str | None, ours: bool) -> None:
    assert from_this_host(peer) is ours


async def test_no_address_means_no_endpoint(daemon: Daemon) -> None:
    async with http_endpoint("", daemon.health, daemon.registry) as where:
        assert where == ""


async def test_a_port_in_use_says_so_and_what_to_do(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match="already in use") as caught:
            async with http_endpoint(address, daemon.health, daemon.registry):
                pass
    assert address in caught.value.message
    assert "--metrics-address" in caught.value.remedy


async def test_an_address_of_another_host_is_refused(daemon: Daemon) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:9640") as caught:
        async with http_endpoint("192.0.2.1:9640", daemon.health, daemon.registry):
            pass
    assert "of this host" in caught.value.remedy


async def test_a_client_that_never_ends_does_not_hold_up_the_end(daemon: Daemon) -> None:
    async with http_endpoint("127.0.0.1:0", daemon.health, daemon.registry) as where:
        host, port = where.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /loglevel HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        await writer.drain()
        ended = time.monotonic()
    assert time.monotonic() - ended < 1.0
    writer.close()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9640", "127.0.0.1", 9640),
        ("[::1]:9640", "::1", 9640),
        (":9640", None, 9640),
        ("localhost:0", "localhost", 0),
    ],
)
def test_addresses(text: str, host: str | None, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize("text", ["9640", "host", "host:", "host:http", "::1:9640", "host:65536", "host:-1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not host:port"):
        parse_address(text)


def test_a_check_is_registered_once(daemon: Daemon) -> None:
    with pytest.raises(ValueError, match="twice"):
        daemon.health.add_live("etcd", lambda: "")
