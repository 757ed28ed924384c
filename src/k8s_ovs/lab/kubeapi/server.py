"""The API server as a whole: puts the parts together, listens, and sends each request where it belongs.

Used by __main__ (a process of its own) and by tests. Order for each request: faults, credentials, rights, path.
"""

import asyncio
import logging
import socket
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from k8s_ovs.errors import LabError
from k8s_ovs.lab.kubeapi import answers, auth, discovery, openapi, rbac, responses, routing
from k8s_ovs.lab.kubeapi.controller import EndpointsController
from k8s_ovs.lab.kubeapi.deletion import NamespacePurge, Remover
from k8s_ovs.lab.kubeapi.faults import Faults
from k8s_ovs.lab.kubeapi.handlers import Handlers
from k8s_ovs.lab.kubeapi.journal import Journal
from k8s_ovs.lab.kubeapi.paging import Pages
from k8s_ovs.lab.kubeapi.registry import Registry
from k8s_ovs.lab.kubeapi.resources import Object
from k8s_ovs.lab.kubeapi.seed import seed
from k8s_ovs.lab.kubeapi.settings import Settings
from k8s_ovs.lab.kubeapi.store import Store
from k8s_ovs.lab.kubeapi.tokens import ServiceAccountTokens, load_key

_LOG = logging.getLogger(__name__)
_MAX_BODY = 3 << 20
"""Octets; the limit of the real API server."""


class ApiServer:
    """An embedded Kubernetes API server. `async with` starts and stops it; `url` is its first address."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(Journal(settings.journal) if settings.journal else None)
        self.registry = Registry(self.store, settings.service_cidr)
        self.pages = Pages()
        self.faults = Faults(self._forget)
        self.addresses: list[tuple[str, int]] = []
        key = settings.account_key
        self._accounts = ServiceAccountTokens(self.store, load_key(key)) if key else None
        self._gate = auth.Gate(settings, self._accounts)
        self._authorizer = rbac.Authorizer(self.store)
        self._remover = Remover(self.registry)
        self._handlers = Handlers(
            self.registry, self._remover, self.pages, self.faults, settings.bookmark_interval, self._accounts
        )
        self._controllers: list[NamespacePurge | EndpointsController] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        host, port = self.addresses[0]
        return f"{'https' if self.settings.tls else 'http'}://{host}:{port}"

    async def start(self) -> None:
        """Load the journal, begin to listen. Raises LabError (journal, address in use) and ConfigError (TLS)."""
        self.store.load()
        self._controllers = [
            NamespacePurge(self.registry, self._remover),
            EndpointsController(self.registry),
        ]
        seed(self.registry, self.settings.advertise)
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.3, keepalive_timeout=3600
        )
        await self._runner.setup()
        for listener in self._sockets():
            await self._listen(self._runner, listener)

    async def stop(self) -> None:
        """End the watches, close the sockets and the journal."""
        self.faults.clear()
        self.faults.end_watches()
        await asyncio.sleep(0)  # lets the watches write their end before the connections are closed
        if self._runner is not None:
            await self._runner.cleanup()
        for controller in self._controllers:
            controller.close()
        self.store.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _sockets(self) -> list[socket.socket]:
        sockets = [socket.socket(fileno=fd) for fd in self.settings.fds]
        for host, port in self.settings.listen:
            try:
                sockets.append(socket.create_server((host, port), backlog=512))
            except OSError as err:
                raise LabError(
                    f"API server: cannot listen on {host}:{port}: {err}",
                    remedy="choose another address or port",
                ) from err
        if not sockets:
            raise LabError(
                "API server: nothing to listen on", remedy="give --listen ADDRESS:PORT or --fd NUMBER"
            )
        return sockets

    async def _listen(self, runner: web.AppRunner, listener: socket.socket) -> None:
        listener.setblocking(False)
        files = self.settings.tls
        context = auth.tls_context(files) if files else None
        await web.SockSite(runner, listener, ssl_context=context, backlog=512).start()
        host, port = listener.getsockname()[:2]
        self.addresses.append((host, port))

    def _forget(self) -> None:
        self.store.forget()
        self.pages.forget()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except answers.ApiError as err:
            return responses.error_answer(err)
        except web.HTTPException as err:
            return responses.error_answer(answers.ApiError(err.status, err.reason, err.text or err.reason))
        except Exception as err:  # a bug: the client must still get a Status, and the log the trace
            _LOG.exception("%s %s", request.method, request.path_qs)
            return responses.error_answer(
                answers.ApiError(500, "InternalError", f"Internal error occurred: {err!r}")
            )

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/lab/faults":
            return await self._lab_faults(request)
        if path not in auth.OPEN_PATHS:  # a health probe of the lab must not use up what a test has ordered
            await self._misbehave(request)
        user = self._gate.identify(request)
        target = routing.parse(path) if path.startswith(("/api/", "/apis/")) else None
        if path not in auth.OPEN_PATHS:
            self._authorizer.check(user, rbac.wish(request, target))
        if target is not None:
            return await self._handlers.handle(request, target)
        return self._fixed(request)

    async def _lab_faults(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            self.faults.add(await responses.read_object(request))
        elif request.method == "DELETE":
            self.faults.clear()
        elif request.method != "GET":
            raise answers.not_allowed(request.method)
        return responses.json_answer(self.faults.report())

    async def _misbehave(self, request: web.Request) -> None:
        watch = request.query.get("watch", "") in ("true", "1")
        rule = self.faults.take(request.method, request.path, watch=watch)
        if rule is None:
            return
        if rule.action == "status":
            raise rule.error()
        if rule.action == "delay":
            await asyncio.sleep(rule.seconds)
        elif rule.action == "hang":
            await self.faults.hang()
        elif request.transport is not None:
            request.transport.abort()
            raise answers.ApiError(500, "InternalError", "injected fault: connection closed")

    def _fixed(self, request: web.Request) -> web.StreamResponse:
        """Everything that is not an object: health, version, discovery, OpenAPI."""
        if request.method not in ("GET", "HEAD"):
            raise answers.no_such_path()
        path = request.path.rstrip("/")
        if path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if path == "/openapi/v2" and "protobuf" in request.headers.get("Accept", ""):
            return web.Response(body=openapi.v2_protobuf(), content_type=openapi.V2_PROTOBUF)
        if path in ("/api", "/apis") and "as=APIGroupDiscoveryList" in request.headers.get("Accept", ""):
            raw = msgspec.json.encode(discovery.aggregated(core=path == "/api"))
            return web.Response(body=raw, headers={"Content-Type": discovery.AGGREGATED})
        body = _document(path)
        if body is None:
            raise answers.no_such_path()
        return responses.json_answer(body)


def _document(path: str) -> Object | None:
    fixed = {
        "/version": lambda: discovery.VERSION,
        "/api": discovery.api_versions,
        "/apis": discovery.group_list,
        "/openapi/v2": openapi.v2,
        "/openapi/v3": openapi.v3_index,
    }
    if path in fixed:
        return fixed[path]()
    if path.startswith("/openapi/v3/"):
        return openapi.v3(path.removeprefix("/openapi/v3/"))
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) == 2:
        return discovery.resource_list("", parts[1])
    if parts[0] == "apis" and len(parts) == 2:
        return discovery.group(parts[1])
    if parts[0] == "apis" and len(parts) == 3:
        return discovery.resource_list(parts[1], parts[2])
    return None
