"""`k8s-ovs uninstall` as a process, on a real switch, kernel and iptables: nothing of the agent's stays."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.dataplane import running
from fakes.dataplane_examples import FIREWALL, attachment
from fakes.private_ovs import PrivateOvs, netns_path
from k8s_ovs.agent import conflist
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch


@dataclass
class Node:
    """A host on which an agent has run: its namespace is the switch's own."""

    ovs: PrivateOvs
    folder: Path

    @property
    def conflist(self) -> Path:
        return self.folder / conflist.CONFLIST

    def rules(self) -> list[str]:
        """iptables-save without the time of day and the counters."""
        lines = self.ovs.exec("iptables-save").splitlines()
        return [line.partition(" [")[0] for line in lines if not line.startswith("#")]

    def bridges(self) -> list[str]:
        return self.ovs.vsctl("list-br").split()

    def devices(self) -> set[str]:
        return {line.split(":")[1].strip().partition("@")[0] for line in self._links()}

    def _links(self) -> list[str]:
        return self.ovs.exec("ip", "-o", "link").splitlines()

    def uninstall(self) -> "subprocess.CompletedProcess[str]":
        flags = [
            f"--ovs-rundir={self.ovs.rundir}",
            f"--cni-conf-dir={self.folder}",
            f"--cni-socket={self.folder}/cni.sock",
            f"--cni-bin-dir={self.folder}/bin",
        ]
        argv = [sys.executable, "-m", "k8s_ovs", "uninstall", *flags]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        inside = ["nsenter", f"--net={netns_path(self.ovs.netns)}", *argv]
        return subprocess.run(inside, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def node(ovs: PrivateOvs, tmp_path: Path) -> Node:
    return Node(ovs, tmp_path)


async def install(node: Node) -> None:
    """What an agent with one pod leaves on a host."""
    lease = attachment(1)
    node.ovs.exec("ip", "link", "add", lease.host_ifname, "type", "veth")
    async with running(OvsdbSwitch(node.ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        await switch.add_port(lease)
    await IptablesFirewall(netns=netns_path(node.ovs.netns)).ensure(FIREWALL)
    conflist.write(node.folder, "{}")


async def test_nothing_stays_and_nothing_else_goes(node: Node) -> None:
    node.ovs.vsctl("add-br", "br-other", "--", "set", "bridge", "br-other", "datapath_type=netdev")
    node.ovs.exec("iptables", "-A", "FORWARD", "-s", "203.0.113.7", "-j", "ACCEPT")
    before, devices = node.rules(), node.devices()
    await install(node)
    assert set(node.bridges()) == {"br-other", "br0"}
    assert "tun0" in node.devices()
    assert node.rules() != before
    said = (
        "removed the NAT and filter rules\nremoved the bridge br0\n",
        "no NAT and filter rules\nno bridge br0\n",
    )
    for expected in said:
        done = node.uninstall()
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert expected in done.stdout
        assert "kept: net.ipv4.ip_forward=1" in done.stdout, "what is left is named"
        assert node.bridges() == ["br-other"]
        assert [line for line in node.rules() if "K8S-OVS" in line] == []
        assert [line for line in node.rules() if line.startswith("-A")] == [
            line for line in before if line.startswith("-A")
        ]
        assert node.devices() - devices == {attachment(1).host_ifname, "veth0"}
        assert not node.conflist.exists()


async def test_without_a_database_the_rest_goes_and_the_bridge_is_named(node: Node) -> None:
    await install(node)
    node.ovs.kill_vswitchd()
    node.ovs.kill_ovsdb()
    done = node.uninstall()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bridge br0: removal: ovsdb-server at" in done.stderr
    assert "check that ovsdb-server runs and that --ovs-rundir names its folder" in done.stderr
    assert "1 of 4 parts are still there" in done.stderr
    assert not node.conflist.exists()
    assert [line for line in node.rules() if "K8S-OVS" in line] == []
    node.ovs.start_ovsdb()
    assert node.bridges() == ["br0"]
    done = node.uninstall()
    assert done.returncode == 0, done.stderr
    assert "removed from OVSDB, but ovs-vswitchd does not confirm it" in done.stderr
    assert node.bridges() == []
    node.ovs.start_vswitchd()
