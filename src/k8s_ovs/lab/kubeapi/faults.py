"""Faults on purpose: what tests tell this server to do wrong, through POST /lab/faults.

Asked by the server before each request. A rule waits for requests; an act happens at once:

    {"action":"status","status":429,"retryAfter":1,"times":2,"method":"GET","path":"^/api/v1/pods","watch":false}
    {"action":"delay","seconds":0.5}     {"action":"close"}     {"action":"hang"}                          rules
    {"action":"drop-history"}            watches and pages from before now get 410                          acts
    {"action":"close-watches","path":…}  open watches: reset, fall silent, or say 410 in the stream
    {"action":"hang-watches"}            {"action":"expire-watches"}

`path` is a regular expression searched in the path, `method` and `watch` narrow it, `times` is how many requests get it
(0: all until cleared). GET lists the rules, DELETE clears them and lets go what hangs.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from k8s_ovs.lab.kubeapi.answers import ApiError, bad_request
from k8s_ovs.lab.kubeapi.resources import Object
from k8s_ovs.lab.kubeapi.watch import Fate, Watcher

RULES = ("status", "delay", "close", "hang")
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
_FATES = {"close-watches": Fate.CLOSE, "hang-watches": Fate.HANG, "expire-watches": Fate.EXPIRE}


@dataclass(slots=True)
class Rule:
    """One fault that waits for requests."""

    action: str
    method: str = ""
    path: str = ""
    watch: bool | None = None
    times: int = 1
    status: int = 500
    retry_after: int | None = None
    seconds: float = 0.0
    message: str = ""
    hits: int = 0

    @property
    def spent(self) -> bool:
        """No more requests get it."""
        return bool(self.times) and self.hits >= self.times

    def matches(self, method: str, path: str, *, watch: bool) -> bool:
        """Whether the rule is for this request."""
        return (
            not self.spent
            and self.method in ("", method)
            and (self.watch is None or self.watch == watch)
            and re.search(self.path, path) is not None
        )

    def error(self) -> ApiError:
        """The answer of a "status" rule."""
        details = {} if self.retry_after is None else {"retryAfterSeconds": self.retry_after}
        message = self.message or f"injected fault: {self.status}"
        return ApiError(self.status, _REASONS.get(self.status, "Unknown"), message, details)


class Faults:
    """The rules of the moment, and the open watches that acts are done to."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self.rules: list[Rule] = []
        self._forget = forget
        self._watches: dict[Watcher, str] = {}
        self._cleared = asyncio.Event()

    def add(self, body: Object) -> None:
        """Take a rule or do an act. Raises ApiError 400 for what is neither."""
        action = body.get("action")
        path = str(body.get("path", ""))
        try:
            re.compile(path)
        except re.error as err:
            raise bad_request(f"fault: path {path!r} is no regular expression ({err})") from err
        if action == "drop-history":
            self._forget()
        elif action in _FATES:
            for watcher, own in list(self._watches.items()):
                if re.search(path, own):
                    watcher.meet(_FATES[action])
        elif action in RULES:
            self.rules.append(_rule(body, path))
        else:
            known = ", ".join((*RULES, "drop-history", *_FATES))
            raise bad_request(f"fault: unknown action {action!r}; known are {known}")

    def clear(self) -> None:
        """Forget the rules and let go what hangs."""
        self.rules.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    def take(self, method: str, path: str, *, watch: bool) -> Rule | None:
        """The rule for a request, counted as used; None when the request is to be served well."""
        for rule in self.rules:
            if rule.matches(method, path, watch=watch):
                rule.hits += 1
                return rule
        return None

    async def hang(self) -> None:
        """Wait until the faults are cleared (or the client goes, which cancels)."""
        await self._cleared.wait()

    def opened(self, watcher: Watcher, path: str) -> None:
        """A watch is open."""
        self._watches[watcher] = path

    def closed(self, watcher: Watcher) -> None:
        """It is not any more."""
        self._watches.pop(watcher, None)

    def end_watches(self) -> None:
        """End all open watches well; for the server's own end."""
        for watcher in list(self._watches):
            watcher.meet(Fate.END)

    def report(self) -> Object:
        """What GET /lab/faults answers."""
        rules = [
            {"action": r.action, "method": r.method, "path": r.path, "times": r.times, "hits": r.hits}
            for r in self.rules
        ]
        return {"rules": rules, "watches": sorted(self._watches.values())}


def _rule(body: Object, path: str) -> Rule:
    def get(name: str, kind: type, default: Any) -> Any:
        value = body.get(name, default)
        if value is not default and (
            not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        ):
            raise bad_request(f"fault: {name} must be {kind.__name__}, not {value!r}")
        return value

    return Rule(
        action=body["action"],
        method=get("method", str, ""),
        path=path,
        watch=get("watch", bool, None),
        times=get("times", int, 1),
        status=get("status", int, 500),
        retry_after=get("retryAfter", int, None),
        seconds=float(body.get("seconds", 0)),
        message=get("message", str, ""),
    )
