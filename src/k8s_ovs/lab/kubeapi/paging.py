"""Lists in pages (`limit`, `continue`): the later pages show the state of the first.

Used by the HTTP handlers. A page token names a snapshot in memory; snapshots cost references only. They end with the
process, by age and by number: then the client gets 410 and lists anew.
"""

import base64
import binascii
import time
from collections import OrderedDict
from dataclasses import dataclass

from k8s_ovs.lab.kubeapi.answers import ApiError, bad_request
from k8s_ovs.lab.kubeapi.resources import Object
from k8s_ovs.lab.kubeapi.store import Entry

MOST = 64
SECONDS = 300.0

_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You must start a new list "
    "without the continue parameter."
)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    entries: list[Entry]
    revision: int
    taken: float


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, the revision that they are from, and how to go on."""

    entries: list[Entry]
    revision: int
    token: str = ""
    remaining: int = 0

    def metadata(self) -> Object:
        """The ListMeta."""
        answer: Object = {"resourceVersion": str(self.revision)}
        if self.token:
            answer["continue"] = self.token
            answer["remainingItemCount"] = self.remaining
        return answer


class Pages:
    """Snapshots of lists that clients read page by page."""

    def __init__(self) -> None:
        self._snapshots: OrderedDict[str, _Snapshot] = OrderedDict()
        self._count = 0

    def first(self, entries: list[Entry], revision: int, limit: int) -> Page:
        """The first page; everything when `limit` is 0 or not reached."""
        if not 0 < limit < len(entries):
            return Page(entries, revision)
        self._count += 1
        name = f"{revision}.{self._count}.{time.monotonic_ns()}"
        self._snapshots[name] = _Snapshot(entries, revision, time.monotonic())
        while len(self._snapshots) > MOST:
            self._snapshots.popitem(last=False)
        return self._page(name, 0, limit)

    def following(self, token: str, limit: int) -> Page:
        """The page that a token names. Raises ApiError 410 for old tokens, 400 for what is none."""
        try:
            name, _, start = base64.urlsafe_b64decode(token.encode()).decode().rpartition("/")
            offset = int(start)
        except (ValueError, binascii.Error) as err:
            raise bad_request(f"continue key is not valid: {err}") from err
        snapshot = self._snapshots.get(name)
        if snapshot is None or time.monotonic() - snapshot.taken > SECONDS:
            raise ApiError(410, "Expired", _EXPIRED)
        return self._page(name, offset, limit)

    def forget(self) -> None:
        """Let all tokens expire."""
        self._snapshots.clear()

    def _page(self, name: str, offset: int, limit: int) -> Page:
        snapshot = self._snapshots[name]
        end = offset + limit if limit > 0 else len(snapshot.entries)
        remaining = max(len(snapshot.entries) - end, 0)
        token = base64.urlsafe_b64encode(f"{name}/{end}".encode()).decode() if remaining else ""
        return Page(snapshot.entries[offset:end], snapshot.revision, token, remaining)
