"""The cluster as one node needs to see it: which hosts, pods and tenants get flows here.

Kept by the agent's reconciler: each event goes in, out come the keys of the records that may have changed; `flows`
turns records into flows. An event costs what it affects, not what the cluster holds. What cannot be used safely has no
record and is listed in `problems`. No I/O; nothing here waits or retries.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from k8s_ovs.config import Mode
from k8s_ovs.errors import RecordError
from k8s_ovs.model.events import (
    AttachmentGone,
    AttachmentSet,
    ConfigSet,
    EndpointSliceGone,
    EndpointSliceSet,
    Event,
    HostSubnetGone,
    HostSubnetSet,
    ServiceGone,
    ServiceSet,
    Synced,
    TenantGone,
    TenantSet,
)
from k8s_ovs.model.frontends import FrontendIndex
from k8s_ovs.model.hosts import HostIndex
from k8s_ovs.model.pods import PodIndex
from k8s_ovs.model.records import (
    LOCAL_HOST,
    Backend,
    BackendKey,
    Frontend,
    FrontendKey,
    LocalHost,
    LocalHostKey,
    LocalPod,
    LocalPodKey,
    RemoteHost,
    RemoteHostKey,
    TenantKey,
    TenantPresent,
    ViewKey,
    ViewRecord,
)
from k8s_ovs.model.services import EndpointSlice
from k8s_ovs.model.state import ClusterState
from k8s_ovs.model.types import (
    GLOBAL_VNI,
    OPEN_TO_ALL,
    Attachment,
    AttachmentKey,
    HostSubnet,
    Tenant,
    Vni,
)

__all__ = [
    "LOCAL_HOST",
    "Backend",
    "BackendKey",
    "Frontend",
    "FrontendKey",
    "LocalHost",
    "LocalHostKey",
    "LocalPod",
    "LocalPodKey",
    "NodeView",
    "RemoteHost",
    "RemoteHostKey",
    "TenantKey",
    "TenantPresent",
    "ViewKey",
    "ViewRecord",
]


class NodeView:
    """The cluster as one node sees it, kept up to date event by event."""

    def __init__(self, host: str, host_ip: IPv4Address | None = None) -> None:
        """`host` is this node's name; `host_ip`, if given, decides between several records with that name."""
        self.host = host
        self.state = ClusterState()
        self._hosts = HostIndex(host, host_ip)
        self._pods = PodIndex()
        self._namespaces_as: dict[Vni, set[str]] = {}
        self._steps: dict[str, str] = {}
        self._frontends = FrontendIndex(host)

    def apply(self, event: Event) -> frozenset[ViewKey]:
        """Take in one event; the keys whose record may have changed."""
        old_tenant, old_slice = self._old_tenant(event), self._old_slice(event)
        if not self.state.apply(event):
            return frozenset()
        match event:
            case ConfigSet(config):
                self._hosts.configure(config)
                dirty = self.keys()
            case HostSubnetSet(record):
                dirty = self._host_changed(record.host_ip, record)
            case HostSubnetGone(host_ip):
                dirty = self._host_changed(host_ip, None)
            case TenantSet(tenant):
                dirty = self._tenant_changed(tenant.name, old_tenant, tenant)
            case TenantGone(name):
                dirty = self._tenant_changed(name, old_tenant, None)
            case AttachmentSet(attachment):
                dirty = self._pod_changed(attachment.key, attachment)
            case AttachmentGone(key):
                dirty = self._pod_changed(key, None)
            case ServiceSet() | ServiceGone() | EndpointSliceSet() | EndpointSliceGone():
                dirty = frozenset(self._service_changed(event, old_slice))
            case Synced():
                dirty = frozenset()
        return dirty

    @property
    def local(self) -> LocalHost | None:
        """The node itself, once its config and its own subnet are known."""
        return self._hosts.local

    def vni_of(self, namespace: str) -> Vni | None:
        """The VNI that a Namespace's pods send with; None while it is not known. There is no default."""
        tenant = self.tenant_of(namespace)
        return tenant.sends if tenant is not None else None

    def tenant_of(self, namespace: str) -> Tenant | None:
        """The tenant of a Namespace; None while it is not known. In single-tenant mode all are global."""
        config = self.state.config
        if config is None:
            return None
        if config.mode is Mode.SUBNET:
            return Tenant(namespace, GLOBAL_VNI)
        return self.state.tenants.get(namespace)

    def set_sctp(self, tracked: bool) -> frozenset[ViewKey]:
        """Whether the datapath's conntrack can SCTP (the userspace one cannot); the keys that may have changed."""
        if self._frontends.sctp == tracked:
            return frozenset()
        self._frontends.sctp = tracked
        return frozenset(self._frontends.keys())

    @property
    def steps(self) -> Mapping[str, str]:
        """For each Namespace whose tenant changes, whether it has a pod here or not, the token of the step it is in."""
        return dict(self._steps)

    def record(self, key: ViewKey) -> ViewRecord | None:
        """What the key stands for now; None if there is no such thing, or it may not have flows."""
        match key:
            case LocalHostKey():
                return self.local
            case LocalPodKey(attachment):
                return self._pod(attachment)
            case RemoteHostKey(host_ip):
                return self._hosts.remote(host_ip)
            case TenantKey(vni):
                return self._tenant(vni)
            case FrontendKey():
                return self._frontend(key)
            case BackendKey():
                return self._frontends.backend(key, self.local) if self.local is not None else None

    def keys(self) -> frozenset[ViewKey]:
        """Every key that may have a record. This node's own is always among them."""
        pods = (LocalPodKey(key) for key in self.state.attachments)
        hosts = (RemoteHostKey(host_ip) for host_ip in self.state.host_subnets)
        tenants = self._tenant_keys(self._pods.namespaces())
        return frozenset((LOCAL_HOST, *pods, *hosts, *tenants, *self._frontends.keys()))

    def records(self) -> dict[ViewKey, ViewRecord]:
        """Every key that has a record, with it."""
        found = ((key, self.record(key)) for key in self.keys())
        return {key: record for key, record in found if record is not None}

    def why_no_flows(self, key: AttachmentKey) -> str:
        """Why an attachment has no record; "" if it has one."""
        attachment, local = self._pods.get(key), self.local
        if attachment is None or local is None:
            return "it is not attached, or this node has no subnet"
        if self.vni_of(attachment.namespace) is None:
            return f"Namespace {attachment.namespace} has no NetID"
        problem = self._pods.problem(attachment, local)
        return problem.reason if problem is not None else ""

    @property
    def problems(self) -> Mapping[str, RecordError]:
        """Records that cannot be used as they are, by name (`subnets/192.0.2.1`), with reason and remedy."""
        return {error.key: error for error in self._find_problems()}

    def _find_problems(self) -> Iterator[RecordError]:
        for record in self.state.host_subnets.values():
            if (error := self._hosts.problem(record)) is not None:
                yield error
        if self.local is not None:
            for attachment in self.state.attachments.values():
                if (error := self._pods.problem(attachment, self.local)) is not None:
                    yield error
            yield from self._frontends.problems(self.local)

    def _frontend(self, key: FrontendKey) -> Frontend | None:
        local = self.local
        owner = self._frontends.owner(key, local) if local is not None else None
        if local is None or owner is None:
            return None
        namespace, name = owner.service.namespace, owner.service.name
        tenant, open_to_all = self.tenant_of(namespace), (namespace, name) == OPEN_TO_ALL
        if tenant is None and not open_to_all:
            return None
        accepts = tenant.accepts if tenant is not None else ()
        backends = self._frontends.backends(owner, key, local)
        return Frontend(key, namespace, name, accepts, open_to_all, backends, owner.service.affinity)

    def _pod(self, key: AttachmentKey) -> LocalPod | None:
        attachment = self._pods.get(key)
        if attachment is None or self.local is None:
            return None
        tenant = self.tenant_of(attachment.namespace)
        ofport = self._pods.usable(attachment, self.local)
        if tenant is None or ofport is None:
            return None
        return LocalPod(attachment, ofport, tenant.sends, tenant.accepts)

    def _tenant(self, vni: Vni) -> TenantPresent | None:
        config = self.state.config
        if vni == GLOBAL_VNI or config is None or config.mode is Mode.SUBNET:
            return None
        places = {
            self.state.tenants[namespace].accepts.index(vni)
            for namespace in self._namespaces_as.get(vni, ())
            if any(self._pod(key) is not None for key in self._pods.in_namespace(namespace))
        }
        return TenantPresent(vni, first=0 in places, second=1 in places) if places else None

    def _tenant_keys(self, namespaces: Iterable[str]) -> set[TenantKey]:
        tenants = (self.state.tenants.get(namespace) for namespace in namespaces)
        return {TenantKey(vni) for tenant in tenants if tenant for vni in tenant.accepts if vni}

    def _old_tenant(self, event: Event) -> Tenant | None:
        match event:
            case TenantSet(tenant):
                return self.state.tenants.get(tenant.name)
            case TenantGone(name):
                return self.state.tenants.get(name)
            case _:
                return None

    def _service_changed(
        self,
        event: ServiceSet | ServiceGone | EndpointSliceSet | EndpointSliceGone,
        old: EndpointSlice | None,
    ) -> Iterable[ViewKey]:
        match event:
            case ServiceSet(service):
                return self._frontends.replace_service((service.namespace, service.name), service)
            case ServiceGone(namespace, name):
                return self._frontends.replace_service((namespace, name), None)
            case EndpointSliceSet(piece):
                return self._frontends.replace_slice(old, piece)
            case EndpointSliceGone():
                return self._frontends.replace_slice(old, None)

    def _old_slice(self, event: Event) -> EndpointSlice | None:
        match event:
            case EndpointSliceSet(piece):
                return self.state.endpoint_slices.get((piece.namespace, piece.name))
            case EndpointSliceGone(namespace, name):
                return self.state.endpoint_slices.get((namespace, name))
            case _:
                return None

    def _host_changed(self, host_ip: IPv4Address, record: HostSubnet | None) -> frozenset[ViewKey]:
        before = self.local
        affected = frozenset(RemoteHostKey(ip) for ip in self._hosts.replace(host_ip, record))
        return affected if self.local == before else affected | self.keys()

    def _tenant_changed(self, name: str, old: Tenant | None, new: Tenant | None) -> frozenset[ViewKey]:
        """A step of a change makes only that dirty which it makes a difference to; the last one, nothing."""
        before = old.accepts if old is not None else ()
        after = new.accepts if new is not None else ()
        self._steps.pop(name, None)
        if new is not None and new.change is not None:
            self._steps[name] = new.change.token
        for vni in before:
            self._namespaces_as[vni].discard(name)
            if not self._namespaces_as[vni]:
                del self._namespaces_as[vni]
        for vni in after:
            self._namespaces_as.setdefault(vni, set()).add(name)
        pods = self._pods.in_namespace(name)
        dirty: set[ViewKey] = set()
        if before != after:
            dirty.update(self._frontends.in_namespace(name))
            dirty.update(TenantKey(vni) for vni in {*before, *after} if vni and pods)
        if before != after or _sends(old) != _sends(new):
            dirty.update(map(LocalPodKey, pods))
        return frozenset(dirty)

    def _pod_changed(self, key: AttachmentKey, attachment: Attachment | None) -> frozenset[ViewKey]:
        before = self._pods.get(key)
        affected = self._pods.replace(key, attachment)
        namespaces = {pod.namespace for pod in map(self._pods.get, affected) if pod is not None}
        if before is not None:
            namespaces.add(before.namespace)
        return frozenset((*map(LocalPodKey, affected), *self._tenant_keys(namespaces)))


def _sends(tenant: Tenant | None) -> Vni | None:
    return tenant.sends if tenant is not None else None
