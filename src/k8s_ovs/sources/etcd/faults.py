"""What the failures of a call to etcd mean: from a gRPC status, TLS alert or broken socket to an EtcdError.

Only `connection` calls this. The texts are etcd's own (api/v3rpc/rpctypes); they are part of its API, since
its status codes alone do not tell a wrong password from a request that is too large.
"""

import ssl

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from k8s_ovs.errors import EtcdCompacted, EtcdDenied, EtcdError, EtcdNoSpace, EtcdUnavailable
from k8s_ovs.sources.etcd.settings import Endpoint, EtcdSettings


class StaleToken(EtcdDenied):
    """The token of an earlier Authenticate is no longer known: authenticate again and repeat the call."""


class FutureRevision(EtcdError):
    """The server has not reached the revision asked for: its history is not the one that we have seen."""


class LostLease(EtcdError):
    """The lease that a key was to be written with has ended: grant it again."""


_EXPECTED = {"future revision": FutureRevision, "requested lease not found": LostLease}

_DENIED = {
    "invalid user ID or password": "check --etcd-username and --etcd-password-file",
    "user name is empty": (
        "etcd wants a user: give --etcd-username and --etcd-password-file, "
        "or a client certificate whose CommonName is a user"
    ),
    "permission denied": "grant the user's role readwrite on the keys below --etcd-prefix",
    "user name not found": "check --etcd-username",
}


def meaning(settings: EtcdSettings, endpoint: Endpoint, doing: str, error: BaseException) -> EtcdError:
    """The error to raise for `error`, met at `endpoint` while `doing` something."""
    where = f"etcd {endpoint}: {doing}"
    if isinstance(error, EtcdError):
        return error
    if isinstance(error, GRPCError):
        return _status(where, error.status, error.message or "")
    if isinstance(error, ssl.SSLError):
        return _tls(settings, endpoint, error)
    if isinstance(error, TimeoutError):
        return EtcdUnavailable(
            f"{where}: no answer within {settings.timeout:g} s",
            remedy="check that etcd runs there and has a quorum",
        )
    if isinstance(error, OSError):
        return EtcdUnavailable(
            f"{where}: {error.strerror or str(error) or 'connection closed'}", remedy=_reach(endpoint)
        )
    return EtcdUnavailable(f"{where}: {error or type(error).__name__}", remedy=_reach(endpoint))


def refusal(where: str, reason: str) -> EtcdError:
    """The error for a watch that the server cancelled with `reason`."""
    status = Status.PERMISSION_DENIED if "permission denied" in reason else Status.UNAVAILABLE
    return _status(where, status, reason)


def _status(where: str, status: Status, text: str) -> EtcdError:
    what = f"{where}: {text or status.name}"
    if status is Status.UNAUTHENTICATED or "revision of auth store is old" in text:
        return StaleToken(what, remedy="check --etcd-username and --etcd-password-file")
    if "has been compacted" in text:
        return EtcdCompacted(what, compact_revision=0)
    for phrase, kind in _EXPECTED.items():
        if phrase in text:
            return kind(what)
    for phrase, remedy in _DENIED.items():
        if phrase in text:
            return EtcdDenied(what, remedy=remedy)
    if "database space exceeded" in text:
        return EtcdNoSpace(
            what, remedy="compact and defragment etcd or raise its quota, then `etcdctl alarm disarm`"
        )
    if status is Status.PERMISSION_DENIED:
        return EtcdDenied(what, remedy="grant the user's role readwrite on the keys below --etcd-prefix")
    if status in (Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION):
        return EtcdError(what)
    return EtcdUnavailable(what, remedy="check the health of the etcd cluster")


def _tls(settings: EtcdSettings, endpoint: Endpoint, error: ssl.SSLError) -> EtcdError:
    where = (
        f"etcd {endpoint}: connecting"  # whatever the call was: TLS 1.3 can refuse us during the first one
    )
    if isinstance(error, ssl.SSLCertVerificationError):
        ca = settings.cafile or "the system's CAs"
        return EtcdDenied(
            f"{where}: its certificate is refused ({error.verify_message}) by {ca}",
            remedy="give the CA that signed it with --etcd-cafile, and use a name or address that it was issued for",
        )
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLEOFError):
        return EtcdUnavailable(f"{where}: closed during the TLS handshake", remedy=_reach(endpoint))
    if "alert" in reason:
        own = settings.certfile or "no client certificate"
        return EtcdDenied(
            f"{where}: it refuses us with {own} ({reason})",
            remedy="give a client certificate that its CA has signed with --etcd-certfile and --etcd-keyfile",
        )
    return EtcdDenied(
        f"{where}: no TLS possible ({reason})", remedy="check whether etcd listens with http:// there"
    )


def _reach(endpoint: Endpoint) -> str:
    if endpoint.tls:
        return "check that etcd runs there, and with TLS (else use http://)"
    return "check that etcd runs there, and without TLS (else use https://)"
