"""IptablesFirewall with real packets: pod namespace, host, and a machine outside that says from where it was called."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from fakes.dataplane_examples import FIREWALL
from fakes.private_ovs import netns_path, network_namespace, run
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.errors import FirewallError

POD, GATEWAY = "172.11.4.2", "172.11.4.1"
NODE, OUTSIDE = "192.0.2.1", "192.0.2.9"
IPTABLES = ("iptables", "-w", "5")


@dataclass
class Site:
    """A pod behind the node's gateway interface tun0, and a machine outside on the node's uplink."""

    pod: str
    node: str
    outside: str

    @property
    def firewall(self) -> IptablesFirewall:
        return IptablesFirewall(netns=netns_path(self.node))

    def on_node(self, *argv: str) -> str:
        return run("nsenter", f"--net={netns_path(self.node)}", *argv)

    def rules(self) -> list[str]:
        """iptables-save without the time of day and the counters of policies."""
        lines = self.on_node("iptables-save").splitlines()
        return [line.partition(" [")[0] for line in lines if not line.startswith("#")]

    def seen_from(self, target: str, listener: str) -> str | None:
        """Which source address a datagram of the pod to `target` has, for who listens in `listener`."""
        with call_in(
            netns_path(listener), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ) as server:
            server.bind((target, 5000))
            server.settimeout(1)
            with call_in(
                netns_path(self.pod), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            ) as client:
                client.sendto(b"who am I", (target, 5000))
            try:
                source: str = server.recvfrom(100)[1][0]
            except TimeoutError:
                return None
            return source


def cable(one: str, name: str, address: str, other: str, other_name: str, other_address: str) -> None:
    run("ip", "-n", one, "link", "add", name, "type", "veth", "peer", "name", other_name, "netns", other)
    for netns, ifname, where in ((one, name, address), (other, other_name, other_address)):
        run("ip", "-n", netns, "address", "add", where, "dev", ifname)
        run("ip", "-n", netns, "link", "set", ifname, "up")


@pytest.fixture
def site() -> Iterator[Site]:
    with (
        network_namespace("k8p") as pod,
        network_namespace("k8h") as node,
        network_namespace("k8x") as outside,
    ):
        cable(pod, "eth0", f"{POD}/22", node, "tun0", f"{GATEWAY}/22")
        cable(node, "uplink", f"{NODE}/24", outside, "eth0", f"{OUTSIDE}/24")
        run("ip", "-n", pod, "route", "add", "default", "via", GATEWAY)
        run("nsenter", f"--net={netns_path(node)}", "sysctl", "-q", "net.ipv4.ip_forward=1")
        site = Site(pod, node, outside)
        for chain in ("FORWARD", "INPUT"):
            site.on_node(*IPTABLES, "-A", chain, "-j", "DROP")
        site.on_node(*IPTABLES, "-t", "nat", "-A", "POSTROUTING", "-s", "203.0.113.7", "-j", "ACCEPT")
        yield site


async def test_outside_sees_the_node_and_the_node_sees_the_pod(site: Site) -> None:
    assert site.seen_from(OUTSIDE, site.outside) is None
    await site.firewall.ensure(FIREWALL)
    assert site.seen_from(OUTSIDE, site.outside) == NODE
    assert site.seen_from(GATEWAY, site.node) == POD


async def test_within_the_cluster_network_nothing_is_translated(site: Site) -> None:
    run("ip", "-n", site.outside, "address", "add", "172.11.200.1/32", "dev", "eth0")
    run("ip", "-n", site.outside, "route", "add", "172.11.4.0/22", "via", NODE)
    run("ip", "-n", site.node, "route", "add", "172.11.200.0/24", "via", OUTSIDE)
    await site.firewall.ensure(FIREWALL)
    assert site.seen_from("172.11.200.1", site.outside) == POD


async def test_vxlan_out_of_the_pod_network_is_dropped_before_anything_is_accepted(site: Site) -> None:
    """A node port may turn a pod's packet into VXLAN after the bridge has let it through."""
    await site.firewall.ensure(FIREWALL)
    for chain in ("K8S-OVS-FORWARD", "K8S-OVS-INPUT"):
        rules = [line for line in site.rules() if line.startswith(f"-A {chain} ")]
        assert rules[0] == f"-A {chain} -i tun0 -p udp -m udp --dport 4789 -j DROP"
        assert any(rule.endswith("-j ACCEPT") for rule in rules[1:])


async def test_removal_leaves_everything_as_it_was(site: Site) -> None:
    site.on_node(*IPTABLES, "-t", "raw", "-A", "PREROUTING", "-i", "other+", "-j", "ACCEPT")
    before = site.rules()
    assert await site.firewall.ensure(FIREWALL)
    assert site.rules() != before
    await site.firewall.remove()
    assert site.rules() == before
    await site.firewall.remove()
    assert site.rules() == before


@pytest.mark.parametrize(
    "damage",
    [
        "-F K8S-OVS-FORWARD",
        "-D FORWARD -j K8S-OVS-FORWARD",
        "-F INPUT",
        "-t nat -F POSTROUTING",
        "-t nat -F K8S-OVS-POSTROUTING",
        "-t nat -I K8S-OVS-POSTROUTING -j ACCEPT",
        "-t nat -R K8S-OVS-POSTROUTING 1 -s 10.0.0.0/8 -j MASQUERADE",
        "-A FORWARD -j K8S-OVS-FORWARD",
        "-D K8S-OVS-INPUT 1",
    ],
)
async def test_damage_is_repaired(site: Site, damage: str) -> None:
    await site.firewall.ensure(FIREWALL)
    ours = {line for line in site.rules() if "K8S-OVS" in line}
    site.on_node(*IPTABLES, *damage.split())
    assert await site.firewall.ensure(FIREWALL)
    lines = [line for line in site.rules() if "K8S-OVS" in line]
    assert set(lines) == ours
    assert len(lines) == len(ours)
    assert not await site.firewall.ensure(FIREWALL)


async def test_everything_removed_behind_our_back(site: Site) -> None:
    await site.firewall.ensure(FIREWALL)
    ours = {line for line in site.rules() if "K8S-OVS" in line}
    await site.firewall.remove()
    assert await site.firewall.ensure(FIREWALL)
    assert {line for line in site.rules() if "K8S-OVS" in line} == ours


async def test_another_network_replaces_the_rules(site: Site) -> None:
    await site.firewall.ensure(replace(FIREWALL, network=IPv4Network("10.128.0.0/14")))
    assert await site.firewall.ensure(FIREWALL)
    assert not any("10.128" in line for line in site.rules())


async def test_no_iptables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        FirewallError, match="iptables: No such file or directory: install the package iptables"
    ):
        await IptablesFirewall().ensure(FIREWALL)


async def test_what_iptables_refuses_is_an_error(site: Site) -> None:
    before = site.rules()
    with pytest.raises(FirewallError, match=r"NAT rules for 172\.11\.0\.0/16: iptables-restore: "):
        await site.firewall.ensure(replace(FIREWALL, gateway="an-interface-name-that-is-too-long"))
    assert [line for line in site.rules() if "K8S" not in line] == before
