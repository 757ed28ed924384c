"""Pods whose lease somebody removed while no agent was here: veth and namespace live, but nothing says whose they are.

For `pods`. A complete attachment is vouched for at the host's end of its veth, with its address. So the veth of a killed
ADD, which is swept, is told from that of a living pod, which never is; nor is its address given to another. What the
lease said is gone: only deleting the pod heals it, and the operator is told. It decides nothing else.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address

from k8s_ovs.dataplane.bridge import PodLinks
from k8s_ovs.model.types import Attachment

log = logging.getLogger(__name__)

NAMED = 5
"""Addresses that are told of very many."""

Complain = Callable[[str], None]


class Orphans:
    """Veths that are vouched for, and have no lease. `complain` is told once of each."""

    def __init__(self, links: PodLinks, complain: Complain) -> None:
        self._links = links
        self._complain = complain
        self._found: dict[str, IPv4Address] = {}
        self._looked = False

    @property
    def names(self) -> Collection[str]:
        """The host ends of those that were there at the last look."""
        return self._found.keys()

    @property
    def addresses(self) -> Collection[IPv4Address]:
        """Their addresses: in use, whatever OVSDB says."""
        return self._found.values()

    def trouble(self) -> str:
        """Which pods have no network for that reason, and what to do; "" if there are none."""
        if not (count := len(self._found)):
            return ""
        addresses = [str(address) for address in sorted(self._found.values())]
        listed = ", ".join(addresses[:NAMED]) + (f" and {count - NAMED} more" if count > NAMED else "")
        who, whose = ("1 pod has", "its port") if count == 1 else (f"{count} pods have", "their ports")
        return (
            f"{who} no network, because somebody removed {whose} while no agent ran: {listed}; delete them, so that "
            "they are made anew (kubectl get pods -A -o wide tells whose address it is)"
        )

    async def once(self, held: Iterable[Attachment]) -> None:
        """Look, unless that was done before: nobody may get an address before it is known who has one. LinkError."""
        if not self._looked:
            await self.look(held)

    async def look(self, held: Iterable[Attachment]) -> None:
        """See which there are now, beside what is `held`. Raises LinkError."""
        vouched = await self._links.vouched()
        leased = {attachment.host_ifname: attachment for attachment in held}
        before, self._found = (
            self._found,
            {name: address for name, address in vouched.items() if name not in leased},
        )
        self._looked = True
        for name in sorted(self._found.keys() - before.keys()):
            self._complain(
                f"port {name} of a pod with the address {self._found[name]} was removed while no agent ran, and its lease "
                "with it: the pod has no network. Delete the pod, so that it is made anew"
            )
        for name in leased.keys() - vouched.keys():
            # Attached by an agent that did not vouch yet.
            await self._links.vouch(name, leased[name].address)

    def drop(self, name: str) -> None:
        """It has been deleted."""
        self._found.pop(name, None)
