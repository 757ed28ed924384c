"""Forgets connections that the bridge has tracked: `FlowTable.forget` and `FlowTable.forget_addresses`.

For `openflow`. UDP has no end that conntrack could see: a client that goes on sending keeps its translation to an endpoint
that is gone. And an address that is given to another pod must not bring its former connections. ovs-vswitchd(8),
"dpctl/flush-conntrack"; tuples of which a part is enough came with Open vSwitch 3.1.

Such a flush deletes while it goes through the connections, and passes over about half of what it should find (3.1.0,
ct_dpif_flush_tuple in lib/ct-dpif.c). So what is there is listed until none of it is left; a connection that is named in full
goes at once, without any search.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence, Set
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.dataplane import unixctl

Flush = tuple[str, str, str]
"""What selects connections: a zone, their first tuple (empty: any) and the one of their answers, for ovs-ofctl."""
Groups = dict[Flush, list[Flush]]
"""Connections that are to go, each named in full, by what selects all of a group."""
Grouping = Callable[[str, "re.Match[str]"], Flush | None]
"""From a zone and a connection as it is listed to what selects it; None if it shall stay."""

MOST_LISTED = 200_000
"""Connections: a list of more (130 octets each) would cost more memory than an agent should take."""
FEW = 100
"""Connections of a group that are deleted one by one: 0.1 ms each, and nothing but them is looked at."""
PASSES = 16
"""Lists at most, each about half as long as the one before. What is there even then was begun meanwhile: a client that sends
without end must not keep anybody waiting."""
BLIND_PASSES = 10
USERSPACE = "netdev@ovs-netdev"
"""The userspace datapath, where there is another one."""
_PROTOCOLS = {"udp": 17, "tcp": 6, "sctp": 132}
_TUPLE = r"\(src=([0-9.]+),dst=([0-9.]+),sport=(\d+),dport=(\d+)\)"
_CONNECTION = re.compile(rf"^(udp|tcp|sctp),orig={_TUPLE},reply={_TUPLE}", re.MULTILINE)


def flushes(endpoints: Iterable[tuple[IPv4Address, int, int]], zones: Iterable[int]) -> list[Flush]:
    """The connections, in each of `zones`, whose answers come from one of these (address, IP protocol, port)."""
    tuples = [_answers(address, protocol, port) for address, protocol, port in endpoints]
    return [(f"zone={zone}", "", answers) for zone in zones for answers in tuples]


def address_flushes(addresses: Iterable[IPv4Address], zones: Iterable[int]) -> list[Flush]:
    """The connections, in each of `zones`, that one of `addresses` began or answers."""
    sources = [f"ct_nw_src={address}" for address in addresses]
    return [
        (f"zone={zone}", *tuples)
        for zone in zones
        for source in sources
        for tuples in ((source, ""), ("", source))
    ]


def answering(wanted: Set[Flush]) -> Grouping:
    """Groups connections by who answers, as `flushes` has it."""

    def group(zone: str, found: "re.Match[str]") -> Flush | None:
        words = (zone, "", _answers(found[6], _PROTOCOLS[found[1]], found[8]))
        return words if words in wanted else None

    return group


def touching(addresses: Set[IPv4Address]) -> Grouping:
    """Groups connections by which of these began it or answers, as `address_flushes` has it."""
    names = {str(address) for address in addresses}

    def group(zone: str, found: "re.Match[str]") -> Flush | None:
        if found[2] in names:
            return zone, f"ct_nw_src={found[2]}", ""
        return (zone, "", f"ct_nw_src={found[6]}") if found[6] in names else None

    return group


def _answers(address: IPv4Address | str, protocol: int, port: int | str) -> str:
    return f"ct_nw_src={address},ct_nw_proto={protocol},ct_tp_src={port}"


def _grouped(zone: str, printed: str, grouping: Grouping) -> Groups:
    """What `dpctl/dump-conntrack` has printed of a zone, as far as it is to go."""
    groups: Groups = {}
    for found in _CONNECTION.finditer(printed):
        words = grouping(zone, found)
        if words is not None:
            full = (
                f"ct_nw_src={found[2]},ct_nw_dst={found[3]},ct_nw_proto={_PROTOCOLS[found[1]]},"
                f"ct_tp_src={found[4]},ct_tp_dst={found[5]}"
            )
            groups.setdefault(words, []).append((zone, full, ""))
    return groups


async def flush(
    rundir: Path, wanted: Sequence[Flush], grouping: Grouping, deadline: float, *, kernel: bool
) -> list[Flush]:
    """Forget these connections. What ovs-vswitchd refuses to flush, although it should be.

    It does if there are datapaths of two types: release 3.1 understands no name of a datapath beside a tuple. `grouping` finds
    what is `wanted` in a list. `kernel`: also where the kernel forwards, which has connections of everybody's. `rundir` holds
    the control socket. Raises OpenFlowError if it does not answer.

    ovs-vswitchd goes through all connections for each of `wanted` (7 ms for 10,000), and does nothing else meanwhile; a
    list of them costs 60 ms. So it is listed what there is, and only that is flushed.
    """
    what = f"forgetting the connections of {len(wanted)} endpoints and zones"
    zones = sorted({zone for zone, _, _ in wanted})
    async with unixctl.connect(rundir, deadline, what) as control:
        count, name = await _count(control)
        if count is None:
            return await _flush_blindly(control, wanted if kernel else (), 1)
        if count > MOST_LISTED:
            return await _flush_blindly(control, wanted, BLIND_PASSES)
        for _ in range(PASSES):
            groups: Groups = {}
            for zone in zones:
                listed = await control.call("dpctl/dump-conntrack", *name, zone)
                if listed.refused:
                    return list(wanted)
                groups |= await asyncio.to_thread(_grouped, zone, listed.text, grouping)
            refused = [words for group in groups.items() for words in await _flush_group(control, *group)]
            if refused or not groups:
                return refused
    return []


async def _count(control: unixctl.Control) -> tuple[int | None, Sequence[str]]:
    """How many connections the userspace datapath has (None: there is none), and the name that it has to be called by."""
    names: tuple[Sequence[str], ...] = ((), (USERSPACE,))
    for name in names:
        count = await control.call("dpctl/ct-get-nconns", *name)
        if not count.refused and count.text.strip().isdecimal():
            return int(count.text), name
    return None, ()


async def _flush_group(control: unixctl.Control, words: Flush, connections: list[Flush]) -> list[Flush]:
    """Flush some of these connections, or all; what was refused."""
    if len(connections) > FEW:
        answer = await control.call("dpctl/flush-conntrack", *words)
        if not answer.refused:
            return []
    refused = []
    for each in connections:
        answer = await control.call("dpctl/flush-conntrack", *each)
        if answer.refused:
            refused.append(each)
    return refused


async def _flush_blindly(control: unixctl.Control, wanted: Sequence[Flush], passes: int) -> list[Flush]:
    """Without a list; what was refused. The kernel deletes all that it finds in one pass."""
    refused = []
    for words in wanted:
        for _ in range(passes):
            answer = await control.call("dpctl/flush-conntrack", *words)
        if answer.refused:
            refused.append(words)
    return refused
