"""A real Kubernetes control plane for the lab: kube-apiserver, and kube-controller-manager and kube-scheduler beside it.

Used instead of the embedded API when `find` meets a kube-apiserver. Kept thin on purpose, and NOT covered by our
tests: no machine of ours has these programs. Everybody authenticates with one token of the group system:masters (a
lab has no secrets); the serving certificate is the one that kube-apiserver makes for itself in --cert-dir.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from k8s_ovs.errors import LabError
from k8s_ovs.lab.cluster import API_PORT, Cluster
from k8s_ovs.lab.commands import Command

APISERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
_SERVER_NAME = "kubernetes.default.svc"


def find(given: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The directory of a kube-apiserver: the option's, KUBEBUILDER_ASSETS, or one in PATH; None if there is none.

    Raises LabError if the option names a directory without one.
    """
    if given is not None:
        if not _executable(given / APISERVER):
            raise LabError(f"--kube-bin {given} holds no {APISERVER}", remedy="give the directory that does")
        return given.resolve()
    assets = environ.get("KUBEBUILDER_ASSETS", "")
    if assets and _executable(Path(assets) / APISERVER):
        return Path(assets).resolve()
    found = shutil.which(APISERVER)
    return None if found is None else Path(found).resolve().parent


def has(directory: Path, program: str) -> bool:
    """Whether the program is beside the API server."""
    return _executable(directory / program)


def prepare(cluster: Cluster) -> None:
    """Write the token and the key for service accounts. Raises LabError without openssl."""
    directory = _directory(cluster)
    directory.mkdir(mode=0o700)
    token_file(cluster).write_text(f'{secrets.token_hex(16)},lab,lab,"system:masters"\n')
    key = ["openssl", "genrsa", "-out", str(directory / "sa.key"), "2048"]
    try:
        subprocess.run(key, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        raise LabError(f"no key for service accounts: {err}", remedy="apt-get install openssl") from err


def token_file(cluster: Cluster) -> Path:
    """Of kube-apiserver's --token-auth-file."""
    return _directory(cluster) / "tokens.csv"


def access(cluster: Cluster) -> tuple[dict[str, str], dict[str, str]]:
    """The parts of a kubeconfig that differ from plain HTTP: of its cluster, and of its user."""
    authority = {
        "certificate-authority": str(_directory(cluster) / "apiserver.crt"),
        "tls-server-name": _SERVER_NAME,
    }
    return authority, {"token": token_file(cluster).read_text().partition(",")[0]}


def commands(cluster: Cluster, programs: Path) -> list[Command]:
    """The control plane's processes."""
    directory = _directory(cluster)
    disabled = ["ServiceAccount"]
    if not has(programs, CONTROLLER_MANAGER):
        disabled.append("TaintNodesByCondition")  # nobody would take the taint away again
    found = [
        _command(
            cluster,
            "apiserver",
            str(programs / APISERVER),
            f"--etcd-servers={cluster.etcd_endpoint}",
            f"--bind-address={cluster.networks.control.ip}",
            f"--advertise-address={cluster.networks.control.ip}",
            f"--secure-port={API_PORT}",
            f"--cert-dir={directory}",
            f"--service-cluster-ip-range={cluster.networks.services}",
            f"--service-account-issuer=https://{_SERVER_NAME}",
            f"--service-account-signing-key-file={directory / 'sa.key'}",
            f"--service-account-key-file={directory / 'sa.key'}",
            f"--token-auth-file={token_file(cluster)}",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            f"--disable-admission-plugins={','.join(disabled)}",
        )
    ]
    for program in (CONTROLLER_MANAGER, SCHEDULER):
        if has(programs, program):
            arguments = (f"--kubeconfig={cluster.control_kubeconfig}", "--leader-elect=false")
            found.append(_command(cluster, program, str(programs / program), *arguments))
    return found


def _command(cluster: Cluster, name: str, *argv: str) -> Command:
    return Command(name=name, argv=argv, netns=cluster.netns("control"), log=cluster.logs / f"{name}.log")


def _directory(cluster: Cluster) -> Path:
    return cluster.directory / "kube"


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
