"""The verbs over HTTP: reads the request, asks the registry, writes the answer.

Called by the server with the target of the path. Knows nothing of sockets, credentials or faults.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from k8s_ovs.lab.kubeapi import answers, patch, responses
from k8s_ovs.lab.kubeapi.deletion import DeleteOptions, Remover
from k8s_ovs.lab.kubeapi.faults import Faults
from k8s_ovs.lab.kubeapi.paging import Page, Pages
from k8s_ovs.lab.kubeapi.registry import Registry, WriteOptions
from k8s_ovs.lab.kubeapi.resources import PODS, SERVICE_ACCOUNTS, Object, meta
from k8s_ovs.lab.kubeapi.routing import Target
from k8s_ovs.lab.kubeapi.selectors import Selector
from k8s_ovs.lab.kubeapi.store import Entry
from k8s_ovs.lab.kubeapi.streaming import Query, Stream, revision_of
from k8s_ovs.lab.kubeapi.tokens import ServiceAccountTokens
from k8s_ovs.lab.kubeapi.watch import Watcher

Handler = Callable[[web.Request, Target], Awaitable[web.StreamResponse]]


class Handlers:
    """One method for each verb on an object or a collection."""

    def __init__(
        self,
        registry: Registry,
        remover: Remover,
        pages: Pages,
        faults: Faults,
        bookmark_interval: float,
        accounts: ServiceAccountTokens | None = None,
    ) -> None:
        self._accounts = accounts
        self._registry = registry
        self._remover = remover
        self._pages = pages
        self._faults = faults
        self._bookmark_interval = bookmark_interval

    async def handle(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Answer the request. Raises ApiError."""
        responses.check_accept(request)
        handler = self._find(request.method, target)
        if handler is None:
            raise answers.not_allowed(request.method)
        return await handler(request, target)

    def _find(self, method: str, target: Target) -> Handler | None:
        if target.subresource == "binding":
            return self._bind if method == "POST" else None
        if target.resource is SERVICE_ACCOUNTS and target.subresource == "token":
            return self._token if method == "POST" and self._accounts is not None else None
        if target.name:
            verbs: dict[str, Handler] = {"GET": self._get, "PUT": self._update, "PATCH": self._patch}
            if not target.subresource:
                verbs["DELETE"] = self._delete
            return verbs.get(method)
        return {"GET": self._list, "POST": self._create, "DELETE": self._delete_all}.get(method)

    async def _get(self, request: web.Request, target: Target) -> web.StreamResponse:
        return responses.one(request, self._registry.get(target.resource, target.key))

    async def _list(self, request: web.Request, target: Target) -> web.StreamResponse:
        query = request.query
        selector = Selector.parse(
            target.resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        if query.get("watch", "") in ("true", "1"):
            wanted = Query.parse(request)
            watcher = Watcher(self._registry.store, target.resource, target.namespace, selector)
            return await Stream(watcher, wanted, self._bookmark_interval).run(request, self._faults)
        page = self._page(request, target, selector)
        if responses.wants_table(request):
            include = query.get("includeObject", "")
            return responses.json_answer(
                responses.table_body(target.resource, page.entries, include, page.metadata())
            )
        return responses.json_answer(responses.list_body(target.resource, page.entries, page.metadata()))

    def _page(self, request: web.Request, target: Target, selector: Selector) -> Page:
        query = request.query
        text = query.get("limit", "") or "0"
        if not text.isdecimal():
            raise answers.bad_request(f"limit: {text!r} is no number")
        if token := query.get("continue", ""):
            return self._pages.following(token, int(text))
        self._check_revision(query.get("resourceVersion", ""), query.get("resourceVersionMatch", ""))
        entries = self._select(target, selector)
        return self._pages.first(entries, self._registry.store.revision, int(text))

    def _select(self, target: Target, selector: Selector) -> list[Entry]:
        entries = self._registry.store.entries(target.resource, target.namespace)
        return [entry for entry in entries if selector.selects(entry.obj)] if selector else entries

    def _check_revision(self, text: str, match: str) -> None:
        """Only the present can be listed: the past is 410, the future 504."""
        revision, present = revision_of(text), self._registry.store.revision
        if revision > present:
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            raise answers.ApiError(
                504,
                "Timeout",
                f"Too large resource version: {revision}, current: {present}",
                {"causes": [cause], "retryAfterSeconds": 1},
            )
        if match == "Exact" and revision != present:
            raise answers.expired(
                f"The provided resource version {revision} is not available: list the present one"
            )

    async def _create(self, request: web.Request, target: Target) -> web.StreamResponse:
        obj = await responses.read_object(request)
        options = _write_options(request, target)
        entry = self._registry.create(target.resource, self._namespace(target, obj), obj, options)
        return responses.one(request, entry, 201, options.warnings or ())

    @staticmethod
    def _namespace(target: Target, obj: Object) -> str:
        if target.resource.namespaced and not target.namespace:
            raise answers.bad_request(
                f"{target.resource.kind} {meta(obj).get('name', '')}: a Namespace is required in the path"
            )
        return target.namespace

    async def _update(self, request: web.Request, target: Target) -> web.StreamResponse:
        obj = await responses.read_object(request)
        options = _write_options(request, target)
        entry, created = self._registry.update(target.resource, target.key, obj, options)
        return responses.one(request, entry, 201 if created else 200, options.warnings or ())

    async def _patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        kind = request.content_type
        wanted = patch.decode(kind, await request.read())
        options = _write_options(request, target)
        entry = self._registry.patch(
            target.resource, target.key, lambda obj: patch.apply(target.resource, kind, wanted, obj), options
        )
        return responses.one(request, entry, 200, options.warnings or ())

    async def _bind(self, request: web.Request, target: Target) -> web.StreamResponse:
        binding = await responses.read_object(request)
        self._registry.bind(target.key, binding, _write_options(request, target))
        return responses.json_answer(_success(None), 201)

    async def _token(self, request: web.Request, target: Target) -> web.StreamResponse:
        if self._accounts is None:
            raise answers.not_allowed(request.method)
        wanted = await responses.read_object(request)
        return responses.json_answer(self._accounts.issue(target.key, wanted), 201)

    async def _delete(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await _delete_options(request)
        deleted = self._remover.delete(target.resource, target.key, options)
        if deleted.gone and target.resource is not PODS:
            return responses.json_answer(_success(deleted.entry))
        return responses.one(request, deleted.entry)

    async def _delete_all(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await _delete_options(request)
        self._namespace(target, {})
        query = request.query
        selector = Selector.parse(
            target.resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        entries = self._select(target, selector)
        for entry in entries:
            self._remover.delete(target.resource, entry.key, options)
        metadata: Object = {"resourceVersion": str(self._registry.store.revision)}
        return responses.json_answer(responses.list_body(target.resource, entries, metadata))


def _write_options(request: web.Request, target: Target) -> WriteOptions:
    query = request.query
    dry_run = query.get("dryRun", "")
    if dry_run not in ("", "All"):
        raise answers.bad_request(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"')
    validation = query.get("fieldValidation", "") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise answers.bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        )
    return WriteOptions(
        strict=validation == "Strict",
        dry_run=dry_run == "All",
        subresource=target.subresource,
        warnings=[] if validation == "Warn" else None,
    )


async def _delete_options(request: web.Request) -> DeleteOptions:
    body = await responses.read_object(request) if request.can_read_body else {}
    grace = body.get("gracePeriodSeconds")
    text = request.query.get("gracePeriodSeconds", "")
    if grace is None and text:
        if not text.isdecimal():
            raise answers.bad_request(f"gracePeriodSeconds: {text!r} is no number of seconds")
        grace = int(text)
    if grace is not None and not isinstance(grace, int):
        raise answers.bad_request("gracePeriodSeconds: must be a number")
    expected = body.get("preconditions") or {}
    return DeleteOptions(
        grace=grace,
        uid=str(expected.get("uid") or ""),
        revision=str(expected.get("resourceVersion") or ""),
        dry_run=bool(body.get("dryRun") or request.query.get("dryRun")),
    )


def _success(entry: Entry | None) -> Object:
    answer: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if entry is not None:
        resource, own = entry.resource, meta(entry.obj)
        answer["details"] = {
            "name": own["name"],
            "group": resource.group,
            "kind": resource.plural,
            "uid": own["uid"],
        }
    return answer
