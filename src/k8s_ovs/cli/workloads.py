"""Pods and Services by Namespace, from Kubernetes, for `tenant … --dry-run`.

Called by `cli.tenant_preview`. Without credentials, or while the API does not answer, the preview names Namespaces only,
and the user is told so.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

from k8s_ovs.errors import KubeError
from k8s_ovs.model.preview import Workloads
from k8s_ovs.sources.kube.client import KubeClient
from k8s_ovs.sources.kube.credentials import KubeSettings, credentials_given, load_credentials
from k8s_ovs.sources.kube.objects import PODS, SERVICES, KubeObject, Pod, Service

SECONDS = 10.0
"""What the API server has for one answer: somebody waits at a terminal."""


async def read_workloads(settings: KubeSettings, say: Callable[[str], None]) -> Workloads:
    """What lives in every Namespace now. Raises ConfigError for credentials that cannot be used."""
    if not credentials_given(settings):
        say("no Kubernetes credentials (--kubeconfig): pods and Services are not listed")
        return Workloads()
    try:
        async with KubeClient(load_credentials(settings), timeout=SECONDS) as client:
            pods = [pod for pod in await client.list(PODS) if _has_tenant(pod)]
            services = [service for service in await client.list(SERVICES) if _has_address(service)]
    except KubeError as err:
        say(f"pods and Services are not listed: {err}")
        return Workloads()
    return Workloads(_by_namespace(pods), _by_namespace(services))


def _has_tenant(pod: Pod) -> bool:
    """Pods of the host's network act as their host, and finished ones not at all."""
    return not pod.spec.host_network and not pod.finished


def _has_address(service: Service) -> bool:
    return service.spec.cluster_ip not in (None, "", "None")


def _by_namespace(objects: Iterable[KubeObject]) -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for each in objects:
        found[each.metadata.namespace].append(each.metadata.name)
    return {namespace: tuple(sorted(names)) for namespace, names in found.items()}
