"""Certificates by the `openssl` program (3.0 or newer): make a CA, issue from it, and see whether one still serves.

Used by `k8s-ovs etcd-tls`. Keys are ECDSA P-256. No key is written to a disk or a command line: what openssl reads is
handed over in anonymous files in memory, what it makes comes back on its standard output. Nothing here knows where
certificates are kept.
"""

import os
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address

from k8s_ovs.errors import ConfigError

DAY = 24 * 3600
TIMEOUT = 30.0
SERIAL_BITS = 127
"""RFC 5280, 4.1.2.2: positive, at most 20 octets."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    cert: bytes
    key: bytes = field(repr=False)


class Purpose(Enum):
    """What a certificate is for: the name that `openssl verify -purpose` has for it, and its extended key usages."""

    SERVER = "sslserver"
    CLIENT = "sslclient"

    @property
    def usages(self) -> str:
        """The usages as openssl names them. etcd's own JSON gateway presents the server's certificate as a client."""
        return "serverAuth,clientAuth" if self is Purpose.SERVER else "clientAuth"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that is wanted. `names` are addresses and DNS names; `days` is how long it is to be valid."""

    common_name: str
    purpose: Purpose
    days: int
    names: tuple[str, ...] = ()


def make_ca(common_name: str, days: int) -> Pair:
    """A CA that signs itself. Raises ConfigError if there is no usable openssl."""
    key = _new_key()
    extensions = {
        "basicConstraints": "critical,CA:TRUE,pathlen:0",
        "keyUsage": "critical,keyCertSign,cRLSign",
        "subjectKeyIdentifier": "hash",
    }
    files = {"config": _config(common_name, extensions), "key": key}
    arguments = ["req", "-x509", "-new", "-sha256", "-key", "{key}", "-config", "{config}"]
    cert = _run([*arguments, "-extensions", "ext", "-days", str(days), *_serial()], files)
    return Pair(cert, key)


def issue(ca: Pair, wanted: Wanted) -> Pair:
    """A new key and its certificate, signed by `ca`. Raises ConfigError."""
    key = _new_key()
    extensions = {
        "basicConstraints": "critical,CA:FALSE",
        "keyUsage": "critical,digitalSignature",
        "extendedKeyUsage": wanted.purpose.usages,
        "subjectKeyIdentifier": "hash",
        "authorityKeyIdentifier": "keyid",
    }
    if wanted.names:
        extensions["subjectAltName"] = ",".join(f"{_kind(name)}:{name}" for name in wanted.names)
    config = _config(wanted.common_name, extensions)
    request = _run(
        ["req", "-new", "-sha256", "-key", "{key}", "-config", "{config}"], {"key": key, "config": config}
    )
    files = {"request": request, "ca": ca.cert, "cakey": ca.key, "config": config}
    arguments = ["x509", "-req", "-sha256", "-in", "{request}", "-CA", "{ca}", "-CAkey", "{cakey}"]
    more = ["-extfile", "{config}", "-extensions", "ext", "-days", str(wanted.days), *_serial()]
    return Pair(_run([*arguments, *more], files), key)


def complaint(pair: Pair, bundle: bytes, wanted: Wanted, *, margin_days: float) -> str:
    """Why `pair` does not serve as `wanted` to somebody who trusts `bundle`, now or in `margin_days`; "" if it does."""
    if not pair.cert or not pair.key:
        return "there is none"
    try:
        if not _belong(pair):
            return "certificate and key do not belong together"
    except ConfigError:
        return "certificate or key cannot be read"
    checks = [_matching(name) for name in wanted.names] or [[]]
    for moment, when in ((0.0, ""), (margin_days, f" in {margin_days:g} days")):
        for check in checks:
            refused = _refusal(pair.cert, bundle, wanted.purpose, moment, check)
            if refused:
                return f"it is refused{when} ({refused})"
    return ""


def ca_serves(ca: Pair, days: float) -> bool:
    """Whether `ca` is a certificate with its key, valid for so many more days."""
    if not ca.cert or not ca.key:
        return False
    try:
        return _belong(ca) and _status(_checkend(days), {"cert": ca.cert}) == ""
    except ConfigError:
        return False


