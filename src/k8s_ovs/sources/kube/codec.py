"""From the API's JSON to typed objects, one malformed object at a time.

Used by the client and the reflector. A malformed object never spoils the list or the watch that it came in: it is handed
on as `Malformed`, with as much of its identity as can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import msgspec

from k8s_ovs.errors import KubeUnavailable, RecordError
from k8s_ovs.sources.kube.objects import KubeStruct, ListMeta, Resource, T


class WatchLine(KubeStruct, frozen=True, kw_only=True):
    """One line of a watch; `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class _RawList(KubeStruct, frozen=True, kw_only=True):
    metadata: ListMeta
    items: tuple[msgspec.Raw, ...] | None = None


class _LooseMeta(KubeStruct, frozen=True, kw_only=True):
    namespace: Any = ""
    name: Any = ""
    resource_version: Any = ""


class _Loose(KubeStruct, frozen=True, kw_only=True):
    metadata: _LooseMeta


@dataclass(frozen=True, slots=True)
class Identity:
    """Which object, at which version."""

    namespace: str
    name: str
    resource_version: str

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Malformed:
    """An object that is not what its kind should be."""

    identity: Identity
    error: RecordError


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list. `first` begins a listing: forget the pages before it, the server could not go on with them."""

    items: Sequence[T]
    malformed: Sequence[Malformed] = field(default_factory=tuple)
    resource_version: str = ""
    continue_: str = ""
    first: bool = True


_WATCH_LINE = msgspec.json.Decoder(WatchLine)
_RAW_LIST = msgspec.json.Decoder(_RawList)
_LOOSE = msgspec.json.Decoder(_Loose)


class Codec(Generic[T]):
    """Decoders for one kind."""

    def __init__(self, resource: Resource[T]) -> None:
        self._resource = resource
        self._object: msgspec.json.Decoder[T] = msgspec.json.Decoder(resource.type)

    def object(self, raw: bytes | msgspec.Raw) -> T | Malformed:
        """One object."""
        try:
            return self._object.decode(raw)
        except msgspec.MsgspecError as err:
            who = identity(raw) or Identity("", "", "")
            name = f"{who.namespace}/{who.name}".lstrip("/") or "(no name)"
            remedy = "correct or delete the object, or report it: the API server should have refused it"
            return Malformed(who, RecordError(f"{self._resource.kind} {name}", str(err), remedy=remedy))

    def page(self, body: bytes, *, what: str, first: bool) -> Page[T]:
        """A list answer; `what` names the call in errors. Raises KubeUnavailable if it is no list at all.

        Decoding item by item costs 60% more than in one go (81 against 51 ms for 10,000 Pods) and finds the culprits.
        """
        try:
            raw = _RAW_LIST.decode(body)
        except msgspec.MsgspecError as err:
            raise unreadable(what, err) from err
        decoded = [self.object(item) for item in raw.items or ()]
        return Page(
            items=[item for item in decoded if not isinstance(item, Malformed)],
            malformed=[item for item in decoded if isinstance(item, Malformed)],
            resource_version=raw.metadata.resource_version,
            continue_=raw.metadata.continue_,
            first=first,
        )


def identity(raw: bytes | msgspec.Raw) -> Identity | None:
    """Namespace, name and version, read as loosely as possible. None if there is no metadata."""
    try:
        meta = _LOOSE.decode(raw).metadata
    except msgspec.MsgspecError:
        return None
    return Identity(str(meta.namespace or ""), str(meta.name or ""), str(meta.resource_version or ""))


def watch_line(line: bytes, *, what: str) -> WatchLine:
    """One line of a watch. Raises KubeUnavailable if it is not one."""
    try:
        return _WATCH_LINE.decode(line)
    except msgspec.MsgspecError as err:
        raise unreadable(what, err) from err


def unreadable(what: str, err: Exception) -> KubeUnavailable:
    """The error for an answer that is not what the API answers."""
    remedy = "check that the address is a Kubernetes API server's and that no proxy answers in its place"
    return KubeUnavailable(f"{what}: the answer cannot be read ({err})", reason="Unreadable", remedy=remedy)


class LineSplitter:
    """Puts lines together from network chunks, however long they are; the work is linear in the octets received."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The non-empty lines that `chunk` completes, without their ends."""
        *complete, rest = chunk.split(b"\n")
        if complete:
            complete[0] = b"".join((*self._parts, complete[0]))
            self._parts.clear()
        if rest:
            self._parts.append(rest)
        return [line for line in complete if line.strip()]
