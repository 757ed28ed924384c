"""Every error that k8s-ovs raises on purpose.

For all layers; imports nothing. An error says what was tried, on what, what came back, and in `remedy` what to do.

    K8sOvsError
    ├── ConfigError             network config, flag, environment or file that cannot be used
    ├── RecordError             an etcd record or Kubernetes object that is not what it should be
    ├── ExhaustedError          no subnet, VNI or pod address left
    ├── PipelineError           a flow outside what its table declares: a bug in this program
    ├── SourceError             a source cannot be read or written now
    │   ├── EtcdError
    │   │   ├── EtcdUnavailable     no endpoint answers
    │   │   ├── EtcdDenied          TLS or password refused
    │   │   └── EtcdCompacted       the revision asked for is gone; read anew
    │   └── KubeError
    │       ├── KubeUnavailable     no answer from the API server
    │       ├── KubeDenied          401 or 403
    │       ├── KubeNotFound        404
    │       ├── KubeConflict        409
    │       └── KubeGone            410: resourceVersion too old; list anew
    ├── DataplaneError          the switch or the kernel refused
    │   ├── OvsdbError
    │   ├── OpenFlowError
    │   ├── LinkError
    │   └── FirewallError
    ├── CniError                an answer to the container runtime, with its CNI error code
    └── LabError                the lab cannot do what was asked
"""


class K8sOvsError(Exception):
    """Root of the tree.

    `message` names the thing and the reason; `remedy`, where one exists, tells the reader what to do. `str()` joins
    both, so that a log line or a terminal shows them without further care.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class ConfigError(K8sOvsError):
    """A network config, flag, environment variable or file that cannot be used."""


class RecordError(K8sOvsError):
    """An etcd record or API object that is malformed; `key` names it."""

    def __init__(self, key: str, reason: str, *, remedy: str = "") -> None:
        super().__init__(f"{key}: {reason}", remedy=remedy)
        self.key = key
        self.reason = reason


class ExhaustedError(K8sOvsError):
    """A pool of subnets, VNIs or pod addresses has nothing left."""


class PipelineError(K8sOvsError):
    """A flow that its table's declaration does not allow; names table, field and flow."""


class SourceError(K8sOvsError):
    """A source of truth cannot be read or written at the moment."""


class EtcdError(SourceError):
    """etcd answered with an error, or not at all."""


class EtcdUnavailable(EtcdError):
    """No endpoint of etcd answers; trying again later is right."""


class EtcdDenied(EtcdError):
    """etcd refused the certificate, the user or the password; trying again does not help."""


class EtcdCompacted(EtcdError):
    """The revision asked for is compacted away; read everything anew and watch from there."""

    def __init__(self, message: str, *, compact_revision: int) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class KubeError(SourceError):
    """The Kubernetes API answered with an error status."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.reason = reason
        self.retry_after: float | None = None
        """Seconds that the server wants to be left alone, if it has said so."""


class KubeUnavailable(KubeError):
    """No answer from the API server, or 429 or 5xx; trying again later is right."""


class KubeDenied(KubeError):
    """401 or 403: the credentials are refused or lack a right."""


class KubeNotFound(KubeError):
    """404: no such object or resource."""


class KubeConflict(KubeError):
    """409: the object exists, or has changed since it was read."""


class KubeGone(KubeError):
    """410: the resourceVersion is too old; list anew."""


class DataplaneError(K8sOvsError):
    """The switch or the kernel refused what was asked of it."""


class OvsdbError(DataplaneError):
    """An OVSDB transaction failed, or the connection is down."""


class OpenFlowError(DataplaneError):
    """The switch refused a bundle, or does not answer on the bridge's management socket."""


class LinkError(DataplaneError):
    """A netlink request failed; `errno` is the kernel's."""

    def __init__(self, message: str, *, errno: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.errno = errno


class FirewallError(DataplaneError):
    """iptables refused the NAT or filter rules."""


class CniError(K8sOvsError):
    """An error answered to the container runtime; `code` is from the CNI specification 1.1, section "Error"."""

    def __init__(self, code: int, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class LabError(K8sOvsError):
    """The lab cannot do what was asked."""
