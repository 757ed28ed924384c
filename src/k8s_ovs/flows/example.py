"""One node of a small cluster, as an example: the flows that docs/pipeline.md shows.

Used by `flows.docs` only. Addresses are those of documentation (RFC 5737).
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.group import Group
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
from k8s_ovs.model.records import BackendKey, FrontendKey, ViewKey
from k8s_ovs.model.services import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from k8s_ovs.model.types import Attachment, AttachmentKey, HostSubnet, OfPort, SandboxId, Tenant, Vni
from k8s_ovs.model.view import NodeView

STORY = (
    "`node1` (192.0.2.1, subnet 172.11.0.0/22) of a cluster in multitenant mode, with one other host `node2`\n"
    "(192.0.2.2, subnet 172.11.4.0/22), one pod `red/web` (172.11.0.2, port 3) of a tenant with VNI 10 (hex a), and its\n"
    "Service `red/web` (10.96.0.10, port 80 for TCP and UDP, node port 30080 for TCP) with port 8080 of that pod and of\n"
    "172.11.4.2 behind it."
)


def example_flows() -> list[Flow]:
    """The flows of `node1`, in the order of the tables, the most specific first."""
    flows = [item for item in _desired(*_services()).all() if isinstance(item, Flow)]
    return sorted(flows, key=lambda flow: (flow.table, -flow.priority, flow.match_text()))


def example_groups() -> list[Group]:
    """The groups of `node1`."""
    groups = [item for item in _desired(*_services()).all() if isinstance(item, Group)]
    return sorted(groups, key=lambda group: group.id)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing costs a switch: flows and groups."""

    what: str
    flows: int
    groups: int = 0


def service_costs() -> list[Cost]:
    """What Services cost, counted in flows that are really made; the Namespace has one VNI, and is not global."""
    plain, sticky = _desired(*_services()), _desired(*_services(affinity=60))
    here, there = IPv4Address("172.11.0.2"), IPv4Address("172.11.4.2")
    tcp, udp = (BackendKey(there, protocol, 8080) for protocol in (Protocol.TCP, Protocol.UDP))
    local = BackendKey(here, Protocol.TCP, 8080)
    cluster, node = FrontendKey(_VIP, Protocol.TCP, 80), FrontendKey(None, Protocol.TCP, 30080)

    def cost(what: str, key: ViewKey, desired: DesiredFlows = plain, less: int = 0) -> Cost:
        items = desired.of(key)
        flows = sum(isinstance(item, Flow) for item in items)
        return Cost(what, flows - less, len(items) - flows)

    endpoints = 2
    return [
        cost("port of a Service at one of its addresses", cluster),
        cost("node port", node),
        cost("the same with affinity", cluster, sticky, less=endpoints),
        Cost("with affinity, for each endpoint of the port more", 1),
        cost("endpoint, TCP or SCTP", tcp),
        cost("endpoint, UDP (also its fragments)", udp),
        Cost("on this node, for each endpoint more", cost("", local).flows - cost("", tcp).flows),
    ]


def _desired(*more: Event) -> DesiredFlows:
    view = NodeView("node1")
    for event in (*_events(), *more):
        view.apply(event)
    desired = DesiredFlows()
    desired.update(view)
    return desired


_VIP = IPv4Address("10.96.0.10")


def _services(affinity: int | None = None) -> list[Event]:
    ports = (ServicePort("web", Protocol.TCP, 80, 30080), ServicePort("udp", Protocol.UDP, 80))
    behind = tuple(EndpointPort(port.name, port.protocol, 8080) for port in ports)
    endpoints = tuple(Endpoint(IPv4Address(text)) for text in ("172.11.0.2", "172.11.4.2"))
    return [
        ServiceSet(Service("red", "web", (_VIP,), ports, affinity)),
        EndpointSliceSet(EndpointSlice("red", "web-1", "web", behind, endpoints)),
    ]


def _events() -> list[Event]:
    config = NetworkConfig(
        name="k8ssdn",
        network=IPv4Network("172.11.0.0/16"),
        host_bits=10,
        service_network=IPv4Network("10.96.0.0/12"),
        mode=Mode.MULTITENANT,
    )
    pod = Attachment(
        key=AttachmentKey(SandboxId("sandbox"), "eth0"),
        address=IPv4Address("172.11.0.2"),
        namespace="red",
        pod="web",
        uid="",
        netns="",
        host_ifname="veth0",
        ofport=OfPort(3),
    )
    return [
        ConfigSet(config),
        HostSubnetSet(HostSubnet("node1", IPv4Address("192.0.2.1"), IPv4Network("172.11.0.0/22"))),
        HostSubnetSet(HostSubnet("node2", IPv4Address("192.0.2.2"), IPv4Network("172.11.4.0/22"))),
        TenantSet(Tenant("red", Vni(10))),
        AttachmentSet(pod),
    ]
