"""What the kernel's conntrack knows of an address is forgotten with it; of others, and in others' zones, it is not."""

import socket
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.private_ovs import netns_path, run
from k8s_ovs.dataplane import ctnetlink
from k8s_ovs.dataplane.hostnet import NetlinkHostNetwork
from k8s_ovs.dataplane.netns import call_in
from k8s_ovs.errors import LinkError

POD, TRANSLATED, OTHER = "127.0.0.2", "127.0.0.22", "127.0.0.3"
OUTSIDE = "127.0.1.1"
FOREIGN = "127.0.0.7"
"""Its connections are tracked in a zone that is not ours."""
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


@pytest.fixture
def tracking(host: str) -> str:
    """A namespace that tracks, masquerades what POD sends, and has zones: 1 (ours) and 77 (somebody else's)."""
    for rule in (
        f"-t nat -A POSTROUTING -s {POD} -d {OUTSIDE} -j SNAT --to-source 127.0.9.9",
        f"-t nat -A OUTPUT -d {TRANSLATED} -j DNAT --to-destination {POD}",
        f"-t raw -A OUTPUT -s {POD} -p udp --dport 5001 -j CT --zone 1",
        f"-t raw -A OUTPUT -s {FOREIGN} -j CT --zone 77",
    ):
        run("ip", "netns", "exec", host, "iptables", "-w", "5", *rule.split())
    return host


def send(netns: str, *pairs: tuple[str, str, int]) -> None:
    """A datagram from each source to each target's port."""

    def inside() -> None:
        for source, target, port in pairs:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((source, 0))
                sender.sendto(b"x", (target, port))

    call_in(netns_path(netns), inside)


def count(netns: str) -> int:
    return call_in(netns_path(netns), lambda: int(COUNT.read_text()))


PAIRS = [
    (POD, OUTSIDE, 9),
    (POD, OUTSIDE, 5001),
    (OTHER, POD, 9),
    (OTHER, TRANSLATED, 9),
    (OTHER, OUTSIDE, 9),
    (FOREIGN, POD, 9),
]


@pytest.mark.parametrize("more", [0, 1020])
async def test_an_address_keeps_no_connection_of_ours(tracking: str, more: int) -> None:
    send(tracking, *PAIRS)
    assert count(tracking) == len(PAIRS)
    kernel = NetlinkHostNetwork(netns=netns_path(tracking))
    unused = {IPv4Address("192.0.2.0") + number for number in range(1 + more)}
    assert await kernel.forget_addresses(unused) == 0
    assert await kernel.forget_addresses({IPv4Address(POD), *unused}) == 4
    assert count(tracking) == 2
    assert await kernel.forget_addresses({IPv4Address(POD)}) == 0
    assert await kernel.forget_addresses(set()) == 0


async def test_more_than_one_answer_of_the_kernel(tracking: str) -> None:
    with ExitStack() as stack:
        made = call_in(
            netns_path(tracking),
            lambda: [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(500)
            ],
        )
        for number, sender in enumerate(made):
            sender.bind((POD if number % 2 else OTHER, 0))
            sender.sendto(b"x", (OUTSIDE, 9))
    assert count(tracking) == 500
    kernel = NetlinkHostNetwork(netns=netns_path(tracking))
    assert await kernel.forget_addresses({IPv4Address(POD)}) == 250
    assert count(tracking) == 250


def test_a_kernel_that_cannot_tell_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctnetlink, "NETLINK_NETFILTER", 31)  # no protocol of the kernel's
    with pytest.raises(LinkError, match="load the kernel module nf_conntrack_netlink"):
        ctnetlink.forget({IPv4Address(POD)}, {0})
