"""What `bridge.Switch` promises, held by the fake and by the real switch."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fakes.dataplane import FakeSwitch
from fakes.dataplane_examples import attachment
from fakes.private_ovs import PrivateOvs
from k8s_ovs.dataplane.bridge import BridgeSpec, Switch
from k8s_ovs.dataplane.findings import Kind
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.errors import OvsdbError
from k8s_ovs.model.types import AttachmentKey, PodLimits, SandboxId


class World:
    """A switch and the devices that it may use."""

    def __init__(self, switch: Switch, ovs: PrivateOvs | None, devices: set[str]) -> None:
        self.switch = switch
        self._ovs = ovs
        self._devices = devices

    def make_device(self, name: str) -> None:
        self._devices.add(name)
        if self._ovs is not None:
            self._ovs.exec("ip", "link", "add", name, "type", "veth")

    def disturb(self) -> None:
        """Change something behind the switch's back."""
        if self._ovs is not None:
            self._ovs.vsctl("set", "bridge", "br0", "fail_mode=standalone")
        elif isinstance(self.switch, FakeSwitch):
            self.switch.disturb()

    def harm_tunnel(self) -> None:
        """Change the tunnel's options behind the switch's back."""
        if self._ovs is not None:
            self._ovs.vsctl("set", "interface", "vxlan0", "options:key=7")
        elif isinstance(self.switch, FakeSwitch):
            self.switch.faults = ["port vxlan0: options was {'key': '7'}"]

    async def restart_vswitchd(self) -> None:
        """Kill ovs-vswitchd, and start it again."""
        if self._ovs is not None:
            connected = self.switch.restarts
            async with asyncio.timeout(20):
                while not connected:
                    connected = self.switch.restarts
                    await asyncio.sleep(0.01)
            self._ovs.kill_vswitchd()
            self._ovs.start_vswitchd()
        elif isinstance(self.switch, FakeSwitch):
            self.switch.restart_vswitchd()


