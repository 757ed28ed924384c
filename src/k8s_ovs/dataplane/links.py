"""veth pairs of pods: `NetlinkPodLinks` implements `bridge.PodLinks` on the kernel.

For the agent's ADD, DEL, CHECK and garbage collection. Every call blocks in the kernel (deleting a veth takes about
18 ms), so calls run side by side in threads; none of them, and never the main thread, changes its own namespace. It
knows nothing of the bridge.
"""

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TypeVar

from k8s_ovs.dataplane.bridge import LINK_ALIAS_PREFIX, PodLink
from k8s_ovs.dataplane.findings import Finding, Kind, found
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.dataplane.rtnetlink import Link, LinkChange, Route, Rtnetlink
from k8s_ovs.dataplane.shaper import bucket_of, shape, shaped_rate
from k8s_ovs.dataplane.sysctl import SETTINGS
from k8s_ovs.errors import LinkError
from k8s_ovs.model.types import mac_of

T = TypeVar("T")

SIDE_BY_SIDE = 20
ANYWHERE = IPv4Network("0.0.0.0/0")

QUEUE, NETDEV_QUEUE = 100, 16
"""Packets that may wait in front of a pod with a limit. ovs-vswitchd's userspace datapath sends to all pods through one
packet socket: what waits for one pod (a packet counts 2.3 kB) takes room in the socket's buffer (net.core.wmem_default,
208 KiB), and with the 1,000 packets that are the kernel's default, one pod that is flooded cuts off all others."""

SIOCETHTOOL = 0x8946
ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x16, 0x17
IFNAMSIZ = 16


class NetlinkPodLinks:
    """See `bridge.PodLinks`. `netns` is the file of the namespace of the host ends; None: the process's own."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._netns = netns
        self._threads = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="links")

    async def create(self, link: PodLink) -> None:
        """See `bridge.PodLinks`. A cancelled call takes away what its thread still makes."""
        made = self._start(lambda: self._create(link))
        try:
            await asyncio.shield(made)
        except asyncio.CancelledError:
            with contextlib.suppress(LinkError):
                if await made:
                    await self.delete(link.host_ifname)
            raise

    async def shape(self, link: PodLink) -> None:
        """See `bridge.PodLinks`."""
        await self._start(lambda: self._shape(link))

    async def check(self, link: PodLink) -> None:
        """See `bridge.PodLinks`."""
        await self._start(lambda: self._check(link))

    async def delete(self, host_ifname: str) -> None:
        """See `bridge.PodLinks`."""
        await self._start(lambda: self._delete(host_ifname))

    async def vouch(self, host_ifname: str, address: IPv4Address | None) -> None:
        """See `bridge.PodLinks`. The kernel keeps it as the interface's group, for which nothing else is used."""
        await self._start(lambda: self._vouch(host_ifname, address))

    async def vouched(self) -> dict[str, IPv4Address]:
        """See `bridge.PodLinks`."""
        return await self._start(self._vouched)

    async def keep_up(self) -> tuple[Finding, ...]:
        """See `bridge.PodLinks`."""
        return await self._start(self._keep_up)

    async def leftovers(self) -> list[str]:
        """See `bridge.PodLinks`."""
        return await self._start(self._leftovers)

    def _start(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._threads, function)

    def _create(self, link: PodLink) -> bool:
        """Whether the pair is new."""
        with call_in(self._netns, Rtnetlink) as host:
            is_new = call_in(link.netns, lambda: _create_in_pod(host, link))
        call_in(self._netns, lambda: _silence_kernel(link.host_ifname))
        return is_new

    def _shape(self, link: PodLink) -> None:
        with call_in(self._netns, Rtnetlink) as host:
            _configure_host_end(host, link)
            call_in(link.netns, lambda: _shape_in_pod(link))

    def _check(self, link: PodLink) -> None:
        with call_in(self._netns, Rtnetlink) as host:
            call_in(link.netns, lambda: _check_in_pod(host, link))
        call_in(self._netns, lambda: _check_silence(link.host_ifname))

    def _delete(self, host_ifname: str) -> None:
        with call_in(self._netns, Rtnetlink) as host:
            found = host.link(host_ifname)
            if found is None:
                return
            if found.kind != "veth":
                message = (
                    f"interface {host_ifname}: is a {found.kind or 'device'}, not a pod's veth: not deleted"
                )
                raise LinkError(message, errno=errno.EINVAL)
            host.delete_link(found)

    def _vouch(self, host_ifname: str, address: IPv4Address | None) -> None:
        group = int(address) if address is not None else 0
        with call_in(self._netns, Rtnetlink) as host:
            found = host.link(host_ifname)
            if found is not None and _is_ours(found) and found.group != group:
                host.set_link(found, LinkChange(group=group))

    def _vouched(self) -> dict[str, IPv4Address]:
        with call_in(self._netns, Rtnetlink) as host:
            return {
                link.name: IPv4Address(link.group)
                for link in host.links()
                if _is_ours(link) and _is_vouched(link)
            }

    def _keep_up(self) -> tuple[Finding, ...]:
        with call_in(self._netns, Rtnetlink) as host:
            down = [link for link in host.links() if _is_ours(link) and _is_vouched(link) and not link.up]
            for link in down:
                host.set_link(link, LinkChange(up=True))
        return found(Kind.LINK, [f"{link.name}: was down" for link in down])

    def _leftovers(self) -> list[str]:
        with call_in(self._netns, Rtnetlink) as host:
            return [found.name for found in host.links() if _is_ours(found)]


