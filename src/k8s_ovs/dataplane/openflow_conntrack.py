"""Forgets translated connections: `FlowTable.forget`.

For `openflow`. UDP has no end that conntrack could see: a client that goes on sending keeps its translation to an endpoint
that is gone. ovs-vswitchd(8), "dpctl/flush-conntrack"; tuples of which a part is enough came with Open vSwitch 3.1.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.dataplane import unixctl

Flush = tuple[str, str, str]
"""What selects connections: a zone, their first tuple (empty: any) and the one of their answers, for ovs-ofctl."""

MOST_LISTED = 200_000
"""Connections: a list of more (130 octets each) would cost more memory than an agent should take."""
_PROTOCOLS = {"udp": 17, "tcp": 6, "sctp": 132}
_CONNECTION = re.compile(
    r"^(udp|tcp|sctp),orig=\([^)]*\),reply=\(src=([0-9.]+),dst=[0-9.]+,sport=(\d+)", re.MULTILINE
)


def flushes(endpoints: Iterable[tuple[IPv4Address, int, int]], zones: Iterable[int]) -> list[Flush]:
    """The connections, in each of `zones`, whose answers come from one of these (address, IP protocol, port)."""
    tuples = [_answers(address, protocol, port) for address, protocol, port in endpoints]
    return [(f"zone={zone}", "", answers) for zone in zones for answers in tuples]


def _answers(address: IPv4Address | str, protocol: int, port: int | str) -> str:
    return f"ct_nw_src={address},ct_nw_proto={protocol},ct_tp_src={port}"


def _answering(zone: str, printed: str) -> set[Flush]:
    """Who answers in the connections that `dpctl/dump-conntrack` has printed, as `flushes` has it."""
    return {
        (zone, "", _answers(address, _PROTOCOLS[name], port))
        for name, address, port in _CONNECTION.findall(printed)
    }


async def _are_few(control: unixctl.Control) -> bool:
    """Whether all connections may be listed. Only the userspace datapath tells their number at once."""
    count = await control.call("dpctl/ct-get-nconns")
    return not count.refused and count.text.strip().isdecimal() and int(count.text) <= MOST_LISTED


async def flush(rundir: Path, wanted: Sequence[Flush], deadline: float) -> str:
    """Forget these connections. The reason if ovs-vswitchd refuses, else "".

    It does if there are datapaths of two types: release 3.1 understands no name of a datapath beside a tuple.
    `rundir` holds its control socket. Raises OpenFlowError if it does not answer.

    ovs-vswitchd goes through all connections for each (0.2 s for 80,000), and does nothing else meanwhile. So it is asked
    once what there is, where that is less than to try them all and the list is not too long.
    """
    what = f"forgetting the connections of {len(wanted)} endpoints and zones"
    async with unixctl.connect(rundir, deadline, what) as control:
        zones = sorted({zone for zone, _, _ in wanted})
        if len(wanted) > 2 * len(zones) and await _are_few(control):
            there: set[Flush] = set()
            for zone in zones:
                found = await control.call("dpctl/dump-conntrack", zone)
                if found.refused:
                    return found.text
                there |= await asyncio.to_thread(_answering, zone, found.text)
            wanted = [words for words in wanted if words in there]
        for words in wanted:
            answer = await control.call("dpctl/flush-conntrack", *words)
            if answer.refused:
                return answer.text
    return ""
