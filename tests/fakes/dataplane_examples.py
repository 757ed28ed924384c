"""Records for tests of the dataplane: attachments, links, and flows given by their ofctl text."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import cast

from k8s_ovs.dataplane.bridge import LINK_ALIAS_PREFIX, FirewallSpec, GatewaySpec, PodLink
from k8s_ovs.flows.diff import Mod, Op
from k8s_ovs.flows.flow import Action, Flow
from k8s_ovs.flows.group import Bucket, Group, GroupId, Meter, MeterId
from k8s_ovs.model.types import Attachment, AttachmentKey, SandboxId, gateway_of, mac_of

NETWORK = IPv4Network("172.11.0.0/16")
SUBNET = IPv4Network("172.11.4.0/22")
SERVICES = IPv4Network("10.96.0.0/12")
FIREWALL = FirewallSpec(NETWORK, SERVICES, "tun0")


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
class Line(Flow):
    """A flow by its text for ovs-ofctl, which the typed Flow might not allow."""

    text: str = ""

    def to_ofctl(self) -> str:
        return self.text

    def selector(self) -> str:
        words = self.text.partition(",actions=")[0].split(",")
        return ",".join(word for word in words if not word.startswith("cookie="))


def flow(text: str) -> Flow:
    """The flow of this text."""
    return Line(0, 0, (), (), text=text)


def mod(text: str) -> Mod:
    """A change: "add" and a flow, or "delete_strict" and what selects one."""
    command, _, line = text.partition(" ")
    return Mod({"add": Op.ADD, "delete_strict": Op.DELETE}[command], flow(line))


@dataclass(frozen=True)
class ActionText:
    """An action by its text, for buckets."""

    text: str

    def __str__(self) -> str:
        return self.text


def group(number: int, *buckets: str, method: str = "dp_hash") -> Group:
    """A group whose buckets have these actions, and ids from 1."""
    made = (Bucket(index, (cast("Action", ActionText(text)),)) for index, text in enumerate(buckets, 1))
    return Group(GroupId(number), method, tuple(made))


def meter(number: int, rate: int = 1000, burst: int = 100) -> Meter:
    """A meter."""
    return Meter(MeterId(number), rate, burst)
