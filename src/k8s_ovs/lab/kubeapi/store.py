"""The objects of the API, their revisions, and the recent changes that watches resume from.

Used by the registry (which knows what a verb means) and the controllers. Knows nothing of HTTP, defaults or
validation. Everything is synchronous and runs in one event loop, so a change is whole when the call returns: written to
the journal, in the state, in the history, and handed to the listeners of its resource.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from k8s_ovs.errors import LabError
from k8s_ovs.lab.kubeapi.answers import ApiError, expired
from k8s_ovs.lab.kubeapi.journal import Journal
from k8s_ovs.lab.kubeapi.resources import BY_ID, RESOURCES, Key, Object, Resource, key_of, meta

HISTORY = 10_000
"""Changes kept per resource; a watch from before them gets 410, as from a real API server whose etcd is compacted."""
COMPACT_ABOVE = 64 << 20
"""The journal is rewritten when it has grown by this many octets."""


class Verb(StrEnum):
    """What a change did, in the words of the watch protocol."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object at one revision. `raw` is its JSON, beginning with apiVersion and kind."""

    resource: Resource
    key: Key
    obj: Object
    revision: int
    raw: bytes

    @classmethod
    def build(cls, resource: Resource, obj: Object, revision: int) -> "Entry":
        """The entry of an object at a revision; the object itself is not touched."""
        rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
        whole = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {**meta(obj), "resourceVersion": str(revision)},
            **rest,
        }
        return cls(resource, key_of(resource, whole), whole, revision, msgspec.json.encode(whole))

    @property
    def item(self) -> bytes:
        """The JSON as an item of a list has it: without apiVersion and kind."""
        return b"{" + self.raw[len(_head(self.resource)) :]

    def copy(self) -> Object:
        """The object as a copy that may be changed."""
        fresh: Object = msgspec.json.decode(self.raw)
        return fresh


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one object; a DELETED entry holds the last state under the revision of the deletion."""

    verb: Verb
    entry: Entry
    previous: Entry | None


Listener = Callable[[Change], None]


def _head(resource: Resource) -> bytes:
    return b'{"apiVersion":"%s","kind":"%s",' % (resource.api_version.encode(), resource.kind.encode())


def _set_line(entry: Entry) -> bytes:
    return b'{"rv":%d,"of":"%s","set":%s}' % (entry.revision, entry.resource.id.encode(), entry.raw)


class _Collection:
    """The objects of one resource with their recent changes; `floor` is the oldest revision to resume from."""

    def __init__(self, history: int) -> None:
        self.entries: dict[Key, Entry] = {}
        self.changes: deque[Change] = deque(maxlen=history)
        self.floor = 0
        self.listeners: list[Listener] = []

    def record(self, change: Change) -> None:
        if len(self.changes) == self.changes.maxlen:
            self.floor = max(self.floor, self.changes[0].entry.revision)
        self.changes.append(change)
        if change.verb is Verb.DELETED:
            del self.entries[change.entry.key]
        else:
            self.entries[change.entry.key] = change.entry


class Store:
    """All objects, under one revision counter.

    With a journal, `load` must be called before use.
    """

    def __init__(self, journal: Journal | None = None, *, history: int = HISTORY) -> None:
        self.revision = 1
        self._journal = journal
        self._collections = {resource.id: _Collection(history) for resource in RESOURCES}
        self._compacted_size = 0

    def load(self) -> None:
        """Replay the journal and compact it. Raises LabError for a file that is no journal or cannot be used."""
        if self._journal is None:
            return
        try:
            for record in self._journal.read():
                self._replay(record)
            self.compact()
        except OSError as err:
            raise LabError(f"journal {self._journal.path}: {err}", remedy="choose a writable place") from err

    def _replay(self, record: dict[str, Any]) -> None:
        if "journal" in record:
            self.revision = max(self.revision, record["base"])
            for collection in self._collections.values():
                collection.floor = record["base"]
            return
        resource = BY_ID.get(record.get("of", ""))
        if resource is None:
            raise LabError(
                f"journal: unknown resource in {record}", remedy="remove the journal to start empty"
            )
        self.revision = max(self.revision, record["rv"])
        if "set" in record:
            self._apply(resource, Entry.build(resource, record["set"], record["rv"]))
        else:
            self._apply(resource, None, (record["del"][0], record["del"][1]), record["rv"])

    def compact(self) -> None:
        """Rewrite the journal to the present state; the history in memory stays."""
        if self._journal is None:
            return
        self._journal.rewrite(self._dump(), self.revision)
        self._compacted_size = self._journal.size

    def _dump(self) -> Iterator[bytes]:
        entries = [entry for c in self._collections.values() for entry in c.entries.values()]
        for entry in sorted(entries, key=lambda entry: entry.revision):
            yield _set_line(entry)

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def get(self, resource: Resource, key: Key) -> Entry | None:
        """The object under a key, or None."""
        return self._collections[resource.id].entries.get(key)

    def entries(self, resource: Resource, namespace: str = "") -> list[Entry]:
        """All objects of a resource (in a Namespace, if given), ordered by namespace and name."""
        own = self._collections[resource.id].entries
        keys = sorted(key for key in own if key[0] == namespace) if namespace else sorted(own)
        return [own[key] for key in keys]

    def since(self, resource: Resource, revision: int) -> list[Change]:
        """Changes after a revision, in order. Raises ApiError 410 when they are no longer all known."""
        collection = self._collections[resource.id]
        if revision < collection.floor or revision > self.revision:
            raise expired(f"too old resource version: {revision} ({max(collection.floor, self.revision)})")
        changes: list[Change] = []
        for change in reversed(collection.changes):
            if change.entry.revision <= revision:
                break
            changes.append(change)
        return changes[::-1]

    def put(self, resource: Resource, obj: Object) -> Entry:
        """Create or replace an object; gives it the next revision. Raises ApiError 500 if the journal refuses."""
        entry = Entry.build(resource, obj, self.revision + 1)
        self._write(_set_line(entry))
        self.revision += 1
        self._apply(resource, entry)
        return entry

    def remove(self, resource: Resource, key: Key) -> Entry:
        """Remove an object that exists; the answer is its last state. Raises ApiError 500 if the journal refuses."""
        line = {"rv": self.revision + 1, "of": resource.id, "del": key}
        self._write(msgspec.json.encode(line))
        self.revision += 1
        return self._apply(resource, None, key, self.revision)

    def forget(self) -> None:
        """Drop the history: every watch that wants to resume from before now gets 410."""
        for collection in self._collections.values():
            collection.changes.clear()
            collection.floor = self.revision

    def subscribe(self, resource: Resource, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every later change of a resource; the answer ends it."""
        listeners = self._collections[resource.id].listeners
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    def _apply(
        self, resource: Resource, entry: Entry | None, key: Key = ("", ""), revision: int = 0
    ) -> Entry:
        collection = self._collections[resource.id]
        if entry is None:
            previous = collection.entries.get(key)
            if previous is None:
                raise LabError(f"{resource.id} {key}: removed, but not there", remedy="remove the journal")
            change = Change(Verb.DELETED, Entry.build(resource, previous.obj, revision), previous)
        else:
            previous = collection.entries.get(entry.key)
            change = Change(Verb.MODIFIED if previous else Verb.ADDED, entry, previous)
        collection.record(change)
        for listener in tuple(collection.listeners):
            listener(change)
        return change.entry

    def _write(self, line: bytes) -> None:
        if self._journal is None:
            return
        if self._journal.size > self._compacted_size + COMPACT_ABOVE:
            self.compact()
        try:
            self._journal.append(line)
        except OSError as err:
            raise ApiError(
                500, "InternalError", f"Internal error occurred: the journal {self._journal.path}: {err}"
            ) from err
