"""Pod links and the gateway on a real kernel, judged by pyroute2's view of the same namespaces."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink import nlmsg

from fakes.dataplane import running
from fakes.dataplane_examples import NETWORK, SERVICES, SUBNET, gateway_spec, pod_link
from fakes.private_ovs import PrivateOvs, netns_path, network_namespace, run
from k8s_ovs.dataplane.bridge import BridgeSpec
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.dataplane.links import NetlinkPodLinks
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.ovsdb import OvsdbSwitch
from k8s_ovs.dataplane.rtnetlink import Rtnetlink
from k8s_ovs.errors import LinkError
from k8s_ovs.model.types import HAIRPIN_IP, mac_of

T = TypeVar("T")
OWN_NAMESPACE = Path("/proc/thread-self/ns/net")


def seen(netns: str, question: Callable[[IPRoute], T]) -> T:
    """What pyroute2 says about a namespace; in a thread, because it brings an event loop of its own."""

    def ask() -> T:
        with IPRoute(netns=netns) as view:
            return question(view)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def interfaces(netns: str) -> dict[str, nlmsg]:
    return seen(netns, lambda view: {link.get_attr("IFLA_IFNAME"): link for link in view.get_links()})


def addresses(netns: str, ifname: str) -> set[str]:
    def question(view: IPRoute) -> set[str]:
        (index,) = view.link_lookup(ifname=ifname)
        found = list(view.get_addr(index=index))
        return {f"{each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}" for each in found}

    return seen(netns, question)


def routes(netns: str) -> set[tuple[str, str | None, str | None]]:
    """Destination, gateway and preferred source of the main table."""

    def question(view: IPRoute) -> set[tuple[str, str | None, str | None]]:
        return {
            (
                f"{route.get_attr('RTA_DST') or '0.0.0.0'}/{route['dst_len']}",
                route.get_attr("RTA_GATEWAY"),
                route.get_attr("RTA_PREFSRC"),
            )
            for route in view.get_routes(family=2, table=254)
        }

    return seen(netns, question)


async def test_a_pod_need_not_ask_for_its_gateway(host: str, pod: str) -> None:
    """What it floods its own shaper with would drown the question."""
    link = pod_link(1, netns_path(pod))
    links = NetlinkPodLinks(netns=netns_path(host))
    for _ in range(2):
        await links.create(link)
        shown = run("ip", "-n", pod, "neighbour", "show", "dev", link.ifname).split()
        assert shown == [str(link.gateway), "lladdr", mac_of(link.gateway), "PERMANENT"]


async def test_a_pod_link_as_others_see_it(host: str, pod: str) -> None:
    link = pod_link(1, netns_path(pod))
    await NetlinkPodLinks(netns=netns_path(host)).create(link)
    there, here = interfaces(pod)["eth0"], interfaces(host)[link.host_ifname]
    assert there.get_attr("IFLA_ADDRESS") == link.mac
    assert (there.get_attr("IFLA_MTU"), here.get_attr("IFLA_MTU")) == (1450, 1450)
    assert (there["state"], here["state"]) == ("up", "up")
    assert here.get_attr("IFLA_IFALIAS") == link.alias
    assert here.get_attr("IFLA_LINK") == there["index"]
    assert there.get_attr("IFLA_LINK") == here["index"]
    assert addresses(pod, "eth0") == {f"{link.address}/22"}
    assert routes(pod) == {
        ("172.11.4.1/32", None, None),
        ("172.11.0.0/16", "172.11.4.1", None),
        ("0.0.0.0/0", "172.11.4.1", None),
    }
    assert run("ip", "netns", "exec", pod, "cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "1\n"
    assert "tx-checksumming: off" in run("ip", "netns", "exec", pod, "ethtool", "-k", "eth0")
    assert "inet6 fe80" not in run("ip", "-n", host, "address", "show", link.host_ifname)


async def test_checksum_offload_may_stay(host: str, pod: str) -> None:
    link = replace(pod_link(1, netns_path(pod)), checksum_offload=True)
    await NetlinkPodLinks(netns=netns_path(host)).create(link)
    assert "tx-checksumming: on" in run("ip", "netns", "exec", pod, "ethtool", "-k", "eth0")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("link set eth0 down", "is down"),
        ("link set eth0 mtu 1300", "MTU is 1300, not 1450"),
        ("link set eth0 address 02:00:00:00:00:01", "MAC is 02:00:00:00:00:01"),
        ("address flush dev eth0", "address is none"),
        ("route delete default", "the route to 0.0.0.0/0 is missing"),
    ],
)
async def test_check_names_the_difference_and_create_repairs_it(
    host: str, pod: str, damage: str, named: str
) -> None:
    links, link = NetlinkPodLinks(netns=netns_path(host)), pod_link(1, netns_path(pod))
    await links.create(link)
    run("ip", "-n", pod, *damage.split())
    with pytest.raises(LinkError, match=named):
        await links.check(link)
    await links.create(link)
    await links.check(link)


@pytest.mark.parametrize(
    ("name", "value"), [("ipv4/conf/{}/arp_ignore", "8"), ("ipv6/conf/{}/disable_ipv6", "1")]
)
async def test_the_kernel_neither_answers_arp_nor_takes_ipv6_on_a_pods_veth(
    host: str, pod: str, name: str, value: str
) -> None:
    links, link = NetlinkPodLinks(netns=netns_path(host)), pod_link(1, netns_path(pod))
    await links.create(link)
    setting = Path("/proc/sys/net", name.format(link.host_ifname))
    assert run("ip", "netns", "exec", host, "cat", str(setting)) == f"{value}\n"
    call_in(netns_path(host), lambda: setting.write_text("0"))
    with pytest.raises(LinkError, match=rf"{setting.name} is 0, not {value}"):
        await links.check(link)
    await links.create(link)
    await links.check(link)


async def test_check_sees_offload_and_alias(host: str, pod: str) -> None:
    links, link = NetlinkPodLinks(netns=netns_path(host)), pod_link(1, netns_path(pod))
    await links.create(link)
    run("ip", "netns", "exec", pod, "ethtool", "-K", "eth0", "tx", "on")
    with pytest.raises(LinkError, match="checksum offload is on"):
        await links.check(link)
    run("ip", "-n", host, "link", "set", link.host_ifname, "alias", "mine")
    with pytest.raises(LinkError, match="alias is 'mine'"):
        await links.check(link)
    assert await links.leftovers() == []


async def test_twenty_side_by_side(host: str) -> None:
    links = NetlinkPodLinks(netns=netns_path(host))
    with ExitStack() as stack:
        pods = [stack.enter_context(network_namespace("k8p")) for _ in range(20)]
        wanted = [pod_link(number, netns_path(name)) for number, name in enumerate(pods)]
        before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only the names
        await asyncio.gather(*(links.create(link) for link in wanted))
        await asyncio.gather(*(links.check(link) for link in wanted))
        assert sorted(await links.leftovers()) == sorted(link.host_ifname for link in wanted)
        for name, link in zip(pods, wanted, strict=True):
            assert addresses(name, "eth0") == {f"{link.address}/22"}
        await asyncio.gather(*(links.delete(link.host_ifname) for link in wanted))
        assert await links.leftovers() == []
        assert set(interfaces(host)) == {"lo"}
        assert all(set(interfaces(name)) == {"lo"} for name in pods)
        assert len(os.listdir("/proc/self/fd")) <= len(before)  # noqa: PTH208


async def test_what_fails_leaves_nothing(host: str, pod: str) -> None:
    links = NetlinkPodLinks(netns=netns_path(host))
    for broken in (
        {"mtu": 70000},
        {"mac": "01:00:5e:00:00:01"},
        {"ifname": "far-too-long-a-name"},
    ):
        with pytest.raises(LinkError):
            await links.create(replace(pod_link(1, netns_path(pod)), **broken))
        assert set(interfaces(host)) == {"lo"}
        assert set(interfaces(pod)) == {"lo"}


async def test_a_cancelled_create_leaves_nothing(host: str, pod: str) -> None:
    links = NetlinkPodLinks(netns=netns_path(host))
    for steps in range(4):
        task = asyncio.create_task(links.create(pod_link(1, netns_path(pod))), name="cancelled")
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert set(interfaces(host)) == {"lo"}


class Killed(BaseException):
    """kill -9 of the agent, as far as a thread can see it: no handler of the program runs."""


async def test_a_pair_without_alias_of_a_killed_agent_is_found(
    host: str, pod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, link = NetlinkPodLinks(netns=netns_path(host)), pod_link(1, netns_path(pod))

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(Rtnetlink, "set_link", die)
        with pytest.raises(Killed):
            await links.create(link)
    assert interfaces(host)[link.host_ifname].get_attr("IFLA_IFALIAS") is None
    assert await links.leftovers() == [link.host_ifname]
    await links.create(link)
    await links.check(link)
    assert interfaces(host)[link.host_ifname].get_attr("IFLA_GROUP") == 0


async def test_only_a_veth_is_deleted(host: str) -> None:
    run("ip", "-n", host, "link", "add", "important", "type", "bridge")
    with pytest.raises(LinkError, match="is a bridge, not a pod's veth"):
        await NetlinkPodLinks(netns=netns_path(host)).delete("important")
    assert "important" in interfaces(host)


async def test_a_namespace_whose_mount_is_gone_is_missing(host: str, tmp_path: Path) -> None:
    empty = tmp_path / "ns"
    empty.touch()
    with pytest.raises(LinkError, match="is no network namespace") as caught:
        await NetlinkPodLinks(netns=netns_path(host)).create(pod_link(1, str(empty)))
    assert caught.value.errno == 2


def test_only_the_thread_changes_its_namespace(pod: str) -> None:
    mine = OWN_NAMESPACE.readlink()
    threads = threading.active_count()
    there = call_in(netns_path(pod), OWN_NAMESPACE.readlink)
    assert there != mine
    assert OWN_NAMESPACE.readlink() == mine
    assert threading.active_count() == threads
    with pytest.raises(ZeroDivisionError):
        call_in(netns_path(pod), lambda: 1 // 0)


async def test_the_gateway_keeps_its_mtu_when_ports_come_and_go(ovs: PrivateOvs) -> None:
    """Left alone, the switch gives an internal port the smallest MTU of the bridge, anew at every change."""

    def mtu() -> int:
        found: int = interfaces(ovs.netns)["tun0"].get_attr("IFLA_MTU")
        return found

    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec(mtu=1450))
        ovs.exec("ip", "link", "add", "small", "mtu", "1400", "type", "veth", "peer", "name", "other")
        for change in (["add-port", "br0", "small"], ["del-port", "br0", "small"]):
            ovs.vsctl(*change)
            assert mtu() == 1450
        await switch.ensure_bridge(BridgeSpec())
        assert mtu() == 1450


async def test_the_gateway_as_others_see_it(ovs: PrivateOvs) -> None:
    network = NetlinkHostNetwork(netns=netns_path(ovs.netns))
    async with running(OvsdbSwitch(ovs.rundir)) as switch:
        await switch.ensure_bridge(BridgeSpec())
        ovs.exec("ip", "address", "add", "192.0.2.5/24", "dev", "tun0")
        ovs.exec("sysctl", "-q", "net.ipv4.ip_forward=0")
        assert await network.ensure_gateway(gateway_spec())
        assert not await network.ensure_gateway(gateway_spec())
    tun0 = interfaces(ovs.netns)["tun0"]
    assert (tun0.get_attr("IFLA_ADDRESS"), tun0.get_attr("IFLA_MTU")) == ("0a:58:ac:0b:04:01", 1450)
    assert addresses(ovs.netns, "tun0") == {"172.11.4.1/22"}
    wanted = {(str(to), None, "172.11.4.1") for to in (NETWORK, SERVICES, SUBNET, f"{HAIRPIN_IP}/32")}
    assert routes(ovs.netns) == wanted
    assert ovs.exec("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
    for damage in (
        "ip route delete 10.96.0.0/12",
        "ip route delete 169.254.169.253/32",
        "ip address flush dev tun0",
        "ip link set tun0 down",
        "ip route add 10.50.0.0/16 dev tun0 proto 107",
        "ip route replace 10.96.0.0/12 dev tun0 scope link",
        "sysctl -q net.ipv4.ip_forward=0",
        "sysctl -q net.ipv4.conf.all.send_redirects=1",
        "sysctl -q net.ipv4.conf.tun0.send_redirects=1",
    ):
        ovs.exec(*damage.split())
        assert await network.ensure_gateway(gateway_spec()), damage
        assert routes(ovs.netns) == wanted, damage
        assert not await network.ensure_gateway(gateway_spec()), damage
    ovs.exec("ip", "route", "add", "10.60.0.0/16", "dev", "tun0")
    assert not await network.ensure_gateway(gateway_spec()), (
        "a route of the administrator is none of our business"
    )
