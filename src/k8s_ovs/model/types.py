"""The words of the design as types: ids, records and the pod's lease.

Used by every layer above. Pure values: immutable, comparable, no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import NewType

Vni = NewType("Vni", int)
"""A tenant's id in the VXLAN header, 24 bits (RFC 7348). Called NetID in the etcd records."""
OfPort = NewType("OfPort", int)
"""A port number of the bridge, as OpenFlow sees it."""
SandboxId = NewType("SandboxId", str)
"""CNI_CONTAINERID: the id that the container runtime gave to the pod's sandbox."""
Mac = NewType("Mac", str)
"""An Ethernet address as six lower-case hex octets with colons."""

GLOBAL_VNI = Vni(0)
MIN_TENANT_VNI = Vni(10)
MAX_VNI = Vni((1 << 24) - 1)

VXLAN_OFPORT = OfPort(1)
"""The bridge's port for tunnels, on every node."""
GATEWAY_OFPORT = OfPort(2)
"""The bridge's port to the host itself, on every node."""

HAIRPIN_IP = IPv4Address("169.254.169.253")
"""The source address of whoever reaches itself through a Service: a pod, or the host. Link-local (RFC 3927), so that
nothing routes it; every host has it behind its own gateway."""

GLOBAL_NAMESPACE = "kube-system"
"""The Namespace that is global from the start."""
OPEN_TO_ALL = ("default", "kubernetes")
"""Namespace and name of the one Service that every pod may reach, whatever its tenant: the API server."""


def mac_of(address: IPv4Address) -> Mac:
    """The MAC of a pod or gateway: 0a:58 followed by its IPv4 address in hex."""
    return Mac("0a:58:" + address.packed.hex(":"))


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    """The gateway of a host subnet: its first address."""
    return subnet.network_address + 1


@dataclass(frozen=True, slots=True)
class HostSubnet:
    """The pod CIDR of one host (etcd: PREFIX/NAME/subnets/HOSTIP).

    `subnet` is None while a subnet is asked for but not given. `assign` marks an external host: its record is the
    administrator's, and no Node stands behind it. `extra` holds keys of the record that we do not know; they are
    written back as they were. `revision` tells which of two records was written later (etcd: mod_revision); 0 if the
    store did not say. It is no part of what the record says.
    """

    host: str
    host_ip: IPv4Address
    subnet: IPv4Network | None
    assign: bool = False
    extra: Mapping[str, object] = field(default_factory=dict, compare=False, hash=False)
    revision: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class FormerSubnet:
    """The pod CIDR that a Node had when its record was deleted (etcd: PREFIX/former/NAME/HOST).

    The controller's own memory: pods may still be in it, and the Node may come back to them. `extra` holds unknown keys.
    """

    host: str
    subnet: IPv4Network
    extra: Mapping[str, object] = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True, slots=True)
class NetNamespace:
    """What people read and ask for: the net namespace of a Namespace (etcd: PREFIX/NAME/netnamespaces/NAMESPACE).

    The controller answers in it; switches obey `Tenant`. `net_id` is None in a request that leaves the choice to us.
    `action` is empty, "join", "isolate" or "global"; `other` is the Namespace to join.
    """

    name: str
    net_id: Vni | None
    action: str = ""
    other: str = ""
    extra: Mapping[str, object] = field(default_factory=dict, compare=False, hash=False)


class TenantStep(StrEnum):
    """How far a change of a tenant has come; every node applies one step before the next one begins."""

    ACCEPT = "accept"
    """Its pods send with the old VNI, and accept what both may send them."""
    SEND = "send"
    """Its pods send with the new VNI, and accept what both may send them."""
    CLOSE = "close"
    """Its pods send with the new VNI, and accept only what that may send them."""


@dataclass(frozen=True, slots=True)
class TenantChange:
    """A Namespace on its way from one VNI to another: make before break.

    `id` tells this change from any other of the same Namespace. `action` and `other` are the request that it answers.
    """

    id: str
    step: TenantStep
    old: Vni
    new: Vni
    action: str = ""
    other: str = ""

    @property
    def token(self) -> str:
        """What a node that has applied this step reports."""
        return f"{self.id}/{self.step}"


