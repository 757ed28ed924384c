"""The bridge's flows, groups and meters: `OfctlFlowTable` implements `bridge.FlowTable`.

For the task that owns the bridge. Every change is one atomic bundle (OpenFlow 1.5.1, 6.9) through ovs-ofctl: the switch
takes all of it or nothing, and no packet meets half of it. OpenFlow has no bundle for meters; they come before it and go
after it. It computes no flows. See ovs-ofctl(8).
"""

import logging
from collections.abc import Awaitable, Iterable, Sequence, Set
from ipaddress import IPv4Address
from pathlib import Path

from k8s_ovs.dataplane import openflow_wire, process
from k8s_ovs.dataplane.bridge import FlowStats, SyncResult
from k8s_ovs.dataplane.openflow_compare import LEARNED, CookieMask, Repair, Wanted
from k8s_ovs.dataplane.openflow_conntrack import (
    Flush,
    Grouping,
    address_flushes,
    answering,
    flush,
    flushes,
    touching,
)
from k8s_ovs.dataplane.openflow_settle import settle
from k8s_ovs.dataplane.openflow_text import bundle_lines, explain, learned_about, parse_flow, parse_groups
from k8s_ovs.dataplane.openflow_wire import REMEDY
from k8s_ovs.errors import OpenFlowError
from k8s_ovs.flows.diff import Item, Mod, Op
from k8s_ovs.flows.fields import CT_ZONES
from k8s_ovs.flows.group import Meter, MeterId
from k8s_ovs.flows.tables import AFFINITY

DEADLINE = 30.0
"""Seconds for one operation: 100,000 flows take about 2."""
PROGRAM = ("ovs-ofctl", "-O", "OpenFlow15", "--no-names")

_log = logging.getLogger(__name__)


