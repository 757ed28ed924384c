"""Tokens of service accounts: made on request (TokenRequest), bound to account and pod, and out of date one day.

Called by the handlers for `serviceaccounts/NAME/token` and by the gate for every bearer token. They are JSON web tokens
(RFC 7519) as the real API server's, but signed with one secret (HS256): nobody else has to check them. Unlike the real
one, which refuses less than ten minutes, this one makes tokens of a few seconds too: a test of rotation need not wait.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from k8s_ovs.lab.kubeapi import answers
from k8s_ovs.lab.kubeapi.rbac import User
from k8s_ovs.lab.kubeapi.resources import PODS, SERVICE_ACCOUNTS, Key, Object, meta
from k8s_ovs.lab.kubeapi.store import Store

_DEFAULT_SECONDS = 3600
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
_CLAIM = "kubernetes.io"
AUDIENCE = "https://kubernetes.default.svc"


def load_key(path: Path) -> bytes:
    """The signing secret; made if there is none yet."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


class ServiceAccountTokens:
    """Makes tokens and tells whose a token is."""

    def __init__(self, store: Store, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._key = key
        self._clock = clock

    def issue(self, account: Key, request: Object) -> Object:
        """The answer to a TokenRequest. Raises ApiError 404 for an account or pod that is not there."""
        found = self._store.get(SERVICE_ACCOUNTS, account)
        if found is None:
            raise answers.not_found(SERVICE_ACCOUNTS, account[1])
        spec: Object = request.get("spec") or {}
        seconds = spec.get("expirationSeconds") or _DEFAULT_SECONDS
        if not isinstance(seconds, int) or seconds < 1:
            raise answers.bad_request("spec.expirationSeconds: must be a positive number")
        claim: Object = {
            "namespace": account[0],
            "serviceaccount": {"name": account[1], "uid": meta(found.obj)["uid"]},
        }
        if bound := spec.get("boundObjectRef"):
            claim["pod"] = self._bound(account[0], bound)
        expires = int(self._clock()) + seconds
        audiences = spec.get("audiences") or [AUDIENCE]
        claims = {
            "iss": AUDIENCE,
            "aud": audiences,
            "sub": _user_name(account),
            "iat": int(self._clock()),
            "exp": expires,
            _CLAIM: claim,
        }
        when = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": account[1], "namespace": account[0]},
            "spec": {**spec, "audiences": audiences, "expirationSeconds": seconds},
            "status": {"token": self._sign(claims), "expirationTimestamp": when},
        }

    def user(self, token: str) -> User | None:
        """Whose token it is; None if it is not ours, out of date, or bound to what is gone."""
        claims = self._claims(token)
        if claims is None or AUDIENCE not in claims["aud"] or claims["exp"] <= self._clock():
            return None
        claim = claims[_CLAIM]
        account = (claim["namespace"], claim["serviceaccount"]["name"])
        pod = claim.get("pod")
        if not self._lives(SERVICE_ACCOUNTS, account, claim["serviceaccount"]["uid"]) or (
            pod and not self._lives(PODS, (account[0], pod["name"]), pod["uid"])
        ):
            return None
        groups = (
            "system:serviceaccounts",
            f"system:serviceaccounts:{account[0]}",
            "system:authenticated",
        )
        return User(_user_name(account), groups)

    def _bound(self, namespace: str, reference: Object) -> Object:
        if reference.get("kind") != "Pod":
            raise answers.bad_request("spec.boundObjectRef: this API server binds tokens to Pods only")
        name = str(reference.get("name", ""))
        pod = self._store.get(PODS, (namespace, name))
        if pod is None or reference.get("uid", meta(pod.obj)["uid"]) != meta(pod.obj)["uid"]:
            raise answers.not_found(PODS, name)
        return {"name": name, "uid": meta(pod.obj)["uid"]}

    def _lives(self, resource: Any, key: Key, uid: str) -> bool:
        entry = self._store.get(resource, key)
        return entry is not None and meta(entry.obj)["uid"] == uid

    def _sign(self, claims: Object) -> str:
        body = _HEADER + b"." + base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
        return (body + b"." + self._signature(body)).decode()

    def _signature(self, body: bytes) -> bytes:
        return base64.urlsafe_b64encode(hmac.digest(self._key, body, hashlib.sha256)).rstrip(b"=")

    def _claims(self, token: str) -> Object | None:
        body, dot, signature = token.encode().rpartition(b".")
        if not dot or not hmac.compare_digest(signature, self._signature(body)):
            return None
        payload = body.partition(b".")[2]
        claims: Object = msgspec.json.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        return claims


def _user_name(account: Key) -> str:
    return f"system:serviceaccount:{account[0]}:{account[1]}"
