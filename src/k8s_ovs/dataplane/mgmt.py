"""Watches whether ovs-vswitchd lives: an idle OpenFlow connection to the bridge's management socket.

For `ovsdb.OvsdbSwitch`. A killed ovs-vswitchd leaves OVSDB as it was, stale port numbers included; only the socket
tells at once. It never sends anything but HELLO and the answers to ECHO_REQUEST (OpenFlow 1.5.1, 6.2 and 7.5.2).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from k8s_ovs.dataplane.openflow_wire import ECHO_REPLY, ECHO_REQUEST, HELLO, message, read_message

EAGER, EAGER_RETRY = 10.0, 0.01
"""For so many seconds after the switch went it is asked every so many: a supervisor has it back in a fraction of a second, and
until we notice no packet of any pod passes. An attempt costs some 20 µs."""
RETRY = 0.5
"""Seconds between two attempts afterwards, and after a switch that took the connection and closed it again at once."""

_log = logging.getLogger(__name__)


async def watch_switch(mgmt: Path, on_change: Callable[[], None]) -> None:
    """Call `on_change` each time the switch begins or ceases to serve the bridge; until cancelled."""
    clock = asyncio.get_running_loop().time
    gone_at = clock()
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(str(mgmt))
        except OSError:
            await asyncio.sleep(EAGER_RETRY if clock() - gone_at < EAGER else RETRY)
            continue
        since = clock()
        try:
            writer.write(message(HELLO, 1))
            await read_message(reader)
            _log.info("ovs-vswitchd serves %s", mgmt)
            on_change()
            while True:
                kind, xid, body = await read_message(reader)
                if kind == ECHO_REQUEST:
                    writer.write(message(ECHO_REPLY, xid, body))
        except (asyncio.IncompleteReadError, OSError):
            _log.warning("ovs-vswitchd no longer serves %s", mgmt)
            on_change()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        gone_at = clock()
        await asyncio.sleep(EAGER_RETRY if gone_at - since > RETRY else RETRY)
