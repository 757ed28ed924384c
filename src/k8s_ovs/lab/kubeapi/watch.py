"""Watchers: each hears the changes of one resource and keeps those that its selector is about.

Made by the HTTP handlers, fed by the store. Does no I/O: what it yields is encoded and sent elsewhere. A change costs
one call for each watcher of its resource, none for the others.
"""

import asyncio
from collections import deque
from enum import StrEnum

from k8s_ovs.lab.kubeapi.resources import Resource
from k8s_ovs.lab.kubeapi.selectors import Selector
from k8s_ovs.lab.kubeapi.store import Change, Entry, Store, Verb


class Fate(StrEnum):
    """How an open watch is to end, or not to."""

    END = "end"
    CLOSE = "close"
    HANG = "hang"
    EXPIRE = "expire"


BACKLOG = 20_000
"""A watcher that is this many changes behind is closed; it may come back and resume."""


class Watcher:
    """The changes of a resource, in a Namespace if one is given, as seen through a selector.

    `initial` is what the watch starts with; later changes come through `next`. Subscribes when made, so nothing is
    lost between the two. Must be closed.
    """

    def __init__(self, store: Store, resource: Resource, namespace: str, selector: Selector) -> None:
        self.store = store
        self.resource = resource
        self.namespace = namespace
        self.selector = selector
        self.fate: Fate | None = None
        self._pending: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._unsubscribe = store.subscribe(resource, self._hear)

    def existing(self) -> list[Change]:
        """Everything selected that exists now, as ADDED."""
        entries = self.store.entries(self.resource, self.namespace)
        return [
            Change(Verb.ADDED, e, None) for e in entries if not self.selector or self.selector.selects(e.obj)
        ]

    def since(self, revision: int) -> list[Change]:
        """What changed after a revision. Raises ApiError 410."""
        changes = (self._seen(change) for change in self.store.since(self.resource, revision))
        return [change for change in changes if change]

    async def next(self, timeout: float) -> list[Change]:
        """The changes since the last call, waiting up to `timeout` seconds for the first; empty when none came."""
        if not self._pending and self.fate is None:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                return []
        changes = list(self._pending)
        self._pending.clear()
        return changes

    def meet(self, fate: Fate) -> None:
        """Wake whoever reads, to do what the fate says."""
        self.fate = fate
        self._wake.set()

    def close(self) -> None:
        """Hear no more."""
        self._unsubscribe()

    def _hear(self, change: Change) -> None:
        seen = self._seen(change)
        if seen is None:
            return
        if len(self._pending) >= BACKLOG:
            self.fate = Fate.CLOSE
        else:
            self._pending.append(seen)
        self._wake.set()

    def _seen(self, change: Change) -> Change | None:
        """The change as this watcher has to report it: entering the selection is ADDED, leaving it DELETED."""
        if self.namespace and change.entry.key[0] != self.namespace:
            return None
        if not self.selector:
            return change
        before = change.previous is not None and self.selector.selects(change.previous.obj)
        if change.verb is Verb.DELETED:
            return change if before else None
        if self.selector.selects(change.entry.obj):
            return change if before else Change(Verb.ADDED, change.entry, None)
        if not before or change.previous is None:
            return None
        last = Entry.build(self.resource, change.previous.obj, change.entry.revision)
        return Change(Verb.DELETED, last, change.previous)
