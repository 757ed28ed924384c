"""The host's own leg in the pod network: `NetlinkHostNetwork` implements `bridge.HostNetwork` on the kernel.

For the agent at start, at each resync, and when the switch has changed (on the userspace datapath a restart of
ovs-vswitchd makes the gateway's device anew, without address and routes). It touches the gateway's interface and the
sysctl net.ipv4.ip_forward, nothing else.
"""

import asyncio
import errno
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TypeVar

from k8s_ovs.dataplane.bridge import GatewaySpec
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.rtnetlink import RTPROT_OURS, Link, LinkChange, Route, Rtnetlink
from k8s_ovs.errors import LinkError

T = TypeVar("T")

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
"""Of the network namespace of whoever opens it, not of the machine: the agent changes its own namespace only."""


class NetlinkHostNetwork:
    """See `bridge.HostNetwork`. `netns` is the file of the host's namespace; None: the process's own."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._netns = netns

    async def ensure_gateway(self, spec: GatewaySpec) -> bool:
        """See `bridge.HostNetwork`. Sets net.ipv4.ip_forward=1 too, in the namespace that the agent runs in."""
        return await self._run(lambda: _ensure_gateway(spec))

    async def underlay_mtu(self, host_ip: IPv4Address) -> int:
        """See `bridge.HostNetwork`."""
        return await self._run(lambda: _mtu_of(host_ip))

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(call_in, self._netns, function)


def _ensure_gateway(spec: GatewaySpec) -> bool:
    with Rtnetlink() as kernel:
        link = kernel.link(spec.ifname)
        if link is None:
            message = f"gateway interface {spec.ifname}: does not exist"
            raise LinkError(message, errno=errno.ENODEV, remedy="ovs-vswitchd makes it: check its log")
        steps = (_link_as, _address_as, _routes_as)
        changed = [step(kernel, link, spec) for step in steps]
    return any([*changed, _forwarding_on()])


def _link_as(kernel: Rtnetlink, link: Link, spec: GatewaySpec) -> bool:
    if link.mac == spec.mac and link.mtu == spec.mtu and link.up:
        return False
    if not link.up:
        kernel.no_ipv6_address(link)
    kernel.set_link(link, LinkChange(mac=spec.mac, mtu=spec.mtu, up=True))
    return True


def _address_as(kernel: Rtnetlink, link: Link, spec: GatewaySpec) -> bool:
    return kernel.only_address(link, IPv4Interface((spec.address, spec.subnet.prefixlen)))


def _routes_as(kernel: Rtnetlink, link: Link, spec: GatewaySpec) -> bool:
    """The routes to pods and Services. Those of ours that an older configuration has left behind go."""
    networks = {spec.network, spec.service_network} - {spec.subnet}
    wanted = {Route(network, source=spec.address) for network in networks}
    present = set(kernel.routes(link))
    stale = [route for route in present - wanted if route.protocol == RTPROT_OURS]
    missing = wanted - present
    for route in stale:
        if route.to not in networks:
            kernel.delete_route(link, route)
    for route in missing:
        kernel.put_route(link, route)
    return bool(stale or missing)


def _forwarding_on() -> bool:
    if IP_FORWARD.read_text() == "1\n":
        return False
    try:
        IP_FORWARD.write_text("1")
    except OSError as error:
        message = f"sysctl net.ipv4.ip_forward=1: {error.strerror}"
        raise LinkError(
            message, errno=error.errno or 0, remedy="set it on the host, or run privileged"
        ) from error
    return True


def _mtu_of(host_ip: IPv4Address) -> int:
    with Rtnetlink() as kernel:
        holders = {index for index, address in kernel.addresses() if address.ip == host_ip}
        mtus = [link.mtu for link in kernel.links() if link.index in holders]
    if not mtus:
        message = f"address {host_ip}: no interface of this host has it"
        raise LinkError(message, errno=errno.EADDRNOTAVAIL, remedy="set --node-ip to an address of this host")
    return min(mtus)
