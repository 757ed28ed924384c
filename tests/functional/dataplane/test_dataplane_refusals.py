"""What the host refuses, with real packets: Services without endpoints, and node ports as a way past the bridge.

A namespace plays the bridge and the pods behind it, on the far side of `tun0`.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fakes.dataplane_examples import FIREWALL, gateway_spec
from fakes.private_ovs import netns_path, network_namespace, run
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.model.types import HAIRPIN_IP

GATEWAY, POD, VICTIM = "172.11.4.1", "172.11.4.2", "172.11.4.9"
NODE, OUTSIDE, SERVICE = "192.0.2.1", "192.0.2.9", "10.96.0.7"
SECONDS = 1.0
DESTINATION_UNREACHABLE = 3
"""Type of an ICMP message (RFC 792)."""


@dataclass
class Site:
    """The node; `pods` holds all addresses of the pod network; `outside` is another machine on the underlay."""

    node: str
    pods: str
    outside: str

    def on_node(self, *argv: str) -> str:
        return run("nsenter", f"--net={netns_path(self.node)}", *argv)

    def tcp(self, source: str, target: tuple[str, int]) -> tuple[str, float]:
        """How a connection attempt from `source` ends ("refused", "silent", "open"), and after how many seconds."""
        return attempt(self.pods, lambda: self._connect(source, target))

    def udp(self, source: str, target: tuple[str, int]) -> tuple[str, float]:
        """How a datagram is answered."""
        return attempt(self.pods, lambda: self._ask(source, target))

    def _connect(self, source: str, target: tuple[str, int]) -> None:
        socket.create_connection(target, SECONDS, (source, 0)).close()

    def _ask(self, source: str, target: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            sock.connect(target)
            sock.settimeout(SECONDS)
            sock.send(b"?")
            sock.recv(10)


def attempt(netns: str, act: Callable[[], None]) -> tuple[str, float]:
    def timed() -> tuple[str, float]:
        begun = time.monotonic()
        try:
            act()
        except TimeoutError:
            return "silent", time.monotonic() - begun
        except ConnectionRefusedError:
            return "refused", time.monotonic() - begun
        return "open", time.monotonic() - begun

    return call_in(netns_path(netns), timed)


def cable(one: str, name: str, other: str, other_name: str) -> None:
    run("ip", "-n", one, "link", "add", name, "type", "veth", "peer", "name", other_name, "netns", other)
    for netns, ifname in ((one, name), (other, other_name)):
        run("ip", "-n", netns, "link", "set", ifname, "up")


@pytest.fixture
def site() -> Iterator[Site]:
    with (
        network_namespace("k8h") as node,
        network_namespace("k8p") as pods,
        network_namespace("k8x") as outside,
    ):
        cable(node, "tun0", pods, "eth0")
        cable(node, "uplink", outside, "eth0")
        for netns, address, ifname in (
            (node, f"{NODE}/24", "uplink"),
            (outside, f"{OUTSIDE}/24", "eth0"),
            (pods, f"{POD}/32", "eth0"),
            (pods, f"{VICTIM}/32", "eth0"),
            (pods, f"{HAIRPIN_IP}/32", "eth0"),
        ):
            run("ip", "-n", netns, "address", "add", address, "dev", ifname)
        run("ip", "-n", pods, "route", "add", f"{GATEWAY}/32", "dev", "eth0")
        run("ip", "-n", pods, "route", "add", "default", "via", GATEWAY)
        site = Site(node, pods, outside)
        spec = gateway_spec()
        assert str(spec.address) == GATEWAY
        asyncio.run(NetlinkHostNetwork(netns=netns_path(node)).ensure_gateway(spec))
        yield site


@pytest.fixture
async def guarded(site: Site) -> Site:
    await guard_it(site)
    return site


async def guard_it(site: Site) -> None:
    assert await IptablesFirewall(netns=netns_path(site.node)).ensure(FIREWALL)


@pytest.mark.parametrize("source", [POD, str(HAIRPIN_IP)])
async def test_a_service_without_endpoints_is_refused_at_once(guarded: Site, source: str) -> None:
    """The bridge sends such a packet to the host as it is; HAIRPIN_IP is what the host's own come back with."""
    for _ in range(20):
        outcome, seconds = guarded.tcp(source, (SERVICE, 80))
        assert outcome == "refused"
        assert seconds < 0.1
    outcome, seconds = guarded.udp(source, (SERVICE, 53))
    assert outcome == "refused"
    assert seconds < 0.1


