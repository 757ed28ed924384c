"""The ways in which people and kubelets change a lab, cheap, and repeated until it is certain what came of it.

For `fakes.soaking`; a pod of `fakes.crash_stage` is changed this way too. A request whose answer got lost is asked again: of a
name that is made once, "exists already" then means made, and "not found" means deleted.
"""

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fakes.labs import CommandFailed, Lab
from k8s_ovs.lab.cluster import ETCD_PREFIX, NETWORK_NAME

PATIENCE = 60.0
"""Seconds until a server that does not answer is a failure of the test."""
ROOT = f"{ETCD_PREFIX}/{NETWORK_NAME}"
Object = dict[str, Any]


@dataclass
class Api:
    """The API server at this port of the loopback. `meanwhile` is called between two attempts: it ends outages."""

    port: int
    meanwhile: Callable[[], None] = lambda: None

    def create(self, path: str, body: Object) -> Object:
        """POST; an object of this name that exists is taken for the one that was made."""
        status, answer = self._ask("POST", path, body, (201, 409))
        name = body["metadata"]["name"]
        return answer if status == 201 else self._ask("GET", f"{path}/{name}", None, (200,))[1]

    def get(self, path: str) -> Object | None:
        """GET; None if there is no such thing."""
        status, answer = self._ask("GET", path, None, (200, 404))
        return answer if status == 200 else None

    def delete(self, path: str, *, grace: int | None = None) -> None:
        """DELETE; what does not exist is deleted."""
        body = {} if grace is None else {"gracePeriodSeconds": grace}
        self._ask("DELETE", path, body, (200, 202, 404))

    def patch(self, path: str, body: Object) -> Object:
        """A JSON merge patch."""
        return self._ask("PATCH", path, body, (200,))[1]

    def _ask(self, method: str, path: str, body: Object | None, fine: tuple[int, ...]) -> tuple[int, Object]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        text = None if body is None else json.dumps(body)
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.request(method, path, text, {"Content-Type": kind})
                answer = connection.getresponse()
                told = json.loads(answer.read() or b"{}")
                if answer.status in fine:
                    return answer.status, told
                reason = f"{answer.status} {told.get('message')}"
                assert answer.status in (429, 500, 502, 503, 504), f"{method} {path}: {reason}"
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as err:
                reason = repr(err)
            finally:
                connection.close()
            assert time.monotonic() < deadline, f"{method} {path}: {reason}"
            self.meanwhile()
            time.sleep(0.1)  # as clients do: not at once again


@dataclass
class Records:
    """The records in etcd, as an administrator writes and reads them with etcdctl."""

    lab: Lab
    meanwhile: Callable[[], None] = lambda: None

    def put(self, key: str, value: Object) -> None:
        """Write one."""
        self._etcdctl("put", f"{ROOT}/{key}", json.dumps(value))

    def delete(self, key: str) -> None:
        """Delete one."""
        self._etcdctl("del", f"{ROOT}/{key}")

    def get(self, key: str) -> Object | None:
        """Read one."""
        text = self._etcdctl("get", "--print-value-only", f"{ROOT}/{key}").strip()
        found: Object | None = json.loads(text) if text else None
        return found

    def _etcdctl(self, *arguments: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.lab.etcdctl("--command-timeout=3s", "--dial-timeout=1s", *arguments)
            except CommandFailed:
                if time.monotonic() > deadline:
                    raise
            self.meanwhile()
            time.sleep(0.1)  # as people do: not at once again
