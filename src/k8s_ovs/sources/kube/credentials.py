"""Where the API server is and how to prove who we are. (Skeleton: signatures are final.)"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from k8s_ovs.sources.kube.clock import SYSTEM_CLOCK, Clock

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """What the user said about the API server. `environ` is the process environment, handed in by the CLI."""

    kubeconfig: Path | None = None
    context: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    service_account_dir: Path = SERVICE_ACCOUNT_DIR


class Credentials:
    """The address of the API server and the current proof of identity; follows rotation."""


def load_credentials(settings: KubeSettings, *, clock: Clock = SYSTEM_CLOCK) -> Credentials:
    """The first that is given of: option, KUBECONFIG, KUBERNETES_MASTER, in-cluster, ~/.kube/config.

    Raises ConfigError if none is, or if the one that is cannot be used.
    """
    raise NotImplementedError
