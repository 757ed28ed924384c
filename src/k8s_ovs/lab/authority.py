"""The certificates of a lab whose API server and etcd speak TLS: one authority, one for the servers, one for etcd's clients.

Called when `lab up --from-manifests` is prepared. Made with openssl(1), for one lab and the time that it lives.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import Cluster

SERVER_NAME = "kubernetes.default.svc"
_DAYS = "3650"


@dataclass(frozen=True, slots=True)
class Authority:
    """Where the files are."""

    directory: Path

    @property
    def ca(self) -> Path:
        """Who signed everything."""
        return self.directory / "ca.crt"

    def certificate(self, name: str) -> Path:
        """The certificate `server` or `client`."""
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Its key."""
        return self.directory / f"{name}.key"

    @property
    def admin_token(self) -> Path:
        """The administrator's bearer token."""
        return self.directory / "admin.token"


def of(cluster: Cluster) -> Authority:
    """The lab's own."""
    return Authority(cluster.directory / "pki")


def make(cluster: Cluster) -> Authority:
    """Write all of it. Raises LabError without openssl."""
    authority = of(cluster)
    authority.directory.mkdir(mode=0o700)
    names = f"IP:{cluster.networks.control.ip},IP:127.0.0.1,IP:{cluster.kubernetes_ip},DNS:{SERVER_NAME},DNS:localhost"
    _openssl(
        *(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            _DAYS,
        ),
        *("-subj", "/CN=k8s-ovs lab", "-keyout", str(authority.key("ca")), "-out", str(authority.ca)),
    )
    _sign(authority, "server", f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
    _sign(authority, "client", "extendedKeyUsage=clientAuth\n")
    return authority


def _sign(authority: Authority, name: str, extensions: str) -> None:
    request, extra = authority.directory / f"{name}.csr", authority.directory / f"{name}.ext"
    extra.write_text(extensions)
    _openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", f"/CN=k8s-ovs-{name}", "-keyout", str(authority.key(name)), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(authority.ca), "-CAkey", str(authority.key("ca"))),
        *(
            "-CAcreateserial",
            "-days",
            _DAYS,
            "-extfile",
            str(extra),
            "-out",
            str(authority.certificate(name)),
        ),
    )


def _openssl(*arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    except OSError as err:
        raise LabError(f"no certificates for the lab: {err}", remedy="apt-get install openssl") from err
    except subprocess.CalledProcessError as err:
        said = err.stderr.decode(errors="replace").strip()
        raise LabError(f"no certificates for the lab: openssl {arguments[0]}: {said}") from err
