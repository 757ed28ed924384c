"""Keeps the host's NAT and filter rules complete: the only caller of the Firewall, beside `uninstall`.

The kernel does not tell when somebody flushes a chain, so the rules are looked at once a period.
"""

import asyncio
import logging
from ipaddress import IPv4Network

from k8s_ovs.dataplane.bridge import Firewall
from k8s_ovs.errors import FirewallError

log = logging.getLogger(__name__)


class FirewallKeeper:
    """Ensures the rules for the pod network behind `gateway`, every `period` seconds; `trouble` tells why it cannot."""

    def __init__(self, firewall: Firewall, gateway: str, period: float) -> None:
        self._firewall = firewall
        self._gateway = gateway
        self._period = period
        self._trouble = "the NAT rules have not been written yet"
        self.repairs = 0

    def trouble(self) -> str:
        """Why the rules are not in place, or ""."""
        return self._trouble

    async def run(self, network: IPv4Network) -> None:
        """Keep the rules for pods of `network` until cancelled."""
        first = True
        while True:
            try:
                changed = await self._firewall.ensure(network, self._gateway)
            except FirewallError as err:
                self._trouble = str(err)
                log.error("NAT rules: %s", err)
            else:
                self._trouble = ""
                if changed and not first:
                    self.repairs += 1
                    log.warning("NAT rules were removed or changed behind our back, and are complete again")
                first = False
            await asyncio.sleep(self._period)