def _create_in_pod(host: Rtnetlink, link: PodLink) -> bool:
    """Make and configure the pair; called in the pod's namespace. Whether it is new."""
    with Rtnetlink() as pod:
        is_new = not _present(host, pod, link)
        try:
            if is_new:
                with contextlib.closing(_Descriptor("/proc/thread-self/ns/net")) as here:
                    host.create_veth(link.host_ifname, link.ifname, here.number, link.mac, link.mtu)
            _configure_host_end(host, link)
            _configure_pod_end(pod, link)
        except (LinkError, OSError) as error:
            if is_new:
                _undo(host, link.host_ifname)
            if isinstance(error, LinkError):
                raise
            message = f"interface {link.ifname} in {link.netns}: {error}"
            raise LinkError(message, errno=error.errno or 0) from error
    return is_new


class _Descriptor:
    """An open file, for `contextlib.closing`."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.number)


def _present(host: Rtnetlink, pod: Rtnetlink, link: PodLink) -> bool:
    """Whether the pair exists. A host end of ours that leads elsewhere is deleted; a foreign interface is an error."""
    ours, theirs = host.link(link.host_ifname), pod.link(link.ifname)
    if ours is not None and theirs is not None and _are_pair(ours, theirs):
        return True
    if theirs is not None:
        message = f"{link.netns} has another interface {link.ifname} already"
        raise LinkError(message, errno=errno.EEXIST, remedy="is a second network plugin at work?")
    if ours is not None and ours.kind != "veth":
        raise LinkError(f"interface {ours.name} exists already and is no veth", errno=errno.EEXIST)
    if ours is not None:
        host.delete_link(ours)
    return False


def _are_pair(one: Link, other: Link) -> bool:
    return one.kind == other.kind == "veth" and one.peer == other.index and other.peer == one.index


def _configure_host_end(host: Rtnetlink, link: PodLink) -> None:
    end = _must(host.link(link.host_ifname), link.host_ifname)
    if not end.up:
        host.no_ipv6_address(end)
    queue = _queue_of(link)
    if (end.alias, end.mtu, end.queue, end.up) != (link.alias, link.mtu, queue, True):
        host.set_link(end, LinkChange(alias=link.alias, mtu=link.mtu, queue=queue, up=True))


def _configure_pod_end(pod: Rtnetlink, link: PodLink) -> None:
    end = _must(pod.link(link.ifname), link.ifname)
    _disable_ipv6(link.ifname)
    if not link.checksum_offload and _tx_checksum(link.ifname):
        _tx_checksum_off(link.ifname)
    if end.mac != link.mac or end.mtu != link.mtu or not end.up:
        pod.set_link(end, LinkChange(mac=link.mac, mtu=link.mtu, up=True))
    pod.only_address(end, _address(link), connected=False)
    have = set(pod.routes(end))
    for route in _routes(link):
        if route not in have:
            pod.put_route(end, route)
    # Its questions for the gateway's MAC would wait, or be lost, behind what the pod sends: a pod that floods its own
    # shaper would be cut off for seconds each time that the kernel asks again.
    pod.put_neighbour(end, link.gateway, mac_of(link.gateway))
    shape(replace(end, mtu=link.mtu), link.egress)


def _shape_in_pod(link: PodLink) -> None:
    with Rtnetlink() as pod:
        shape(_must(pod.link(link.ifname), f"{link.ifname} in {link.netns}"), link.egress)


def _queue_of(link: PodLink) -> int:
    return QUEUE if link.checksum_offload else NETDEV_QUEUE


def _check_in_pod(host: Rtnetlink, link: PodLink) -> None:
    """Raise LinkError for the first difference; called in the pod's namespace."""
    with Rtnetlink() as pod:
        ours = _must(host.link(link.host_ifname), link.host_ifname)
        theirs = _must(pod.link(link.ifname), f"{link.ifname} in {link.netns}")
        where = f"interface {link.ifname} in {link.netns}"
        facts = [
            (_are_pair(ours, theirs), f"{where}: its other end is not {link.host_ifname}"),
            (ours.alias == link.alias, f"interface {ours.name}: alias is {ours.alias!r}, not {link.alias!r}"),
            (ours.up, f"interface {ours.name}: is down"),
            (ours.mtu == link.mtu, f"interface {ours.name}: MTU is {ours.mtu}, not {link.mtu}"),
            (theirs.up, f"{where}: is down"),
            (theirs.mtu == link.mtu, f"{where}: MTU is {theirs.mtu}, not {link.mtu}"),
            (theirs.mac == link.mac, f"{where}: MAC is {theirs.mac}, not {link.mac}"),
        ]
        addresses = [found for _, found in pod.addresses(theirs)]
        said = ", ".join(str(found) for found in addresses) or "none"
        facts.append((_address(link) in addresses, f"{where}: address is {said}, not {_address(link)}"))
        have = pod.routes(theirs)
        facts += [(route in have, f"{where}: the route to {route.to} is missing") for route in _routes(link)]
        offload = link.checksum_offload or not _tx_checksum(link.ifname)
        facts.append((offload, f"{where}: transmit checksum offload is on"))
        wanted = bucket_of(link.egress, link.mtu).rate * 8 if link.egress is not None else None
        rate = shaped_rate(theirs)
        shaped = rate * 8 if rate is not None else None
        facts.append((shaped == wanted, f"{where}: shaper is {shaped}, not {wanted} (bit/s)"))
    for holds, difference in facts:
        if not holds:
            raise LinkError(difference, errno=errno.ENOENT, remedy="delete the pod, it comes back whole")


