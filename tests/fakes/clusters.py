"""Small clusters as values, and Hypothesis strategies for them: nodes, Namespaces with or without a VNI, pods.

For the tests of model and flows. A cluster knows the events that its nodes would get, and the bridges that follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hypothesis import strategies as st

from fakes.simulator import Fabric, Switch
from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import (
    AttachmentSet,
    ConfigSet,
    EndpointSliceSet,
    Event,
    HostSubnetSet,
    ServiceSet,
    TenantSet,
)
from k8s_ovs.model.services import EndpointSlice, Service
from k8s_ovs.model.types import (
    Attachment,
    AttachmentKey,
    HostSubnet,
    Mac,
    OfPort,
    SandboxId,
    Tenant,
    Vni,
    gateway_of,
    mac_of,
)
from k8s_ovs.model.view import NodeView

FIRST_POD_PORT = 3


def network_config(mode: Mode = Mode.MULTITENANT, host_bits: int = 10) -> NetworkConfig:
    return NetworkConfig("k8ssdn", IPv4Network("172.11.0.0/16"), host_bits, IPv4Network("10.96.0.0/12"), mode)


@dataclass(frozen=True)
class Node:
    """The node with this number, from 0."""

    number: int
    external: bool = False

    @property
    def name(self) -> str:
        return f"node{self.number + 1}"

    @property
    def ip(self) -> IPv4Address:
        return IPv4Address("192.0.2.1") + self.number

    @property
    def subnet(self) -> IPv4Network:
        return IPv4Network((int(IPv4Address("172.11.0.0")) + (self.number << 10), 22))

    @property
    def gateway(self) -> IPv4Address:
        return gateway_of(self.subnet)

    @property
    def gateway_mac(self) -> Mac:
        return mac_of(self.gateway)

    @property
    def record(self) -> HostSubnet:
        return HostSubnet(self.name, self.ip, self.subnet, assign=self.external)


@dataclass(frozen=True)
class Pod:
    """The pod with this number (from 0) on a node."""

    node: Node
    number: int
    namespace: str

    @property
    def port(self) -> OfPort:
        return OfPort(FIRST_POD_PORT + self.number)

    @property
    def ip(self) -> IPv4Address:
        return self.node.gateway + 1 + self.number

    @property
    def mac(self) -> Mac:
        return mac_of(self.ip)

    @property
    def attachment(self) -> Attachment:
        name = f"pod{self.number}"
        key = AttachmentKey(SandboxId(f"{self.node.name}-{name}"), "eth0")
        return Attachment(
            key, self.ip, self.namespace, name, f"uid-{name}", "/run/netns/x", f"veth{name}", self.port
        )


@dataclass(frozen=True)
class Cluster:
    """A whole cluster. `vnis` has the Namespaces; None stands for one without a tenant record."""

    config: NetworkConfig
    nodes: Sequence[Node]
    vnis: dict[str, Vni | None]
    pods: Sequence[Pod]
    services: Sequence[Service] = ()
    slices: Sequence[EndpointSlice] = ()

    def vni_of(self, pod: Pod) -> Vni | None:
        return self.vnis[pod.namespace]

    def events(self, node: Node) -> list[Event]:
        """What the sources of a node tell."""
        told: list[Event] = [ConfigSet(self.config)]
        told += [HostSubnetSet(other.record) for other in self.nodes]
        told += [TenantSet(Tenant(name, vni)) for name, vni in self.vnis.items() if vni is not None]
        told += [AttachmentSet(pod.attachment) for pod in self.pods if pod.node == node]
        told += [*map(ServiceSet, self.services), *map(EndpointSliceSet, self.slices)]
        return told

    def view(self, node: Node) -> NodeView:
        view = NodeView(node.name)
        for event in self.events(node):
            view.apply(event)
        return view

    def fabric(self) -> Fabric:
        """All bridges, with the flows that the pipeline gives them."""
        switches = {}
        for node in self.nodes:
            desired = DesiredFlows()
            desired.update(self.view(node))
            switches[node.ip] = Switch(desired.all())
        return Fabric(switches)


VNIS: st.SearchStrategy[Vni | None] = st.sampled_from([None, Vni(0), Vni(10), Vni(11), Vni(0xFFFFFF)])
NAMESPACES = ("red", "blue", "green")


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """1 to 4 nodes, three Namespaces that may share a VNI, be global or have none, up to three pods a node; both modes."""
    nodes = [Node(number, draw(st.booleans())) for number in range(draw(st.integers(1, 4)))]
    vnis = {name: draw(VNIS) for name in NAMESPACES}
    pods = [
        Pod(node, number, draw(st.sampled_from(NAMESPACES)))
        for node in nodes
        for number in range(draw(st.integers(0, 3)))
    ]
    return Cluster(network_config(draw(st.sampled_from(Mode))), nodes, vnis, pods)
