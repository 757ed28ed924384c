"""The network of this node's pods: what the agent does for CNI ADD, DEL, CHECK, GC and STATUS.

The CNI server calls `PodNetwork`; the composition root makes it. Flows are the reconciler's: this module only
asks for them, through `Installer`. It never keeps a database of its own: the Interface row in OVSDB is the
lease.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from k8s_ovs.model.types import Attachment, AttachmentKey


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """What a pod on this node gets: an address of `subnet`, the gateway, the MTU in octets.

    `network` is the pod network of the cluster; `checksum_offload` False where the datapath cannot take
    partial checksums.
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

        `deadline` is in seconds of the running loop's clock (`loop.time()`). Raises CniError 11 when it
        passes.
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
