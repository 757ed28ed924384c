"""Keeps the host's NAT and filter rules complete: the only caller of the Firewall, beside `uninstall`.

The kernel does not tell when somebody flushes a chain, so the rules are looked at once a period, and sooner after a
failure.
"""

import asyncio
import logging

from k8s_ovs.agent.drift import OnRepair
from k8s_ovs.config import NetworkConfig
from k8s_ovs.dataplane.bridge import Firewall, FirewallSpec
from k8s_ovs.errors import FirewallError
from k8s_ovs.runtime.backoff import Backoff

log = logging.getLogger(__name__)


class FirewallKeeper:
    """Ensures the rules for the network behind `gateway`, every `period` seconds; `trouble` tells why it cannot.

    `on_repair` is told of what was removed or changed behind our back.
    """

    def __init__(
        self,
        firewall: Firewall,
        gateway: str,
        period: float,
        on_repair: OnRepair = lambda findings: None,
    ) -> None:
        self._firewall = firewall
        self._gateway = gateway
        self._period = period
        self._trouble = "the NAT rules have not been written yet"
        self._on_repair = on_repair

    def trouble(self) -> str:
        """Why the rules are not in place, or ""."""
        return self._trouble

    async def run(self, config: NetworkConfig) -> None:
        """Keep the rules for pods and Services until cancelled."""
        spec = FirewallSpec(config.network, config.service_network, self._gateway)
        first = True
        backoff = Backoff(base=0.5, cap=self._period, floor=min(0.1, self._period))
        while True:
            try:
                changed = await self._firewall.ensure(spec)
            except FirewallError as err:
                if str(err) != self._trouble:
                    log.error("NAT rules: %s", err)
                self._trouble = str(err)
                await asyncio.sleep(backoff.next())
            else:
                self._trouble = ""
                backoff.reset()
                if changed and not first:
                    self._on_repair(changed)
                first = False
                await asyncio.sleep(self._period)
