"""Watches on the wire: one JSON line per event, bookmarks, and the ways a watch ends.

Called by the HTTP handlers with a request that asks for a watch.
"""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from k8s_ovs.lab.kubeapi import responses, tables
from k8s_ovs.lab.kubeapi.answers import ApiError, Problem, bad_request, invalid
from k8s_ovs.lab.kubeapi.faults import Faults
from k8s_ovs.lab.kubeapi.resources import Object, Resource
from k8s_ovs.lab.kubeapi.store import Change
from k8s_ovs.lab.kubeapi.watch import Fate, Watcher

DEFAULT_SECONDS = 1800.0
"""A watch without timeoutSeconds ends after this time to twice of it, as with the real API server."""

_INITIAL_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of a watch."""

    revision: int
    initial: bool
    """Begin with everything that exists."""
    mark_initial: bool
    """Say with a bookmark where that ends (sendInitialEvents)."""
    bookmarks: bool
    seconds: float
    table: bool
    include: str

    @classmethod
    def parse(cls, request: web.Request) -> "Query":
        """Raises ApiError 400 and 422 for parameters that make no sense."""
        query = request.query
        revision = revision_of(query.get("resourceVersion", ""))
        asked = query.get("sendInitialEvents", "")
        bookmarks = query.get("allowWatchBookmarks", "") in ("true", "1")
        if asked == "true" and query.get("resourceVersionMatch") != "NotOlderThan":
            problem = Problem.forbidden(
                "sendInitialEvents",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )
            raise invalid("ListOptions", "meta.k8s.io", "", [problem])
        seconds = DEFAULT_SECONDS * (1 + random.random())
        if text := query.get("timeoutSeconds", ""):
            if not text.isdecimal():
                raise bad_request(f"timeoutSeconds: {text!r} is no number of seconds")
            seconds = float(text) or seconds
        return cls(
            revision=revision,
            initial=asked == "true" or (asked == "" and revision == 0),
            mark_initial=asked == "true" and bookmarks,
            bookmarks=bookmarks,
            seconds=seconds,
            table=responses.wants_table(request),
            include=query.get("includeObject", "") or "Metadata",
        )


def revision_of(text: str) -> int:
    """A resourceVersion parameter as a number; 0 for none. Raises ApiError 400."""
    if text and not text.isdecimal():
        raise bad_request(f"resourceVersion: Invalid value: {text!r}: must be a decimal number")
    return int(text or 0)


class Stream:
    """One open watch: a watcher, and the response that its events are written to."""

    def __init__(self, watcher: Watcher, query: Query, bookmark_interval: float) -> None:
        self._watcher = watcher
        self._resource: Resource = watcher.resource
        self._query = query
        self._interval = bookmark_interval
        self._header = True
        self._response = web.StreamResponse(headers={"Content-Type": responses.JSON})

    async def run(self, request: web.Request, faults: Faults) -> web.StreamResponse:
        """Serve the watch until its time is over, the client goes, or its fate is met."""
        try:
            start = self._start()
        except ApiError as err:
            start = self._error(err)
        faults.opened(self._watcher, request.path)
        try:
            await self._response.prepare(request)
            await self._response.write(start)
            if not start.startswith(b'{"type":"ERROR"'):
                await self._follow(request, faults)
            await self._response.write_eof()
        except (ConnectionError, web.HTTPException):
            pass  # the client is gone; there is nobody to tell
        finally:
            faults.closed(self._watcher)
            self._watcher.close()
        return self._response

    def _start(self) -> bytes:
        if not self._query.initial:
            revision = self._query.revision or self._watcher.store.revision
            return self._events(self._watcher.since(revision))
        data = self._events(self._watcher.existing())
        return data + (self._bookmark(initial=True) if self._query.mark_initial else b"")

    async def _follow(self, request: web.Request, faults: Faults) -> None:
        end = time.monotonic() + self._query.seconds
        while (left := end - time.monotonic()) > 0:
            changes = await self._watcher.next(min(left, self._interval))
            fate = self._watcher.fate
            if fate is Fate.HANG:
                self._watcher.fate = None
                await faults.hang()
            elif fate is not None:
                await self._meet(request, fate, changes)
                return
            if changes:
                await self._response.write(self._events(changes))
            elif self._query.bookmarks:
                await self._response.write(self._bookmark())

    async def _meet(self, request: web.Request, fate: Fate, changes: list[Change]) -> None:
        if fate is Fate.CLOSE:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("injected fault: the watch is closed")
        await self._response.write(self._events(changes))
        if fate is Fate.EXPIRE:
            await self._response.write(
                self._error(ApiError(410, "Expired", "too old resource version: injected fault"))
            )

    def _events(self, changes: Iterable[Change]) -> bytes:
        if not self._query.table:
            return b"".join(b'{"type":"%s","object":%s}\n' % (c.verb.encode(), c.entry.raw) for c in changes)
        lines = []
        for change in changes:
            metadata = {"resourceVersion": str(change.entry.revision)}
            table = tables.table(
                self._resource, [change.entry], self._query.include, metadata, header=self._header
            )
            self._header = False
            lines.append(_line(change.verb, table))
        return b"".join(lines)

    def _bookmark(self, *, initial: bool = False) -> bytes:
        """Where the watch is: nothing selected has changed up to here that has not been sent."""
        metadata: Object = {"resourceVersion": str(self._watcher.store.revision), "creationTimestamp": None}
        if initial:
            metadata["annotations"] = {_INITIAL_END: "true"}
        if self._query.table:
            table = tables.table(self._resource, [], self._query.include, metadata, header=self._header)
            self._header = False
            partial = {
                "kind": self._resource.kind,
                "apiVersion": self._resource.api_version,
                "metadata": metadata,
            }
            table["rows"] = [{"cells": [""] * len(tables.columns(self._resource)), "object": partial}]
            return _line("BOOKMARK", table)
        body = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": metadata}
        return _line("BOOKMARK", body)

    @staticmethod
    def _error(err: ApiError) -> bytes:
        return _line("ERROR", err.status())


def _line(kind: str, body: Object) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), msgspec.json.encode(body))