def is_valid(cert: bytes, days: float = 0) -> bool:
    """Whether `cert` has not ended in so many days."""
    return bool(cert) and _status(_checkend(days), {"cert": cert}) == ""


def is_older(cert: bytes, seconds: float) -> bool:
    """Whether a CA's certificate was valid so many seconds ago already."""
    check = ["verify", "-attime", str(int(time.time() - seconds)), "-CAfile", "{cert}", "{cert}"]
    return _status(check, {"cert": cert}) == ""


def split_bundle(bundle: bytes) -> list[bytes]:
    """The certificates of a PEM file, one by one."""
    end = b"-----END CERTIFICATE-----"
    parts = bundle.split(end)[:-1]
    begins = (part.find(b"-----BEGIN CERTIFICATE-----") for part in parts)
    return [part[begin:] + end + b"\n" for part, begin in zip(parts, begins, strict=True) if begin >= 0]


def _new_key() -> bytes:
    return _run(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], {})


def _serial() -> list[str]:
    return ["-set_serial", hex(1 << SERIAL_BITS | secrets.randbits(SERIAL_BITS))]


def _checkend(days: float) -> list[str]:
    return ["x509", "-in", "{cert}", "-noout", "-checkend", str(int(days * DAY))]


def _belong(pair: Pair) -> bool:
    public = _run(["x509", "-in", "{cert}", "-noout", "-pubkey"], {"cert": pair.cert})
    return public == _run(["pkey", "-in", "{key}", "-pubout"], {"key": pair.key})


def _refusal(cert: bytes, bundle: bytes, purpose: Purpose, days: float, check: Sequence[str]) -> str:
    moment = str(int(time.time() + days * DAY))
    verify = ["verify", "-x509_strict", "-purpose", purpose.value, "-attime", moment, *check]
    return _status([*verify, "-CAfile", "{bundle}", "{cert}"], {"cert": cert, "bundle": bundle})


def _matching(name: str) -> list[str]:
    return ["-verify_ip" if _kind(name) == "IP" else "-verify_hostname", name]


def _kind(name: str) -> str:
    try:
        ip_address(name)
    except ValueError:
        return "DNS"
    return "IP"


def _config(common_name: str, extensions: Mapping[str, str]) -> bytes:
    lines = [
        "[req]",
        "prompt=no",
        "utf8=yes",
        "distinguished_name=dn",
        "[dn]",
        f"CN={common_name}",
        "[ext]",
        *(f"{name}={value}" for name, value in extensions.items()),
    ]
    return "\n".join([*lines, ""]).encode()


def _run(arguments: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """What `openssl arguments` prints. Raises ConfigError with what it complains of."""
    done = _openssl(arguments, files)
    if done.returncode != 0:
        raise ConfigError(
            f"openssl {arguments[0]} failed ({_said(done)})", remedy="check that openssl is 3.0 or newer"
        )
    return done.stdout


def _status(arguments: Sequence[str], files: Mapping[str, bytes]) -> str:
    """Nothing if openssl is content, else what it complains of."""
    done = _openssl(arguments, files)
    return "" if done.returncode == 0 else _said(done)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """The telling line: for verify, the one that begins with "error"; openssl never prints a key there."""
    lines = [
        line.strip() for line in (done.stderr + done.stdout).decode(errors="replace").splitlines() if line
    ]
    telling = (
        [line for line in lines if line.startswith("error ")] or lines or [f"exit status {done.returncode}"]
    )
    return telling[0]


def _openssl(arguments: Sequence[str], files: Mapping[str, bytes]) -> subprocess.CompletedProcess[bytes]:
    with ExitStack() as stack:
        descriptors: dict[str, int] = {}
        for name, content in files.items():
            descriptors[name] = os.memfd_create(f"k8s-ovs-{name}", 0)
            stack.callback(os.close, descriptors[name])
            os.write(descriptors[name], content)
        paths = {f"{{{name}}}": f"/proc/self/fd/{number}" for name, number in descriptors.items()}
        command = ["openssl", *(paths.get(argument, argument) for argument in arguments)]
        try:
            return subprocess.run(
                command,
                pass_fds=tuple(descriptors.values()),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            raise ConfigError(f"openssl cannot be run ({err})", remedy="install the program openssl") from err