async def test_also_when_the_host_has_the_address_itself(guarded: Site) -> None:
    """As with kube-proxy in its mode IPVS."""
    guarded.on_node("ip", "address", "add", f"{SERVICE}/32", "dev", "lo")
    assert guarded.tcp(POD, (SERVICE, 80))[0] == "refused"
    assert guarded.udp(POD, (SERVICE, 53))[0] == "refused"


async def test_no_redirect_tells_a_pod_to_ask_for_the_service_itself(guarded: Site) -> None:
    with call_in(netns_path(guarded.pods), icmp_listener) as heard:
        heard.settimeout(SECONDS)
        assert guarded.udp(POD, (SERVICE, 53))[0] == "refused"
        assert heard.recv(2000)[20] == DESTINATION_UNREACHABLE
        with pytest.raises(TimeoutError):
            heard.recv(2000)


async def test_redirects_would_hold_the_refusal_back(guarded: Site) -> None:
    """Why the gateway's settings turn them off."""
    guarded.on_node("sysctl", "-q", "net.ipv4.conf.all.send_redirects=1")
    assert guarded.udp(POD, (SERVICE, 53))[0] == "silent"


def icmp_listener() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


def open_side_door(site: Site) -> None:
    """A node port as kube-proxy makes one: translated, and with the node's own address from there on."""
    nat = ("iptables", "-w", "5", "-t", "nat", "-A")
    for protocol in ("tcp", "udp"):
        match = ("-p", protocol, "-d", NODE, "--dport", "30080")
        site.on_node(*nat, "PREROUTING", *match, "-j", "DNAT", "--to-destination", f"{VICTIM}:8080")
    site.on_node(*nat, "POSTROUTING", "-m", "conntrack", "--ctstate", "DNAT", "-j", "MASQUERADE")


def serve(netns: str, address: str, port: int) -> socket.socket:
    server = call_in(netns_path(netns), lambda: socket.create_server((address, port)))
    server.settimeout(SECONDS)
    return server


@pytest.mark.parametrize("guard", [False, True])
async def test_a_node_port_is_no_way_from_pod_to_pod(site: Site, guard: bool) -> None:
    open_side_door(site)
    if guard:
        await guard_it(site)
    with serve(site.pods, VICTIM, 8080):
        outcome, seconds = site.tcp(POD, (NODE, 30080))
    if not guard:
        assert outcome == "open", "if the door is not open, the test proves nothing"
        return
    assert outcome == "refused"
    assert seconds < 0.1
    assert site.udp(POD, (NODE, 30080))[0] == "refused"


async def test_others_come_in_by_the_node_port_as_before(guarded: Site) -> None:
    open_side_door(guarded)
    with serve(guarded.pods, VICTIM, 8080) as server:
        outside = attempt(guarded.outside, lambda: socket.create_connection((NODE, 30080), SECONDS).close())
        assert outside[0] == "open"
        assert server.accept()[1][0] == GATEWAY


async def test_what_the_host_sends_through_a_service_to_another_machine_has_its_address(
    guarded: Site,
) -> None:
    with serve(guarded.outside, OUTSIDE, 6443) as server:
        assert guarded.tcp(str(HAIRPIN_IP), (OUTSIDE, 6443))[0] == "open"
        assert server.accept()[1][0] == NODE


async def test_what_the_host_sends_through_a_service_to_itself_comes_back_to_the_bridge(
    guarded: Site,
) -> None:
    with serve(guarded.node, NODE, 6443) as server:
        assert guarded.tcp(str(HAIRPIN_IP), (NODE, 6443))[0] == "open"
        assert server.accept()[1][0] == str(HAIRPIN_IP)
