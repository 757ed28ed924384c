"""OvsdbSwitch on a real switch: many ports at once, restarts of everything, and settings that others have changed."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterable
from dataclasses import replace

import pytest

from fakes.dataplane import running
from fakes.dataplane_examples import attachment
from fakes.private_ovs import PrivateOvs
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.dataplane.netlink import kernel_has_openvswitch
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.dataplane.ovsdb_client import Replica
from k8s_ovs.errors import OvsdbError
from k8s_ovs.model.types import Attachment

SOON = 20.0
SHORT = 2.0
"""A deadline for calls that are meant to fail; long enough for the others on a busy machine, given a bridge."""


def devices(ovs: PrivateOvs, numbers: Iterable[int]) -> None:
    for number in numbers:
        ovs.exec("ip", "link", "add", attachment(number).host_ifname, "type", "veth")


async def bridge(ovs: PrivateOvs) -> None:
    """Make the bridge with the usual deadline, so that a switch with a short one finds it made."""
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())


def column(ovs: PrivateOvs, table: str, record: str, name: str) -> str:
    return ovs.vsctl("get", table, record, name)


async def test_twenty_at_once_share_transactions_and_leave_nothing(ovs: PrivateOvs) -> None:
    devices(ovs, range(20))
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        before = ovs.vsctl("--columns=name,ofport,external_ids", "list", "Interface")
        first = int(column(ovs, "Open_vSwitch", ".", "next_cfg"))
        made = await asyncio.gather(*(switch.add_port(attachment(number)) for number in range(20)))
        transactions = int(column(ovs, "Open_vSwitch", ".", "next_cfg")) - first
        assert len({port.ofport for port in made}) == 20
        assert transactions <= 3
        assert sorted(switch.attachments(), key=str) == sorted(made, key=str)
        for port in made:
            assert column(ovs, "Interface", port.host_ifname, "ofport") == str(port.ofport)
        await asyncio.gather(*(switch.remove_port(attachment(number).key) for number in range(20)))
        assert switch.attachments() == []
        assert ovs.vsctl("--columns=name,ofport,external_ids", "list", "Interface") == before


async def test_adds_and_removes_of_one_sandbox_keep_their_order(ovs: PrivateOvs) -> None:
    devices(ovs, [1])
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        key = attachment(1).key
        await switch.add_port(attachment(1))
        await asyncio.gather(switch.remove_port(key), switch.add_port(attachment(1)))
        assert len(switch.attachments()) == 1
        calls = (switch.remove_port(key), switch.add_port(attachment(1)), switch.remove_port(key))
        _, overtaken, _ = await asyncio.gather(*calls, return_exceptions=True)
        assert switch.attachments() == []
        assert isinstance(overtaken, Attachment) or "removed from OVSDB" in str(overtaken)


async def test_leases_survive_the_agent(ovs: PrivateOvs) -> None:
    devices(ovs, range(3))
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        made = [await switch.add_port(attachment(number, "/run/netns/some")) for number in range(3)]
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        assert sorted(switch.attachments(), key=str) == sorted(made, key=str)


async def test_a_lease_that_cannot_be_read_is_reported_and_left_out(
    ovs: PrivateOvs, caplog: pytest.LogCaptureFixture
) -> None:
    devices(ovs, range(3))
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        made = [await switch.add_port(attachment(number)) for number in range(3)]
        ovs.vsctl("set", "Interface", made[0].host_ifname, 'external_ids:k8s-ovs/address="1.2.3"')
        ovs.vsctl("remove", "Interface", made[1].host_ifname, "external_ids", "k8s-ovs/sandbox")
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        with caplog.at_level(logging.ERROR):
            assert switch.attachments() == [made[2]]
    assert made[0].host_ifname in caplog.text
    assert made[1].host_ifname in caplog.text


async def test_ovsdb_server_killed_and_back(ovs: PrivateOvs) -> None:
    devices(ovs, range(3))
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        first = await switch.add_port(attachment(0))
        changes = switch.changes()
        ovs.kill_ovsdb()
        assert switch.attachments() == [first]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(switch.add_port(attachment(1)), name="waits for ovsdb-server")
            ovs.start_ovsdb()
        assert waiting.result().ofport is not None
        await asyncio.wait_for(anext(changes), SOON)
        assert len(switch.attachments()) == 2


async def test_no_ovsdb_server_is_an_error_and_no_hanging(ovs: PrivateOvs) -> None:
    devices(ovs, [0])
    await bridge(ovs)
    async with running(OvsdbSwitch(ovs.rundir, deadline=SHORT)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        ovs.kill_ovsdb()
        for call in (switch.add_port(attachment(0)), switch.remove_port(attachment(0).key)):
            with pytest.raises(OvsdbError, match=r"db.sock .* within 2 s: check that ovsdb-server runs"):
                await call
        ovs.start_ovsdb()
        await asyncio.wait_for(switch.connected(), SOON)
        await switch.remove_port(attachment(0).key)
        assert switch.attachments() == []


async def test_an_ovsdb_server_that_hangs_is_an_error(ovs: PrivateOvs) -> None:
    devices(ovs, [0])
    await bridge(ovs)
    assert ovs.ovsdb is not None
    async with running(OvsdbSwitch(ovs.rundir, deadline=SHORT)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        os.kill(ovs.ovsdb.pid, signal.SIGSTOP)
        try:
            with pytest.raises(OvsdbError, match=r"does not answer within 2 s"):
                await switch.add_port(attachment(0))
        finally:
            os.kill(ovs.ovsdb.pid, signal.SIGCONT)
        await switch.remove_port(attachment(0).key)
        assert switch.attachments() == []
        assert attachment(0).host_ifname not in ovs.vsctl("list-ports", "br0")


async def test_a_start_without_a_switch_is_an_error(ovs: PrivateOvs) -> None:
    switch = OvsdbSwitch(ovs.rundir / "nowhere", deadline=0.2)
    task = asyncio.create_task(switch.run(), name="switch")
    with pytest.raises(OvsdbError, match=r"nowhere/db.sock cannot be reached within 0.2 s"):
        await switch.ensure_bridge(BridgeSpec())
    with pytest.raises(OvsdbError, match="not been read"):
        switch.attachments()
    task.cancel()
    await asyncio.wait({task})


async def test_vswitchd_killed_is_noticed_and_ports_fail_until_it_is_back(ovs: PrivateOvs) -> None:
    devices(ovs, range(4))
    await bridge(ovs)
    async with running(OvsdbSwitch(ovs.rundir, deadline=SHORT)) as switch:
        changes = switch.changes()
        await switch.ensure_bridge(BridgeSpec())
        for number in range(3):
            await switch.add_port(attachment(number))
        await asyncio.wait_for(anext(changes), SOON)
        ovs.kill_vswitchd()
        await asyncio.wait_for(anext(changes), SOON)
        with pytest.raises(OvsdbError, match="no port number within 2 s: check that ovs-vswitchd runs"):
            await switch.add_port(attachment(3))
        assert len(switch.attachments()) == 3
        while_down = switch.changes()
        ovs.start_vswitchd()
        await asyncio.wait_for(anext(while_down), SOON)
        numbers = [(await switch.add_port(attachment(number))).ofport for number in range(4)]
        assert len(set(numbers)) == 4
        for number in range(4):
            name = attachment(number).host_ifname
            assert column(ovs, "Interface", name, "ofport") == str(numbers[number])


async def test_a_device_that_comes_back_is_taken_again(ovs: PrivateOvs) -> None:
    devices(ovs, [0])
    name = attachment(0).host_ifname
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        await switch.add_port(attachment(0))
        ovs.exec("ip", "link", "delete", name)
        devices(ovs, [0])
        port = await switch.add_port(attachment(0))
        assert column(ovs, "Interface", name, "ofport") == str(port.ofport)


async def test_our_own_changes_are_no_news_and_those_of_others_are(ovs: PrivateOvs) -> None:
    devices(ovs, range(2))
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        started = switch.changes()
        await switch.ensure_bridge(BridgeSpec())
        await asyncio.wait_for(anext(started), SOON)
        changes = switch.changes()
        heard: list[None] = []

        async def listen() -> None:
            async for change in changes:
                heard.append(change)

        async with asyncio.TaskGroup() as group:
            listener = group.create_task(listen(), name="listener")
            for _ in range(5):
                await switch.add_port(attachment(0))
                await switch.remove_port(attachment(0).key)
            quiet = len(heard)
            await switch.add_port(attachment(0))
            behind = switch.changes()
            ovs.vsctl("del-port", attachment(0).host_ifname)
            await asyncio.wait_for(anext(behind), SOON)
            listener.cancel()
        assert quiet <= 1, "the first connection to the switch may be news, our own ports are not"
        assert switch.attachments() == []


async def test_idle_means_no_wake_up(ovs: PrivateOvs, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        changes = switch.changes()
        await switch.ensure_bridge(BridgeSpec())
        await asyncio.wait_for(anext(changes), SOON)
        while True:
            try:
                await asyncio.wait_for(anext(switch.changes()), 0.5)
            except TimeoutError:
                break
        runs: list[None] = []
        original = Replica.run

        def counted(replica: Replica) -> bool:
            runs.append(None)
            return original(replica)

        monkeypatch.setattr(Replica, "run", counted)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(switch.changes()), 2)
        assert runs == []


async def test_wrong_settings_are_corrected_and_right_ones_kept(ovs: PrivateOvs) -> None:
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        right = ovs.vsctl("list", "Bridge"), column(ovs, "Interface", "vxlan0", "options")
        changed = column(ovs, "Open_vSwitch", ".", "next_cfg")
        await switch.ensure_bridge(BridgeSpec())
        assert column(ovs, "Open_vSwitch", ".", "next_cfg") == changed
        ovs.vsctl("set", "bridge", "br0", "fail_mode=standalone", "protocols=OpenFlow13")
        ovs.vsctl("set", "bridge", "br0", "other_config:disable-in-band=false")
        ovs.vsctl("set", "interface", "vxlan0", "type=geneve", "ofport_request=77")
        ovs.vsctl("set", "interface", "vxlan0", "options:remote_ip=192.0.2.1", "options:dst_port=4790")
        await switch.ensure_bridge(BridgeSpec())
        assert (ovs.vsctl("list", "Bridge"), column(ovs, "Interface", "vxlan0", "options")) == right
        assert column(ovs, "Interface", "vxlan0", "type") == "vxlan"
        assert column(ovs, "Interface", "vxlan0", "ofport") == "1"
        assert column(ovs, "Interface", "tun0", "ofport") == "2"
        ovs.vsctl("set", "interface", "vxlan0", "options:csum=true")
        await switch.ensure_bridge(BridgeSpec())
        assert 'csum="true"' in column(ovs, "Interface", "vxlan0", "options")


async def test_the_bridge_is_what_the_design_says(ovs: PrivateOvs) -> None:
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        expected = "system" if kernel_has_openvswitch() else "netdev"
        assert switch.datapath == expected
        assert column(ovs, "Bridge", "br0", "datapath_type") == expected
    assert column(ovs, "Bridge", "br0", "fail_mode") == "secure"
    assert column(ovs, "Bridge", "br0", "other_config:disable-in-band") == '"true"'
    options = column(ovs, "Interface", "vxlan0", "options")
    assert options == '{df_default="false", key=flow, remote_ip=flow}'
    hwaddr = column(ovs, "Bridge", "br0", "other_config:hwaddr")
    assert hwaddr == column(ovs, "Interface", "br0", "mac_in_use")
    assert ovs.ofctl("dump-flows", ovs.mgmt()).count("actions=") == 0


async def test_a_number_taken_by_others_is_an_error_that_names_them(ovs: PrivateOvs) -> None:
    devices(ovs, [0])
    name = attachment(0).host_ifname
    ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
    ovs.vsctl("add-port", "br0", name, "--", "set", "interface", name, "ofport_request=1")
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        with pytest.raises(
            OvsdbError, match=rf"vxlan0 .* instead of 1, which {name} has: ovs-vsctl del-port br0 {name}"
        ):
            await switch.ensure_bridge(BridgeSpec())


async def test_a_port_on_another_bridge_is_refused(ovs: PrivateOvs) -> None:
    devices(ovs, [0])
    ovs.vsctl("add-br", "br9", "--", "set", "bridge", "br9", "datapath_type=netdev")
    ovs.vsctl("add-port", "br9", attachment(0).host_ifname)
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        with pytest.raises(OvsdbError, match="exists, but not on bridge br0"):
            await switch.add_port(attachment(0))
        with pytest.raises(OvsdbError, match="exists, but not on bridge br1"):
            await switch.ensure_bridge(replace(BridgeSpec(), name="br1"))
    assert ovs.vsctl("list-ports", "br9") == attachment(0).host_ifname
    assert ovs.vsctl("list-br").split() == ["br0", "br9"]


async def test_a_datapath_that_the_switch_does_not_have_is_an_error(ovs: PrivateOvs) -> None:
    ovs.kill_vswitchd()
    ovs.vsctl("--no-wait", "set", "Open_vSwitch", ".", "datapath_types=netdev")
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        with pytest.raises(OvsdbError, match="datapath system: this switch offers only netdev"):
            await switch.ensure_bridge(BridgeSpec(datapath="system"))


async def test_a_port_that_others_replace_in_one_transaction_is_still_known(ovs: PrivateOvs) -> None:
    devices(ovs, [0])
    name = attachment(0).host_ifname
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        for _ in range(4):
            await switch.add_port(attachment(0))
            changes = switch.changes()
            ovs.vsctl("del-port", name, "--", "add-port", "br0", name)
            await asyncio.wait_for(anext(changes), SOON)
            assert switch.attachments() == []
            with pytest.raises(OvsdbError, match="belongs to nobody we know"):
                await switch.add_port(attachment(0))
            ovs.vsctl("del-port", name)


async def test_a_port_of_ours_whose_lease_somebody_cleared_gets_it_again(ovs: PrivateOvs) -> None:
    """Its name follows from the sandbox, so that it can be nobody else's."""
    ours = replace(attachment(0), host_ifname="kovs00000000000")
    ovs.exec("ip", "link", "add", ours.host_ifname, "type", "veth")
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        lease = await switch.add_port(ours)
        changes = switch.changes()
        ovs.vsctl("clear", "interface", ours.host_ifname, "external_ids")
        await asyncio.wait_for(anext(changes), SOON)
        assert switch.attachments() == []
        assert await switch.add_port(ours) == lease
        assert switch.attachments() == [lease]


async def test_a_kernel_without_the_module_is_an_error_that_says_so(
    ovs: PrivateOvs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("k8s_ovs.dataplane.ovsdb.kernel_has_openvswitch", lambda: False)
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        with pytest.raises(OvsdbError, match="no Open vSwitch module: modprobe openvswitch"):
            await switch.ensure_bridge(BridgeSpec(datapath="system"))
        assert ovs.vsctl("list-br") == ""
        await switch.ensure_bridge(BridgeSpec())
        assert switch.datapath == "netdev"


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_add_leaves_no_row(ovs: PrivateOvs, steps: int) -> None:
    devices(ovs, range(2))
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        task = asyncio.create_task(switch.add_port(attachment(0)), name="cancelled")
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await switch.add_port(attachment(1))
        assert [row.key for row in switch.attachments()] == [attachment(1).key]