class OfctlFlowTable:
    """See `bridge.FlowTable`. `target` is the bridge's management socket, as in `unix:/run/openvswitch/br0.mgmt`.

    Beside it lies the control socket of ovs-vswitchd, which `settle` and `forget` use. Flows whose cookie fits `kept`
    are the switch's own.
    """

    def __init__(self, target: str, *, deadline: float = DEADLINE, kept: CookieMask = LEARNED) -> None:
        self._target = target
        self._socket = Path(target.removeprefix("unix:"))
        self._deadline = deadline
        self._kept = kept
        self._bundle = process.Standby((*PROGRAM, "bundle", target, "-"))

    async def stand_by(self) -> None:
        """Until cancelled, keep an ovs-ofctl ready for the next bundle, which then need not wait for its start."""
        await self._bundle.keep()

    async def commit(self, mods: Sequence[Mod]) -> None:
        """See `bridge.FlowTable`. `mods` are in order (`flows.diff.in_order`); no mods, no bundle."""
        meters = [(mod.op, mod.item) for mod in mods if isinstance(mod.item, Meter)]
        await self._send(
            [meter for op, meter in meters if op is Op.ADD],
            bundle_lines(mods),
            [meter.id for op, meter in meters if op is Op.DELETE],
        )

    async def replace(self, items: Iterable[Item]) -> SyncResult:
        """See `bridge.FlowTable`. What is as it should be is not sent, and keeps its counters.

        ovs-ofctl compares the flows, since it alone knows all spellings of a flow; most often nothing differs.
        """
        wanted = Wanted.of(items)
        what = f"full synchronisation of {len(wanted.flows)} flows"
        # By default the switch shows every fragment with port 0, the first one too, and matches on ports would be blind
        # to fragmented datagrams (ovs-fields(7), "IP fragments"). The mode is lost when ovs-vswitchd restarts.
        await self._run("set-frags", ["nx-match"], what="fragment mode")
        groups = await self._run("dump-groups", what="dump of the groups")
        meters = await self._run("dump-meters", what="dump of the meters")
        flows = await self._run("diff-flows", ["/dev/stdin"], wanted.flows, what, fine=(0, 2))
        repair = Repair.of(wanted, flows, groups, meters, self._kept)
        await self._send(repair.meters, repair.lines, repair.stale_meters)
        return repair.result

    async def settle(self) -> None:
        """See `bridge.FlowTable`."""
        await settle(self._socket, self._deadline)

    async def forget(self, endpoints: Iterable[tuple[IPv4Address, int, int]]) -> None:
        """See `bridge.FlowTable`. In every conntrack zone of ours."""
        wanted = flushes(endpoints, CT_ZONES.values())
        await self._forget(wanted, answering(frozenset(wanted)), kernel=True)

    async def forget_addresses(self, addresses: Set[IPv4Address]) -> None:
        """See `bridge.FlowTable`. In every conntrack zone of ours, and what session affinity has learned."""
        if not addresses:
            return
        wanted = address_flushes(addresses, CT_ZONES.values())
        await self._forget(wanted, touching(addresses), kernel=False)
        cookie, mask = self._kept
        selected = [f"cookie={cookie:#x}/{mask:#x},table={AFFINITY.number}"]
        printed = await self._run("dump-flows", selected, what="dump of what session affinity has learned")
        if lines := learned_about(addresses, printed):
            what = f"forgetting {len(lines)} flows that session affinity has learned"
            await self._run("bundle", ["-"], lines, what)

    async def _forget(self, wanted: Sequence[Flush], grouping: Grouping, *, kernel: bool) -> None:
        if not wanted:
            return
        refused = await flush(self._socket.parent, wanted, grouping, self._deadline, kernel=kernel)
        # ovs-ofctl needs a process for each, but says through the bridge which datapath is meant.
        for words in refused:
            await self._run("ct-flush", words, what=f"forgetting the connections {' '.join(words)}")

    async def dump(self, cookie: int = 0, mask: int = 0) -> list[FlowStats]:
        """See `bridge.FlowTable`. The switch does the selecting."""
        selected = [f"cookie={cookie:#x}/{mask:#x}"]
        printed = await self._run("dump-flows", selected, what="dump of the flows")
        return [parse_flow(line) for line in printed.splitlines() if " actions=" in line]

    async def dump_groups(self) -> dict[int, str]:
        """See `bridge.FlowTable`."""
        return parse_groups(await self._run("dump-groups", what="dump of the groups"))

    async def _send(self, meters: list[Meter], lines: list[str], stale: list[MeterId]) -> None:
        """Make or change `meters`, send `lines` as one bundle, then delete the `stale` meters."""
        if meters:
            what = f"making {len(meters)} meters"
            async with openflow_wire.connect(self._socket, self._deadline, what) as session:
                await session.add_meters(meters)
        if lines:
            what = f"bundle of {len(lines)} changes"
            await self._judged(self._bundle.run(_text(lines), self._deadline), lines, what)
        if stale:
            what = f"deleting {len(stale)} meters"
            async with openflow_wire.connect(self._socket, self._deadline, what) as session:
                await session.delete_meters(stale)

    async def _run(
        self,
        command: str,
        arguments: Sequence[str] = (),
        lines: Sequence[str] = (),
        what: str = "",
        fine: Sequence[int] = (0,),
    ) -> str:
        """Run ovs-ofctl with `lines` as its input; its output, if its exit status is one of `fine`."""
        argv = (*PROGRAM, command, self._target, *arguments)
        return await self._judged(process.run(argv, _text(lines), self._deadline), lines, what, fine)

    async def _judged(
        self,
        running: Awaitable[process.Finished],
        lines: Sequence[str],
        what: str,
        fine: Sequence[int] = (0,),
    ) -> str:
        """The output of an ovs-ofctl that had `lines` as its input, if its exit status is one of `fine`."""
        try:
            done = await running
        except TimeoutError:
            message = f"{what}: no answer from {self._target} within {self._deadline:g} s"
            raise OpenFlowError(message, remedy=REMEDY) from None
        except OSError as error:
            remedy = "install the package openvswitch-switch (or openvswitch-common)"
            raise OpenFlowError(f"{what}: {PROGRAM[0]}: {error.strerror}", remedy=remedy) from error
        if done.status not in fine:
            reason = explain(done.stderr, lines)
            remedy = REMEDY if reason.startswith(("connecting to", "talking to")) else ""
            raise OpenFlowError(f"{what} on {self._target}: {reason}", remedy=remedy)
        if done.stderr:
            # ovs-ofctl took the flows, but read them in another way than they are written.
            _log.warning("%s: ovs-ofctl says: %s", what, done.stderr.strip())
        return done.stdout


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