def _is_ours(link: Link) -> bool:
    return link.alias.startswith(LINK_ALIAS_PREFIX) or link.unfinished


def _is_vouched(link: Link) -> bool:
    return link.group != 0 and not link.unfinished


def _undo(host: Rtnetlink, host_ifname: str) -> None:
    with contextlib.suppress(LinkError):
        found = host.link(host_ifname)
        if found is not None:
            host.delete_link(found)


def _must(found: Link | None, name: str) -> Link:
    if found is None:
        raise LinkError(f"interface {name}: does not exist", errno=errno.ENODEV)
    return found


def _address(link: PodLink) -> IPv4Interface:
    return IPv4Interface((link.address, link.subnet.prefixlen))


def _routes(link: PodLink) -> list[Route]:
    """Everything through the gateway, other pods of this node too.

    So a pod needs one neighbour entry. The kernel's table of them (1,024 by default) is shared by all namespaces of a
    host: with an entry for each pair of pods that talk, about thirty pods overflow it. The cluster network has a route
    of its own, which stays if another network plugin takes the default route away.
    """
    to_gateway = Route(IPv4Network(link.gateway))
    return [to_gateway, *(Route(to, gateway=link.gateway) for to in (link.network, ANYWHERE))]


def _disable_ipv6(ifname: str) -> None:
    """No IPv6, and so no wait for duplicate address detection; a kernel without IPv6 has no such file."""
    setting = SETTINGS / f"ipv6/conf/{ifname}/disable_ipv6"
    with contextlib.suppress(FileNotFoundError):
        if setting.read_text() != "1\n":
            setting.write_text("1")


_SILENCE = {"ipv4/conf/{}/arp_ignore": "8", "ipv6/conf/{}/disable_ipv6": "1"}
"""The userspace datapath leaves the kernel a copy of each packet. It must neither answer ARP (8: for no address at all) nor
take IPv6, past the bridge (Linux, Documentation/networking/ip-sysctl.rst). Of IPv4, the firewall drops the copies."""


def _silence_kernel(ifname: str) -> None:
    for name, value in _SILENCE.items():
        # A kernel without IPv6 has no such file.
        with contextlib.suppress(FileNotFoundError):
            (SETTINGS / name.format(ifname)).write_text(value)


def _check_silence(ifname: str) -> None:
    for name, value in _SILENCE.items():
        with contextlib.suppress(FileNotFoundError):
            found = (SETTINGS / name.format(ifname)).read_text().strip()
            if found != value:
                setting = f"net.{name.format(ifname).replace('/', '.')}"
                raise LinkError(
                    f"sysctl {setting} is {found}, not {value}", remedy=f"sysctl -w {setting}={value}"
                )


def _tx_checksum(ifname: str) -> bool:
    return bool(_ethtool(ifname, ETHTOOL_GTXCSUM, 0))


def _tx_checksum_off(ifname: str) -> None:
    _ethtool(ifname, ETHTOOL_STXCSUM, 0)


def _ethtool(ifname: str, command: int, value: int) -> int:
    """SIOCETHTOOL with a struct ethtool_value (linux/ethtool.h); the value afterwards."""
    data = array.array("B", struct.pack("=II", command, value))
    pointer, _ = data.buffer_info()
    request = struct.pack(f"={IFNAMSIZ}sQ16x", ifname.encode(), pointer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        fcntl.ioctl(control.fileno(), SIOCETHTOOL, request)
    result: int = struct.unpack("=II", data.tobytes())[1]
    return result
