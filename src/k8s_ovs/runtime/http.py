"""The daemon's HTTP endpoint: /healthz, /readyz, /metrics, and POST /loglevel (from this host only).

Opened by `cli` around the agent and the controller, which register their checks in `HealthChecks` and their
metrics in the registry. It never decides anything and holds no state of its own.
"""

import errno
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from k8s_ovs.errors import ConfigError
from k8s_ovs.runtime.logs import parse_verbosity, set_verbosity

_log = logging.getLogger(__name__)

Check = Callable[[], str]
"""Returns "" if all is well, else the reason why not. Must be quick and must not raise."""

_SHUTDOWN_SECONDS = 0.3
"""How long open requests may take at the end: the daemon has to be gone within a second."""


@dataclass(slots=True)
class HealthChecks:
    """Named checks: `ready` ones decide /readyz; `live` ones (only a restart helps) decide both; notes decide nothing."""

    _notes: dict[str, Check] = field(default_factory=dict)
    _ready: dict[str, Check] = field(default_factory=dict)
    _live: dict[str, Check] = field(default_factory=dict)

    def add_ready(self, name: str, check: Check) -> None:
        """Add a condition for serving. A name may be added once (ValueError)."""
        self._add(self._ready, name, check)

    def add_live(self, name: str, check: Check) -> None:
        """Add a condition without which only a restart helps. A name may be added once (ValueError)."""
        self._add(self._live, name, check)

    def add_note(self, name: str, check: Check) -> None:
        """Add what /readyz tells beside the checks while it lasts: an outage that does not keep anybody from serving."""
        self._add(self._notes, name, check)

    def _add(self, checks: dict[str, Check], name: str, check: Check) -> None:
        if name in self._ready or name in self._live or name in self._notes:
            raise ValueError(f"health check {name!r} is registered twice")
        checks[name] = check

    def readiness(self) -> dict[str, str]:
        """Every check by name, with "" or its reason."""
        return {name: check() for name, check in {**self._live, **self._ready}.items()}

    def notes(self) -> dict[str, str]:
        """The notes that say something now, by name."""
        return {name: said for name, note in self._notes.items() if (said := note())}

    def liveness(self) -> dict[str, str]:
        """The `live` checks by name, with "" or their reason."""
        return {name: check() for name, check in self._live.items()}

    @property
    def ready(self) -> bool:
        """Whether every check passes."""
        return not any(self.readiness().values())


def parse_address(text: str) -> tuple[str | None, int]:
    """Split "host:port", "[v6]:port" or ":port" (all addresses: None). Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        not colon
        or not port.isascii()
        or not port.isdigit()
        or int(port) > 65535
        or (":" in host and bare is host)
    ):
        raise ConfigError(
            f"address {text!r} is not host:port", remedy="give one like 127.0.0.1:9640, or empty for none"
        )
    return bare or None, int(port)


@asynccontextmanager
async def http_endpoint(
    address: str, health: HealthChecks, registry: CollectorRegistry
) -> AsyncIterator[str]:
    """Serve on `address` ("host:port"; port 0: any free one; empty: nothing) while the context lasts.

    Yields the address really bound ("" for none). Raises ConfigError if `address` is malformed or cannot be
    bound.
    """
    if not address:
        yield ""
        return
    host, port = parse_address(address)
    runner = web.AppRunner(
        _application(health, registry), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        yield await _bind(runner, address, host, port)
    finally:
        await runner.cleanup()


async def _bind(runner: web.AppRunner, address: str, host: str | None, port: int) -> str:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            remedy = "end the process that has it (ss -ltnp shows it) or choose another --metrics-address"
        else:
            remedy = "choose an address of this host with --metrics-address"
        raise ConfigError(
            f"cannot listen on {address} for health and metrics: {err.strerror or err}", remedy=remedy
        ) from err
    name, bound = runner.addresses[0][:2]
    where = f"[{name}]:{bound}" if ":" in str(name) else f"{name}:{bound}"
    _log.info("health and metrics on http://%s", where)
    return where


def _application(health: HealthChecks, registry: CollectorRegistry) -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        return _report(health.liveness())

    async def readyz(_: web.Request) -> web.Response:
        return _report(health.readiness(), health.notes())

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def loglevel(request: web.Request) -> web.Response:
        if not from_this_host(request.remote):
            text = "the log level is set from this host only: ask on a loopback address, by `kubectl exec` in the Pod\n"
            return web.Response(status=HTTPStatus.FORBIDDEN, text=text)
        try:
            verbosity = parse_verbosity(await request.text())
        except ConfigError as err:
            return web.Response(status=400, text=f"{err}\n")
        set_verbosity(verbosity)
        _log.info("log level set to --v=%d by %s", verbosity, request.remote)
        return web.Response(text=f"--v={verbosity}\n")

    app = web.Application(client_max_size=4096)
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.post("/loglevel", loglevel),
        ]
    )
    return app


def from_this_host(peer: str | None) -> bool:
    """Whether a peer's address is a loopback one. --metrics-address may be open to all: they may read, and change nothing."""
    try:
        address = ip_address((peer or "").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _report(results: Mapping[str, str], notes: Mapping[str, str] = {}) -> web.Response:
    """200 or 503 with a line for each check, the form that Kubernetes' own components use; and one for each note."""
    lines = [
        f"[-] {name}: {' '.join(why.split())}" if why else f"[+] {name}: ok" for name, why in results.items()
    ]
    lines += [f"[!] {name}: {' '.join(said.split())}" for name, said in notes.items()]
    bad = any(results.values())
    lines.append("not ok" if bad else "ok")
    return web.Response(status=503 if bad else 200, text="\n".join(lines) + "\n")
