"""What the agent needs of the switch and the kernel, as protocols, and the records they exchange.

The agent knows only this module; `ovsdb`, `openflow`, `links` and `firewall` implement it for the real thing, and
`tests/fakes` for unit tests. The same contract tests run against both. Nothing here does I/O.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence, Set
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Literal, Protocol

from k8s_ovs.dataplane.findings import Finding
from k8s_ovs.flows.diff import Item, Mod
from k8s_ovs.model.types import Attachment, AttachmentKey, Mac, OfPort, PodLimits

Datapath = Literal["system", "netdev"]
"""`datapath_type` of the bridge: the kernel module, or the switch's own userspace datapath."""

VXLAN_OFPORT = OfPort(1)
GATEWAY_OFPORT = OfPort(2)

LINK_PREFIX = "kovs"
"""What the names of our veths' host ends begin with; the firewall knows them by it."""
LINK_ALIAS_PREFIX = "k8s-ovs:"
"""By this the host ends of our veths are known: `k8s-ovs:<sandbox>/<ifname>`."""


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """The bridge and its two fixed ports. `datapath` None means: take what the switch offers, "system" first.

    `mtu` is the gateway's, in octets; None leaves it as it is. A switch that is not told sets it to the smallest of the
    bridge's ports, anew whenever one comes or goes.
    """

    name: str = "br0"
    vxlan: str = "vxlan0"
    gateway: str = "tun0"
    datapath: Datapath | None = None
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """The host's own leg in the pod network: `ifname` with `address` in `subnet`, and the routes.

    They lead to `network`, to `service_network` and to HAIRPIN_IP, who reached itself through a Service.
    """

    ifname: str
    address: IPv4Address
    subnet: IPv4Network
    network: IPv4Network
    service_network: IPv4Network
    mac: Mac
    mtu: int


@dataclass(frozen=True, slots=True)
class FirewallSpec:
    """What the host's rules are for: pods of `network` and Services of `service_network`, both behind `gateway`."""

    network: IPv4Network
    service_network: IPv4Network
    gateway: str


@dataclass(frozen=True, slots=True)
class PodLink:
    """A veth pair: `host_ifname` on the host, `ifname` inside `netns` with the address, routes and MTU of a pod.

    `checksum_offload` False turns transmit checksum offload off at the pod's end (the netdev datapath needs that).
    `alias` is the interface alias of the host's end; it begins with LINK_ALIAS_PREFIX and names the attachment. `egress`
    is the limit of what the pod sends, in bits per second; None is unlimited.
    """

    host_ifname: str
    netns: str
    ifname: str
    address: IPv4Address
    subnet: IPv4Network
    network: IPv4Network
    gateway: IPv4Address
    mac: Mac
    mtu: int
    checksum_offload: bool
    alias: str = LINK_ALIAS_PREFIX
    egress: int | None = None


