"""TLS for the connection to the API server, from PEM data in memory or in files.

Used by credentials.py. Keys that came as data never touch a disk.
"""

import os
import ssl
from pathlib import Path

from k8s_ovs.errors import ConfigError
from k8s_ovs.sources.kube.kubeconfig import Blob, Profile


def tls_context(profile: Profile, cert: Blob | None, key: Blob | None) -> ssl.SSLContext:
    """A client context: CA of the profile (the system's if it has none) and the client certificate, if any.

    Raises ConfigError, naming the profile and what is wrong with its PEM.
    """
    context = ssl.create_default_context()
    try:
        if profile.ca is not None:
            context = ssl.create_default_context(cadata=_pem(profile.ca, profile.origin, "CA").decode())
    except (ssl.SSLError, ValueError) as err:
        remedy = "give the PEM of the CA that signed the API server's certificate"
        raise ConfigError(f"{profile.origin}: the CA cannot be used ({err})", remedy=remedy) from err
    if profile.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None and key is not None:
        pem = (
            _pem(cert, profile.origin, "client certificate") + b"\n" + _pem(key, profile.origin, "client key")
        )
        try:
            _load_chain(context, pem)
        except (ssl.SSLError, OSError) as err:
            remedy = "give a PEM certificate and the unencrypted key that belongs to it"
            raise ConfigError(
                f"{profile.origin}: client certificate and key cannot be used ({err})", remedy=remedy
            ) from err
    return context


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL reads a chain from a file only: an anonymous one in memory keeps the key off the disk."""
    descriptor = os.memfd_create("k8s-ovs-client-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(pem)
        # The empty password keeps OpenSSL from asking for one at the terminal if the key is encrypted.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)


def _pem(blob: Blob, origin: str, what: str) -> bytes:
    if isinstance(blob, Path):
        try:
            return blob.read_bytes()
        except OSError as err:
            raise ConfigError(
                f"{origin}: {what} {blob}: {err.strerror or err}", remedy="make the file readable"
            ) from err
    return blob
