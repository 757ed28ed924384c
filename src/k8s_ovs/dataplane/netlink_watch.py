"""Hears of the kernel when something about an interface changes: rtnetlink(7), multicast groups.

For `hostnet`. It says that something may have changed, never what: whoever listens looks for himself. It changes nothing.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable

from k8s_ovs.dataplane import netlink as nl
from k8s_ovs.dataplane import rtnetlink as rt
from k8s_ovs.dataplane.netns import call_in

GROUPS = 0x1 | 0x10 | 0x40
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV4_ROUTE (linux/rtnetlink.h)."""

_log = logging.getLogger(__name__)


async def watch_interface(ifname: str, *, netns: str | None = None) -> AsyncGenerator[None, None]:
    """Yield whenever the link, an IPv4 address or a route of `ifname` may have changed in the namespace `netns`.

    Several changes before it is asked for again are one. The kernel drops messages for a reader that is too slow, and
    says so (ENOBUFS): then everything may have changed. Raises LinkError if there is no such namespace.
    """
    messages, index = await asyncio.to_thread(call_in, netns, lambda: _listen(ifname))
    with messages:
        news = asyncio.Event()
        heard = _Heard(ifname, index, messages, news.set)
        loop = asyncio.get_running_loop()
        loop.add_reader(messages, heard.read)
        try:
            while True:
                await news.wait()
                news.clear()
                yield
        finally:
            loop.remove_reader(messages)


def _listen(ifname: str) -> tuple[socket.socket, int | None]:
    """A socket that hears of changes from now on, and the interface's index, if it exists."""
    messages = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, nl.NETLINK_ROUTE)
    messages.setblocking(False)
    messages.bind((0, GROUPS))
    with rt.Rtnetlink() as kernel:
        link = kernel.link(ifname)
    return messages, link.index if link is not None else None


class _Heard:
    """Reads what the kernel says, and calls `tell` if it is about the interface.

    A route's message names the interface by its index only, and so does an address's; the index is another one when the
    interface is made anew, which a message about the link has told before.
    """

    def __init__(
        self, ifname: str, index: int | None, messages: socket.socket, tell: Callable[[], None]
    ) -> None:
        self._ifname = ifname
        self._index = index
        self._messages = messages
        self._tell = tell

    def read(self) -> None:
        """Everything that is there now."""
        while True:
            try:
                data = self._messages.recv(nl.RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                # ENOBUFS: more than the buffer holds has changed. Whatever it is, nobody knows what was missed.
                _log.info("changes of interfaces may have been missed: %s", error.strerror)
                self._tell()
                return
            for kind, _, _, payload in nl.messages(data):
                if self._is_about_us(kind, payload):
                    self._tell()

    def _is_about_us(self, kind: int, payload: bytes) -> bool:
        match kind:
            case rt.NEWLINK | rt.DELLINK:
                return self._link(payload)
            case rt.NEWADDR | rt.DELADDR:
                *_, index = rt.IFADDR.unpack_from(payload)
            case rt.NEWROUTE | rt.DELROUTE:
                index = nl.number(nl.attributes(payload[rt.RTMSG.size :]).get(rt.RTA_OIF, b""))
            case _:
                return False
        return bool(index == self._index)

    def _link(self, payload: bytes) -> bool:
        _, _, index, _, _ = rt.IFINFO.unpack_from(payload)
        name = nl.string(nl.attributes(payload[rt.IFINFO.size :]).get(rt.IFLA_IFNAME, b""))
        was_ours = bool(index == self._index)
        if name == self._ifname:
            self._index = index
        return was_ours or name == self._ifname
