"""Forgets translated connections: `FlowTable.forget`.

For `openflow`. UDP has no end that conntrack could see: a client that goes on sending keeps its translation to an endpoint
that is gone. ovs-vswitchd(8), "dpctl/flush-conntrack"; tuples of which a part is enough came with Open vSwitch 3.1.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.dataplane import unixctl

Flush = tuple[str, str, str]
"""What selects connections: a zone, their first tuple (empty: any) and the one of their answers, for ovs-ofctl."""


def flushes(endpoints: Iterable[tuple[IPv4Address, int, int]], zones: Iterable[int]) -> list[Flush]:
    """The connections, in each of `zones`, whose answers come from one of these (address, IP protocol, port)."""
    tuples = [
        f"ct_nw_src={address},ct_nw_proto={protocol},ct_tp_src={port}"
        for address, protocol, port in endpoints
    ]
    return [(f"zone={zone}", "", answers) for zone in zones for answers in tuples]


async def flush(rundir: Path, wanted: Sequence[Flush], deadline: float) -> str:
    """Forget these connections. The reason if ovs-vswitchd refuses, else "".

    It does if there are datapaths of two types: release 3.1 understands no name of a datapath beside a tuple.
    `rundir` holds its control socket. Raises OpenFlowError if it does not answer.
    """
    what = f"forgetting the connections of {len(wanted)} endpoints and zones"
    async with unixctl.connect(rundir, deadline, what) as control:
        for words in wanted:
            answer = await control.call("dpctl/flush-conntrack", *words)
            if answer.refused:
                return answer.text
    return ""
