"""What `bridge.HostNetwork` and `bridge.Firewall` promise, held by the fakes and by kernel and iptables."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from fakes.dataplane import FakeFirewall, FakeHostNetwork
from fakes.dataplane_examples import FIREWALL, gateway_spec
from fakes.private_ovs import netns_path, run
from k8s_ovs.dataplane.bridge import Firewall, HostNetwork
from k8s_ovs.dataplane.findings import Kind
from k8s_ovs.dataplane.firewall import IptablesFirewall
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.errors import LinkError

UNDERLAY = IPv4Address("192.0.2.7")


@pytest.fixture
def network(kind: str, host: str) -> HostNetwork:
    if kind == "fake":
        return FakeHostNetwork({UNDERLAY: 9000})
    run("ip", "-n", host, "link", "add", "tun0", "type", "veth", "peer", "name", "uplink")
    run("ip", "-n", host, "link", "set", "uplink", "mtu", "9000", "up")
    run("ip", "-n", host, "address", "add", f"{UNDERLAY}/24", "dev", "uplink")
    return NetlinkHostNetwork(netns=netns_path(host))


@pytest.fixture
def firewall(kind: str, host: str) -> Firewall:
    return FakeFirewall() if kind == "fake" else IptablesFirewall(netns=netns_path(host))


async def test_the_gateway_is_made_once(network: HostNetwork) -> None:
    assert await network.ensure_gateway(gateway_spec())
    assert not await network.ensure_gateway(gateway_spec())


async def test_the_gateway_follows_its_settings(network: HostNetwork) -> None:
    await network.ensure_gateway(gateway_spec())
    other = replace(gateway_spec(), network=IPv4Network("172.11.0.0/17"))
    for spec in (gateway_spec(1400), other):
        assert await network.ensure_gateway(spec)
        assert not await network.ensure_gateway(spec)


async def test_a_single_host_may_own_the_whole_network(network: HostNetwork) -> None:
    spec = replace(gateway_spec(), network=gateway_spec().subnet)
    assert await network.ensure_gateway(spec)
    assert not await network.ensure_gateway(spec)


async def test_no_gateway_interface(network: HostNetwork) -> None:
    with pytest.raises(LinkError, match="gone0: does not exist") as caught:
        await network.ensure_gateway(replace(gateway_spec(), ifname="gone0"))
    assert caught.value.errno == errno.ENODEV


async def test_the_mtu_of_the_underlay(network: HostNetwork) -> None:
    assert await network.underlay_mtu(UNDERLAY) == 9000
    with pytest.raises(LinkError, match=r"192\.0\.2\.8"):
        await network.underlay_mtu(UNDERLAY + 1)


async def test_what_was_put_right_is_named_and_the_kernel_tells_of_it(
    network: HostNetwork, request: pytest.FixtureRequest
) -> None:
    spec = gateway_spec()
    assert {finding.kind for finding in await network.ensure_gateway(spec)} >= {Kind.ADDRESS}
    changes = network.changes("tun0")
    heard = asyncio.ensure_future(anext(changes))
    while not heard.done():  # the real one listens when its thread has opened the socket
        if isinstance(network, FakeHostNetwork):
            network.lose_address()
        else:
            run("ip", "-n", request.getfixturevalue("host"), "address", "flush", "dev", "tun0")
        await asyncio.wait({heard}, timeout=0.05)
        (finding, *_) = await network.ensure_gateway(spec)
        assert finding.kind is Kind.ADDRESS
        assert f"{spec.address}" in str(finding)
    await changes.aclose()


async def test_what_was_put_right_of_the_rules_is_named(firewall: Firewall) -> None:
    await firewall.ensure(FIREWALL)
    (finding,) = await firewall.ensure(replace(FIREWALL, network=IPv4Network("10.0.0.0/8")))
    assert finding.kind is Kind.FIREWALL
    assert "chain K8S-OVS-" in str(finding)


async def test_the_rules_are_made_once(firewall: Firewall) -> None:
    await firewall.remove()
    assert await firewall.ensure(FIREWALL)
    assert not await firewall.ensure(FIREWALL)
    for other in (
        replace(FIREWALL, network=IPv4Network("10.0.0.0/8")),
        replace(FIREWALL, service_network=IPv4Network("10.200.0.0/16")),
    ):
        assert await firewall.ensure(other)
        assert not await firewall.ensure(other)
    await firewall.remove()
    await firewall.remove()
    assert await firewall.ensure(FIREWALL)
