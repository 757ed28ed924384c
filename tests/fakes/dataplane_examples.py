"""Records for tests of the dataplane: attachments, links, and flows given by their ofctl text."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import cast

from k8s_ovs.dataplane.bridge import LINK_ALIAS_PREFIX, GatewaySpec, PodLink
from k8s_ovs.flows.diff import Mod
from k8s_ovs.flows.flow import Flow
from k8s_ovs.model.types import Attachment, AttachmentKey, SandboxId, gateway_of, mac_of

NETWORK = IPv4Network("172.11.0.0/16")
SUBNET = IPv4Network("172.11.4.0/22")
SERVICES = IPv4Network("10.96.0.0/12")


def address(number: int) -> IPv4Address:
    """The address of the pod with this number."""
    return SUBNET.network_address + 2 + number


def attachment(number: int, netns: str = "/run/netns/none") -> Attachment:
    """The lease of the pod with this number."""
    return Attachment(
        key=AttachmentKey(SandboxId(f"sandbox{number}"), "eth0"),
        address=address(number),
        namespace="web",
        pod=f"pod-{number}",
        uid=f"uid-{number}",
        netns=netns,
        host_ifname=f"veth{number:011x}",
    )


def pod_link(number: int, netns: str) -> PodLink:
    """The veth of the pod with this number."""
    return PodLink(
        host_ifname=f"veth{number:011x}",
        netns=netns,
        ifname="eth0",
        address=address(number),
        subnet=SUBNET,
        network=NETWORK,
        gateway=gateway_of(SUBNET),
        mac=mac_of(address(number)),
        mtu=1450,
        checksum_offload=False,
        alias=f"{LINK_ALIAS_PREFIX}sandbox{number}/eth0",
    )


def gateway_spec(mtu: int = 1450) -> GatewaySpec:
    """The gateway of the host subnet."""
    gateway = gateway_of(SUBNET)
    return GatewaySpec("tun0", gateway, SUBNET, NETWORK, SERVICES, mac_of(gateway), mtu)


@dataclass(frozen=True)
class Line:
    """Stands for a Flow or Mod: the dataplane asks only for its text."""

    text: str

    def to_ofctl(self) -> str:
        return self.text


def flow(text: str) -> Flow:
    """A flow of this text, which the typed Flow might not allow."""
    return cast("Flow", Line(text))


def mod(text: str) -> Mod:
    """A change of flows of this text (`add ...`, `delete_strict ...`)."""
    return cast("Mod", Line(f"flow {text}"))