@dataclass(frozen=True, slots=True)
class FlowStats:
    """One flow as the switch holds it, with its counters. `match` and `actions` are in ovs-ofctl's own spelling."""

    table: int
    priority: int
    cookie: int
    packets: int
    octets: int
    match: str
    actions: str


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a full synchronisation changed: flows, groups and meters added (or changed) and deleted; `findings` names some."""

    added: int
    deleted: int
    findings: tuple[Finding, ...] = field(default=(), compare=False)


class Switch(Protocol):
    """The bridge's configuration in OVSDB. One instance per agent, and the only writer.

    Calls may overlap; the implementation puts them into one transaction after another.
    """

    @property
    def datapath(self) -> Datapath:
        """The datapath of the bridge; known once `ensure_bridge` has returned."""

    @property
    def restarts(self) -> int:
        """How often ovs-vswitchd has begun or ceased to serve the bridge: what it held before may be gone."""

    async def ensure_bridge(self, spec: BridgeSpec) -> tuple[Finding, ...]:
        """Make the bridge and its fixed ports as `spec` says, changing only what differs: what that was. Raises OvsdbError."""

    async def remake_gateway(self, spec: BridgeSpec) -> None:
        """Have the switch make the gateway's device anew, which it does not do by itself. Raises OvsdbError."""

    async def remove_bridge(self, name: str) -> bool:
        """Remove the bridge and every port of it. False if there was none. Raises OvsdbError."""

    async def add_port(self, attachment: Attachment) -> Attachment:
        """Add the pod's port, its lease and its queue in one transaction; return it with its ofport.

        Repeating it is harmless.

        Raises OvsdbError, and leaves no row behind when it does.
        """

    async def remove_port(self, key: AttachmentKey) -> None:
        """Remove port and lease; a port that does not exist is no error. Raises OvsdbError."""

    async def set_limits(self, key: AttachmentKey, limits: PodLimits) -> None:
        """Write the limits into the lease, and the queue that holds the one towards the pod, in one transaction.

        Returns once the switch has acted on it. A port that does not exist is no error. Raises OvsdbError.
        """

    async def check_limits(self, key: AttachmentKey) -> None:
        """Raise OvsdbError if the queue towards the pod is not as the lease says."""

    def attachments(self) -> list[Attachment]:
        """Every lease in OVSDB now."""

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever the bridge, its ports or the switch itself may have changed, also behind our back."""


class FlowTable(Protocol):
    """The bridge's flows, groups and meters. One task calls it; others may call `settle`, `forget…` and `dump` meanwhile."""

    async def commit(self, mods: Sequence[Mod]) -> None:
        """Apply `mods`: flows and groups in one atomic bundle, new meters before it, deleted ones after it.

        Returns when the switch has confirmed. Raises OpenFlowError; then nothing of the bundle was applied.
        """

    async def replace(self, items: Iterable[Item]) -> SyncResult:
        """Make the bridge hold exactly `items`, sending the difference only, flows and groups as one bundle.

        Flows that the switch has learned by itself (session affinity) stay. Raises OpenFlowError.
        """

    async def settle(self) -> None:
        """Return once no packet is handled any more by what the bridge held before the last commit. Raises OpenFlowError.

        A commit is confirmed when the tables are changed; the datapath goes on with what it has cached until its
        revalidators have looked at it (ovs-vswitchd(8), revalidator/wait).
        """

    async def forget(self, endpoints: Iterable[tuple[IPv4Address, int, int]]) -> None:
        """Forget the translated connections to these (address, IP protocol, port). Raises OpenFlowError."""

    async def forget_addresses(self, addresses: Set[IPv4Address]) -> None:
        """Forget what the bridge's userspace datapath and session affinity know of these. Raises OpenFlowError.

        Every connection that one of them began or answers. What is begun meanwhile may stay.
        """

    async def dump(self, cookie: int = 0, mask: int = 0) -> list[FlowStats]:
        """The flows that the switch holds whose cookie is `cookie` where `mask` has ones. Raises OpenFlowError."""

    async def dump_groups(self) -> dict[int, str]:
        """The groups that the switch holds, by id, in ovs-ofctl's own spelling. Raises OpenFlowError."""


class PodLinks(Protocol):
    """veth pairs of pods."""

    async def create(self, link: PodLink) -> None:
        """Make the pair and configure the pod's end; what exists already and is right stays. Raises LinkError.

        Nothing stays behind when it fails. A missing network namespace is a LinkError with errno ENOENT.
        """

    async def shape(self, link: PodLink) -> None:
        """Give an existing pair the shaper that `link.egress` asks for, or none. Raises LinkError.

        A shaper that is right already is not touched.
        """

    async def check(self, link: PodLink) -> None:
        """Raise LinkError naming the first thing that is not as `link` says."""

    async def delete(self, host_ifname: str) -> None:
        """Delete the pair; one that does not exist is no error. Raises LinkError."""

    async def vouch(self, host_ifname: str, address: IPv4Address | None) -> None:
        """Note at the host's end that its attachment is complete and has this address; None takes the note away.

        A pair that does not exist is no error. Raises LinkError.
        """

    async def vouched(self) -> dict[str, IPv4Address]:
        """The pairs that somebody has vouched for, by their host ends. Raises LinkError."""

    async def keep_up(self) -> tuple[Finding, ...]:
        """Set the host ends of vouched pairs up that somebody has set down: which those were. Raises LinkError."""

    async def leftovers(self) -> list[str]:
        """Host ends of pod links (known by their interface alias) that exist now."""


class HostNetwork(Protocol):
    """The host's own addresses, routes and rules."""

    async def ensure_gateway(self, spec: GatewaySpec) -> tuple[Finding, ...]:
        """Make `spec.ifname` up with its address, MAC, MTU and routes: what had to be changed. Raises LinkError.

        LinkError with errno ENODEV if there is no such interface.
        """

    def changes(self, ifname: str) -> AsyncGenerator[None, None]:
        """Yield whenever the link, addresses or routes of `ifname` may have changed; what we change ourselves counts too.

        Several changes before it is asked for again are one.
        """

    async def underlay_mtu(self, host_ip: IPv4Address) -> int:
        """MTU of the interface that holds `host_ip`. Raises LinkError if none does."""

    async def forget_addresses(self, addresses: Set[IPv4Address]) -> int:
        """Forget every connection of the kernel's that one of these is an end of; how many those were. Raises LinkError."""


class Firewall(Protocol):
    """NAT for traffic that leaves the cluster network, accepts where the host's own rules would drop, and what it refuses."""

    async def ensure(self, spec: FirewallSpec) -> tuple[Finding, ...]:
        """Make our chains and jumps complete: which of them had to be changed. Raises FirewallError."""

    async def remove(self) -> bool:
        """Remove every chain and jump of ours. False if there was none. Raises FirewallError."""
