"""The keeper of the NAT rules: once a period, sooner after a failure. Time is virtual."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network

from fakes.dataplane import FakeFirewall
from fakes.dataplane_examples import FIREWALL
from fakes.virtual_time import virtual_time
from k8s_ovs.agent.firewall import FirewallKeeper
from k8s_ovs.agent.repairs import Repairs
from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.dataplane.findings import Kind
from k8s_ovs.errors import FirewallError

OTHER = replace(FIREWALL, network=IPv4Network("10.0.0.0/8"))
CONFIG = NetworkConfig("k8ssdn", FIREWALL.network, 10, FIREWALL.service_network, Mode.MULTITENANT)


@asynccontextmanager
async def keeping(firewall: FakeFirewall) -> AsyncIterator[tuple[FirewallKeeper, Repairs]]:
    repairs = Repairs()
    keeper = FirewallKeeper(firewall, "tun0", 60, repairs.note)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(keeper.run(CONFIG))
        await asyncio.sleep(0.01)
        yield keeper, repairs
        task.cancel()


@virtual_time
async def test_the_rules_are_written_and_looked_at_once_a_period() -> None:
    firewall = FakeFirewall()
    keeper = FirewallKeeper(firewall, "tun0", 60)
    assert keeper.trouble() == "the NAT rules have not been written yet"
    async with keeping(firewall) as (keeper, repairs):
        assert keeper.trouble() == ""
        assert firewall.rules == FIREWALL
        await asyncio.sleep(601)
        assert firewall.calls == ["ensure"] * 11
        assert repairs.counts[Kind.FIREWALL] == 0


@virtual_time
async def test_rules_that_somebody_changed_are_repaired_and_counted() -> None:
    firewall = FakeFirewall()
    async with keeping(firewall) as (_, repairs):
        firewall.rules = OTHER
        await asyncio.sleep(61)
        assert firewall.rules == FIREWALL
        firewall.rules = None
        await asyncio.sleep(61)
        assert repairs.counts[Kind.FIREWALL] == 2


@virtual_time
async def test_a_failure_is_told_and_tried_again_soon_but_not_in_a_hot_loop() -> None:
    firewall = FakeFirewall()
    firewall.fail_next("ensure", FirewallError("another program holds the lock"), times=3)
    async with keeping(firewall) as (keeper, repairs):
        assert keeper.trouble() == "another program holds the lock"
        await asyncio.sleep(4)  # at most 0.5, 1 and 2 seconds
        assert keeper.trouble() == ""
        assert firewall.rules is not None
        assert repairs.counts[Kind.FIREWALL] == 0
        firewall.fail_next("ensure", FirewallError("iptables is gone"), times=10_000)
        await asyncio.sleep(60)
        assert keeper.trouble() == "iptables is gone"
        calls = len(firewall.calls)
        await asyncio.sleep(60)
        assert len(firewall.calls) - calls < 100
