"""The host's own leg in the pod network: `NetlinkHostNetwork` implements `bridge.HostNetwork` on the kernel.

For the agent at start, at each resync, when the switch has changed (on the userspace datapath a restart of
ovs-vswitchd makes the gateway's device anew, without address and routes), and when the kernel tells of a change. It
touches the gateway's interface and the sysctls that `_sysctls` names, nothing else.
"""

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable, Set
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TypeVar

from k8s_ovs.dataplane import ctnetlink
from k8s_ovs.dataplane.bridge import GatewaySpec
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.dataplane.netlink_watch import watch_interface
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.rtnetlink import RTPROT_OURS, Link, LinkChange, Route, Rtnetlink
from k8s_ovs.dataplane.sysctl import SETTINGS
from k8s_ovs.errors import LinkError
from k8s_ovs.flows.fields import CT_ZONES
from k8s_ovs.model.types import HAIRPIN_IP

T = TypeVar("T")

SYSCTLS = SETTINGS / "ipv4"
"""Of the network namespace of whoever opens them, not of the machine: the agent changes its own namespace only."""
HOST_ZONE = 0
"""The conntrack zone of what the host itself tracks."""


class NetlinkHostNetwork:
    """See `bridge.HostNetwork`. `netns` is the file of the host's namespace; None: the process's own."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._netns = netns

    async def ensure_gateway(self, spec: GatewaySpec) -> tuple[Finding, ...]:
        """See `bridge.HostNetwork`. Sets the sysctls too, in the namespace that the agent runs in."""
        return await self._run(lambda: _ensure_gateway(spec))

    def changes(self, ifname: str) -> AsyncGenerator[None, None]:
        """See `bridge.HostNetwork`. The kernel tells (rtnetlink(7), multicast groups)."""
        return watch_interface(ifname, netns=self._netns)

    async def underlay_mtu(self, host_ip: IPv4Address) -> int:
        """See `bridge.HostNetwork`."""
        return await self._run(lambda: _mtu_of(host_ip))

    async def forget_addresses(self, addresses: Set[IPv4Address]) -> int:
        """See `bridge.HostNetwork`. In the host's own zone and in those of the bridge."""
        zones = {HOST_ZONE, *CT_ZONES.values()}
        return await self._run(lambda: ctnetlink.forget(addresses, zones))

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(call_in, self._netns, function)


def _ensure_gateway(spec: GatewaySpec) -> tuple[Finding, ...]:
    with Rtnetlink() as kernel:
        link = kernel.link(spec.ifname)
        if link is None:
            message = f"gateway interface {spec.ifname}: does not exist"
            raise LinkError(message, errno=errno.ENODEV, remedy="ovs-vswitchd makes it: check its log")
        return (
            *found(Kind.LINK, _link_as(kernel, link, spec)),
            *found(Kind.ADDRESS, _address_as(kernel, link, spec)),
            *found(Kind.ROUTE, _routes_as(kernel, link, spec)),
            *found(Kind.SYSCTL, _sysctls(spec)),
        )


def _link_as(kernel: Rtnetlink, link: Link, spec: GatewaySpec) -> list[str]:
    faults = [] if link.up else [f"{spec.ifname}: was down"]
    faults += [] if link.mac == spec.mac else [f"{spec.ifname}: MAC was {link.mac}, not {spec.mac}"]
    faults += [] if link.mtu == spec.mtu else [f"{spec.ifname}: MTU was {link.mtu}, not {spec.mtu}"]
    if faults and not link.up:
        kernel.no_ipv6_address(link)
    if faults:
        kernel.set_link(link, LinkChange(mac=spec.mac, mtu=spec.mtu, up=True))
    return faults


def _address_as(kernel: Rtnetlink, link: Link, spec: GatewaySpec) -> list[str]:
    wanted = IPv4Interface((spec.address, spec.subnet.prefixlen))
    held = [address for _, address in kernel.addresses(link)]
    if not kernel.only_address(link, wanted):
        return []
    strange = ", ".join(str(address) for address in held if address != wanted)
    missing = [] if wanted in held else [f"{wanted} of {spec.ifname}: was missing"]
    return [*missing, *([f"{strange} of {spec.ifname}: is not ours"] if strange else [])]


def _routes_as(kernel: Rtnetlink, link: Link, spec: GatewaySpec) -> list[str]:
    """The routes to pods, Services and HAIRPIN_IP. Those of ours that an older configuration has left behind go."""
    networks = {spec.network, spec.service_network, IPv4Network(HAIRPIN_IP)} - {spec.subnet}
    wanted = {Route(network, source=spec.address) for network in networks}
    present = set(kernel.routes(link))
    stale = [route for route in present - wanted if route.protocol == RTPROT_OURS]
    missing = wanted - present
    for route in stale:
        if route.to not in networks:
            kernel.delete_route(link, route)
    for route in missing:
        kernel.put_route(link, route)
    faults = [f"{route.to} through {spec.ifname}: was missing" for route in missing]
    return faults + [f"{route.to} through {spec.ifname}: was of another configuration" for route in stale]


def _sysctls(spec: GatewaySpec) -> list[str]:
    """Forwarding on; redirects into the pod network off.

    The kernel makes one for each packet that would leave where it came in, as those do that the firewall refuses. It
    counts them against the same limit as ICMP errors, and so would hold back the refusal itself (ip_rt_send_redirect in
    the kernel's net/ipv4/route.c; a test shows it). The setting of an interface and that of "all" are joined by "or", so
    that "all" has to be off; other interfaces keep their own.
    """
    wanted = {"ip_forward": "1"}
    wanted |= {f"conf/{name}/send_redirects": "0" for name in ("all", spec.ifname)}
    return [
        f"net.ipv4.{name.replace('/', '.')}: was not {value}"
        for name, value in wanted.items()
        if _sysctl(name, value)
    ]


def _sysctl(name: str, value: str) -> bool:
    file = SYSCTLS / name
    try:
        if file.read_text().strip() == value:
            return False
        file.write_text(value)
    except OSError as error:
        message = f"sysctl net.ipv4.{name.replace('/', '.')}={value}: {error.strerror}"
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
