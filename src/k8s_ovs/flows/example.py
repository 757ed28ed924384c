"""One node of a small cluster, as an example: the flows that docs/pipeline.md shows.

Used by `flows.docs` only. Addresses are those of documentation (RFC 5737).
"""

from ipaddress import IPv4Address, IPv4Network

from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.model.events import AttachmentSet, ConfigSet, Event, HostSubnetSet, TenantSet
from k8s_ovs.model.types import Attachment, AttachmentKey, HostSubnet, OfPort, SandboxId, Tenant, Vni
from k8s_ovs.model.view import NodeView

STORY = (
    "`node1` (192.0.2.1, subnet 172.11.0.0/22) of a cluster in multitenant mode, with one other host `node2`\n"
    "(192.0.2.2, subnet 172.11.4.0/22) and one pod `red/web` (172.11.0.2, port 3) of a tenant with VNI 10 (hex a)."
)


def example_flows() -> list[Flow]:
    """The flows of `node1`, in the order of the tables, the most specific first."""
    view = NodeView("node1")
    for event in _events():
        view.apply(event)
    desired = DesiredFlows()
    desired.update(view)
    flows = [item for item in desired.all() if isinstance(item, Flow)]
    return sorted(flows, key=lambda flow: (flow.table, -flow.priority, flow.match_text()))


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