@pytest.fixture
async def world(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    devices: set[str] = set()
    if kind == "fake":
        fake = FakeSwitch(devices=devices)
        yield World(fake, None, devices)
        return
    ovs: PrivateOvs = request.getfixturevalue("ovs")
    switch = OvsdbSwitch(ovs.rundir)
    task = asyncio.create_task(switch.run(), name="switch")
    await asyncio.wait_for(switch.connected(), 20)
    yield World(switch, ovs, devices)
    task.cancel()
    await asyncio.wait({task})


@pytest.fixture
async def bridge(world: World) -> World:
    await world.switch.ensure_bridge(BridgeSpec())
    return world


async def test_the_datapath_is_known_once_the_bridge_is_made(world: World) -> None:
    with pytest.raises(OvsdbError):
        _ = world.switch.datapath
    await world.switch.ensure_bridge(BridgeSpec(datapath="netdev"))
    assert world.switch.datapath == "netdev"


async def test_a_port_gets_a_number_and_its_lease_is_kept(bridge: World) -> None:
    wanted = attachment(1)
    bridge.make_device(wanted.host_ifname)
    made = await bridge.switch.add_port(wanted)
    assert made.ofport is not None
    assert made.ofport > 2
    assert replace(made, ofport=None) == wanted
    assert bridge.switch.attachments() == [made]


async def test_adding_a_port_again_changes_nothing(bridge: World) -> None:
    bridge.make_device(attachment(1).host_ifname)
    first = await bridge.switch.add_port(attachment(1))
    assert await bridge.switch.add_port(attachment(1)) == first
    both = await asyncio.gather(*(bridge.switch.add_port(attachment(1)) for _ in range(2)))
    assert both == [first, first]
    assert bridge.switch.attachments() == [first]


async def test_a_lease_may_change(bridge: World) -> None:
    bridge.make_device(attachment(1).host_ifname)
    await bridge.switch.add_port(attachment(1))
    other = replace(attachment(1), address=attachment(9).address)
    assert (await bridge.switch.add_port(other)).address == attachment(9).address
    assert [row.address for row in bridge.switch.attachments()] == [attachment(9).address]


async def test_no_device_no_row(bridge: World) -> None:
    with pytest.raises(OvsdbError, match=r"could not open network device veth0+1 \(No such device\)"):
        await bridge.switch.add_port(attachment(1))
    assert bridge.switch.attachments() == []


async def test_no_bridge_no_port(world: World) -> None:
    world.make_device(attachment(1).host_ifname)
    with pytest.raises(OvsdbError):
        await world.switch.add_port(attachment(1))


async def test_a_port_of_another_sandbox_is_refused_and_stays(bridge: World) -> None:
    bridge.make_device(attachment(1).host_ifname)
    first = await bridge.switch.add_port(attachment(1))
    thief = replace(attachment(1), key=AttachmentKey(SandboxId("other"), "eth0"))
    with pytest.raises(OvsdbError, match="belongs to"):
        await bridge.switch.add_port(thief)
    assert bridge.switch.attachments() == [first]


async def test_a_sandbox_has_one_port_per_interface(bridge: World) -> None:
    for number in (1, 2):
        bridge.make_device(attachment(number).host_ifname)
    first = await bridge.switch.add_port(attachment(1))
    with pytest.raises(OvsdbError, match="holds port"):
        await bridge.switch.add_port(replace(attachment(2), key=attachment(1).key))
    assert bridge.switch.attachments() == [first]


async def test_one_bad_port_does_not_fail_the_others(bridge: World) -> None:
    for number in range(6):
        bridge.make_device(attachment(number).host_ifname)
    ports = [attachment(number) for number in range(6)]
    thief = replace(ports[0], key=AttachmentKey(SandboxId("other"), "eth0"))
    wanted = [*ports, thief, attachment(77)]
    results = await asyncio.gather(*map(bridge.switch.add_port, wanted), return_exceptions=True)
    assert [isinstance(result, OvsdbError) for result in results] == [False] * 6 + [True, True]
    assert len({row.ofport for row in bridge.switch.attachments()}) == 6


async def test_removing_is_repeatable(bridge: World) -> None:
    bridge.make_device(attachment(1).host_ifname)
    await bridge.switch.add_port(attachment(1))
    for _ in range(2):
        await bridge.switch.remove_port(attachment(1).key)
        assert bridge.switch.attachments() == []


async def test_removing_the_bridge_removes_its_ports(bridge: World) -> None:
    bridge.make_device(attachment(1).host_ifname)
    await bridge.switch.add_port(attachment(1))
    assert [await bridge.switch.remove_bridge("br0") for _ in range(2)] == [True, False]
    assert bridge.switch.attachments() == []
    with pytest.raises(OvsdbError):
        await bridge.switch.add_port(attachment(1))


async def test_a_change_by_others_is_told_even_before_anybody_asks(bridge: World) -> None:
    changes = bridge.switch.changes()
    bridge.disturb()
    await asyncio.wait_for(anext(changes), 20)


LIMITS = PodLimits(ingress=10**6, egress=2 * 10**6)


async def test_limits_are_part_of_the_lease(bridge: World) -> None:
    wanted = replace(attachment(1), limits=LIMITS)
    bridge.make_device(wanted.host_ifname)
    made = await bridge.switch.add_port(wanted)
    assert made.limits == LIMITS
    assert bridge.switch.attachments() == [made]
    await bridge.switch.check_limits(wanted.key)


@pytest.mark.parametrize("by_runtime", [False, True])
async def test_limits_change_in_a_lease_that_exists_and_nothing_else_does(
    bridge: World, by_runtime: bool
) -> None:
    bridge.make_device(attachment(1).host_ifname)
    made = await bridge.switch.add_port(attachment(1))
    for limits in (replace(LIMITS, from_runtime=by_runtime), PodLimits(egress=10**9), LIMITS, PodLimits()):
        await bridge.switch.set_limits(made.key, limits)
        assert bridge.switch.attachments() == [replace(made, limits=limits)]
        await bridge.switch.check_limits(made.key)


async def test_adding_a_port_again_brings_its_limits_up_to_date(bridge: World) -> None:
    bridge.make_device(attachment(1).host_ifname)
    first = await bridge.switch.add_port(replace(attachment(1), limits=LIMITS))
    for limits in (PodLimits(ingress=10**7), PodLimits()):
        await bridge.switch.add_port(replace(attachment(1), limits=limits))
        assert bridge.switch.attachments() == [replace(first, limits=limits)]


async def test_limits_of_a_port_that_does_not_exist_are_no_error(bridge: World) -> None:
    await bridge.switch.set_limits(attachment(1).key, LIMITS)
    await bridge.switch.check_limits(attachment(1).key)
    assert bridge.switch.attachments() == []


async def test_what_was_put_right_is_named(world: World) -> None:
    switch = world.switch
    assert [finding.kind for finding in await switch.ensure_bridge(BridgeSpec())] == [Kind.BRIDGE]
    assert await switch.ensure_bridge(BridgeSpec()) == ()
    world.harm_tunnel()
    async with asyncio.timeout(20):
        while not (findings := await switch.ensure_bridge(BridgeSpec())):
            await asyncio.sleep(0.01)  # the replica hears of it a moment later
    assert [finding.kind for finding in findings] == [Kind.PORT]
    assert "port vxlan0: options was" in str(findings[0])
    assert await switch.ensure_bridge(BridgeSpec()) == ()


async def test_the_gateway_is_made_anew_with_its_number(bridge: World) -> None:
    await bridge.switch.remake_gateway(BridgeSpec())
    assert await bridge.switch.ensure_bridge(BridgeSpec()) == ()


async def test_a_restart_of_the_switch_is_counted(bridge: World) -> None:
    before = bridge.switch.restarts
    changes = bridge.switch.changes()
    await bridge.restart_vswitchd()
    async with asyncio.timeout(20):
        while bridge.switch.restarts < before + 2:
            await anext(changes)
