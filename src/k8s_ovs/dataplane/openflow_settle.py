"""Waits until the datapath has forgotten what the tables were: `FlowTable.settle`.

For `openflow`. A commit is confirmed when the tables are changed. Packets that match a cached datapath flow still go where
the former tables sent them, until a revalidator has looked at that flow again. What ovs-vswitchd does, as its source says
(ofproto/ofproto-dpif.c `type_run`, ofproto-dpif-upcall.c `udpif_revalidator`, connmgr.c `connmgr_run`; 2.17 to 3.7):

    main loop, over and over:   a. answer `revalidator/wait` if a round of revalidation has ended since it was asked
                                b. tables changed: tell the revalidators, whose next round then sees the new ones
                                c. OpenFlow messages, then new OpenFlow connections, then unixctl requests
    revalidators:               rounds over all datapath flows, at least 5 ms apart; a round goes by what it was told when
                                it began; without news the next one comes after half a second

A commit in one turn is told to the revalidators in step b of the next. So:

1. The first message of a connection made after the commit is handled in a later turn than the commit: connections are
   accepted after messages are handled. Its answer proves that the revalidators have been told.
2. `revalidator/wait`, first time: the round that ends may have begun before they were told.
3. `revalidator/wait`, second time: the round that ends has begun after the former one ended. It has seen the new tables.

Each wait is sent before a modification that modifies nothing (`Session.touch`), which makes a round begin after it. Should
the round end between the steps a and c of one turn, then the main loop goes to sleep without having answered, for up to
half a second (seen in 7 of 100 waits on an idle switch): so it is woken every few milliseconds.
What remains: a packet that the datapath had handed to a handler thread before the commit, and which that thread has held
during all this. (In the userspace datapath without PMD threads no such thread exists.)
"""

import asyncio
import logging
from pathlib import Path

from k8s_ovs.dataplane import openflow_wire, unixctl
from k8s_ovs.dataplane.openflow_wire import Session
from k8s_ovs.dataplane.unixctl import Answer, Control
from k8s_ovs.errors import OpenFlowError

WHAT = "waiting until the datapath follows the flows"
ROUNDS = 2
WAKE = 0.005
"""Seconds between two messages that wake ovs-vswitchd's main loop."""
PURGES = 3

_log = logging.getLogger(__name__)


async def settle(management: Path, deadline: float) -> None:
    """Return once no packet is handled by what the bridge held before the last commit. Raises OpenFlowError.

    `management` is the bridge's management socket; the control socket is in the same folder.
    """
    async with (
        openflow_wire.connect(management, deadline, WHAT) as session,
        unixctl.connect(management.parent, deadline, WHAT) as control,
    ):
        await session.send()
        for _ in range(ROUNDS):
            answer = await _round(session, control)
            if answer.refused:
                await _purge(session, control, answer.text)
                return


async def _round(session: Session, control: Control) -> Answer:
    await control.send("revalidator/wait")
    await session.touch()
    while True:
        try:
            async with asyncio.timeout(WAKE):
                return await control.answer()
        except TimeoutError:
            await session.send()


async def _purge(session: Session, control: Control, reason: str) -> None:
    """Without `revalidator/wait` (there are datapaths of two types, say): forget every datapath flow.

    Each packet then meets the tables again, at the cost of an upcall per connection. A purge passes over a flow that a
    revalidator holds in this very moment, so it is done until none can have been held each time.
    """
    _log.info("%s: all its flows are purged, because it says: %s", WHAT, reason)
    for _ in range(PURGES):
        await session.touch()
        answer = await control.call("revalidator/purge")
        if answer.refused:
            raise OpenFlowError(
                f"{WHAT}: ovs-vswitchd can neither wait ({reason}) nor purge ({answer.text})",
                remedy="use Open vSwitch 2.17 or later",
            )
