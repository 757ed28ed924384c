"""What attaching a pod needs: the node's network, the parts to work with, and the link of an attachment.

For `pods` and `limits`. Records and protocols; nothing here does anything.
"""

import hashlib
import os
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from k8s_ovs.agent.drift import OnRepair
from k8s_ovs.agent.lost import LostPorts
from k8s_ovs.agent.traces import Forget
from k8s_ovs.cni.protocol import Request
from k8s_ovs.dataplane.bridge import LINK_ALIAS_PREFIX, LINK_PREFIX, PodLink, PodLinks, Switch
from k8s_ovs.model.types import Attachment, AttachmentKey, PodLimits

IFALIAS_OCTETS = 255
"""What the kernel takes as an interface alias (IFALIASZ without the final NUL)."""


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """What a pod on this node gets: an address of `subnet`, the gateway, the MTU in octets.

    `network` is the pod network of the cluster; `checksum_offload` False where the datapath cannot take partial
    checksums.
    """

    subnet: IPv4Network
    gateway: IPv4Address
    network: IPv4Network
    mtu: int
    checksum_offload: bool


class Installer(Protocol):
    """What pods need of the reconciler, the only writer of the bridge's flows."""

    def trouble(self) -> str:
        """Why this node cannot attach a pod now, as one sentence with the remedy; empty when it can."""

    def node(self) -> NodeNetwork:
        """The node's network. Raises CniError 11 while config or host subnet are not known yet."""

    async def wait_tenant(self, namespace: str, deadline: float) -> None:
        """Return when the tenant of `namespace` is known (at once in single-tenant mode).

        `deadline` is in seconds of the running loop's clock (`loop.time()`). Raises CniError 11 when it passes.
        """

    async def install(self, attachment: Attachment) -> None:
        """Return when the switch has confirmed the pod's flows. Repeating it is harmless.

        Raises DataplaneError or CniError when they cannot be installed within the reconciler's own bound.
        Cancelling it is allowed; `withdraw` then removes whatever part of it was or will be done.
        """

    async def withdraw(self, key: AttachmentKey) -> None:
        """Return when the pod's flows are gone; unknown keys are no error.

        They stay away until `install` comes again, also while the row of the port still exists. A switch that
        is not there to be asked is no error either: it gets a full synchronisation before it forwards again.
        Raises DataplaneError when a present switch refuses.
        """


class LimitSource(Protocol):
    """Who knows which bandwidth a pod may have."""

    async def wanted(self, request: Request) -> PodLimits:
        """The limits for the pod of an ADD. Raises CniError 11 if they cannot be known now, 105 if they are bad."""

    def attached(self, namespace: str, name: str) -> None:
        """An ADD has ended: limits that were changed while it ran are to be changed now."""


async def _nothing_is_known(addresses: Set[IPv4Address]) -> None:
    """For those who work without a real bridge."""


@dataclass(frozen=True, slots=True)
class PodParts:
    """What `PodNetwork` works with. `tenant_wait` is how many seconds an ADD waits for its Namespace's NetID.

    `forget` has everybody forget what they know of addresses that pods had. `pod_lives`: Kubernetes has the lease's pod, or
    may have it. `lost` tells of attachments without a row; `on_repair` is told when one has it again, `complain` when it
    cannot have it.
    """

    switch: Switch
    links: PodLinks
    installer: Installer
    limits: LimitSource
    netns_exists: Callable[[str], bool] = os.path.exists
    tenant_wait: float = 30.0
    forget: Forget = _nothing_is_known
    pod_lives: Callable[[Attachment], bool] = lambda lease: False
    lost: LostPorts = field(default_factory=LostPorts)
    on_repair: OnRepair = lambda findings: None
    complain: Callable[[str], None] = lambda message: None


def host_ifname_of(key: AttachmentKey) -> str:
    """The host's end of an attachment's veth: 15 octets, the longest name that the kernel takes."""
    digest = hashlib.sha256(f"{key.sandbox}/{key.ifname}".encode()).hexdigest()
    return f"{LINK_PREFIX}{digest[:11]}"


def link_of(attachment: Attachment, node: NodeNetwork) -> PodLink:
    """The veth that an attachment has."""
    return PodLink(
        host_ifname=attachment.host_ifname,
        netns=attachment.netns,
        ifname=attachment.key.ifname,
        address=attachment.address,
        subnet=node.subnet,
        network=node.network,
        gateway=node.gateway,
        mac=attachment.mac,
        mtu=node.mtu,
        checksum_offload=node.checksum_offload,
        egress=attachment.limits.egress,
        alias=f"{LINK_ALIAS_PREFIX}{attachment.key.sandbox}/{attachment.key.ifname}"[:IFALIAS_OCTETS],
    )


def held(parts: PodParts) -> tuple[Attachment, ...]:
    """Every attachment that is somebody's, whether or not OVSDB says so now. Raises OvsdbError."""
    return (*parts.switch.attachments(), *parts.lost.held())