@dataclass(frozen=True, slots=True)
class Tenant:
    """The tenant of a Namespace, as the controller has decided it and as switches obey it.

    etcd: PREFIX/NAME/tenants/NAMESPACE, written by the controller only. `vni` is the one that counts once no `change` is
    under way: the old one before, the new one from the moment that a change is complete. `uid` is the Namespace's in
    Kubernetes, as another one of the same name may come; "" if it is not known.
    """

    name: str
    vni: Vni
    change: TenantChange | None = None
    uid: str = ""

    @property
    def sends(self) -> Vni:
        """The VNI that its pods' packets carry."""
        if self.change is None:
            return self.vni
        return self.change.old if self.change.step is TenantStep.ACCEPT else self.change.new

    @property
    def accepts(self) -> tuple[Vni, ...]:
        """The VNIs as which its pods and Services can be reached: one, or two different tenants'; 0 alone if one is global."""
        if self.change is None or self.change.step is TenantStep.CLOSE:
            return (self.sends,)
        both = tuple(dict.fromkeys((self.change.old, self.change.new)))
        return (GLOBAL_VNI,) if GLOBAL_VNI in both else both


@dataclass(frozen=True, slots=True)
class StillUsed:
    """What a node goes on using although the store has lost the records of it: its `subnet`, its pods' Namespaces' VNIs."""

    subnet: IPv4Network | None = None
    tenants: Mapping[str, Vni] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.subnet is not None or bool(self.tenants)


@dataclass(frozen=True, slots=True)
class AgentHealth:
    """How an agent fares, for people and monitoring: the controller never decides by it.

    `since`, `last_error_at`: RFC 3339, UTC. `revision` is that of the store up to which the switch has what the records say,
    `trouble` why the node cannot serve pods ("" if it can), `notes` what else lasts (an outage). `drops` counts packets by
    stage/reason, `dropping` those of the minute before that count, `repairs` by kind what was put right of late that somebody
    else had changed. `mtu` in octets, 0 before it is known.
    """

    version: str = ""
    since: str = ""
    revision: int = 0
    trouble: str = ""
    notes: str = ""
    pods: int = 0
    mtu: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    dropping: Mapping[str, int] = field(default_factory=dict)
    repairs: Mapping[str, int] = field(default_factory=dict)
    last_error: str = ""
    last_error_at: str = ""


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What the agent of a node has brought about (etcd: PREFIX/agents/NAME/HOSTIP, gone soon after the agent is).

    `applied` holds, for each Namespace whose tenant changes, the token of the step that this node's switch has applied:
    no packet is handled by what was before it any more. `used` says nothing unless the store has lost records. `health` is
    None in the report of an agent that does not tell of it; it makes no two reports different.
    """

    host: str
    host_ip: IPv4Address
    applied: Mapping[str, str] = field(default_factory=dict)
    used: StillUsed = StillUsed()
    health: AgentHealth | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PodLimits:
    """Bandwidth of a pod in bits per second; None is unlimited. `ingress` is towards the pod, `egress` from it.

    `from_runtime`: the container runtime has asked for them, not the pod's annotations; those would replace them.
    """

    ingress: int | None = None
    egress: int | None = None
    from_runtime: bool = False


UNLIMITED = PodLimits()


@dataclass(frozen=True, slots=True, order=True)
class AttachmentKey:
    """What identifies an attachment for CNI: the sandbox and the interface's name in it."""

    sandbox: SandboxId
    ifname: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's port on the bridge and the lease of its address: one Interface row of OVSDB.

    `host_ifname` is the host's end of the veth (and the port's name), `netns` the path that the runtime gave,
    `ofport` None until the switch has given one. `mac` follows from `address`.
    """

    key: AttachmentKey
    address: IPv4Address
    namespace: str
    pod: str
    uid: str
    netns: str
    host_ifname: str
    ofport: OfPort | None = None
    limits: PodLimits = UNLIMITED

    @property
    def mac(self) -> Mac:
        """The pod's MAC address."""
        return mac_of(self.address)
