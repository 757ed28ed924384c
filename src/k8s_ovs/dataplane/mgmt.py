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

FIRST_RETRY = 0.02
LAST_RETRY = 0.5

_log = logging.getLogger(__name__)


async def watch_switch(mgmt: Path, on_change: Callable[[], None]) -> None:
    """Call `on_change` each time the switch begins or ceases to serve the bridge; until cancelled."""
    delay = FIRST_RETRY
    clock = asyncio.get_running_loop().time
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(str(mgmt))
        except OSError:
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY)
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
            # A switch that closes every connection at once must not be asked fifty times a second.
            delay = FIRST_RETRY if clock() - since > LAST_RETRY else min(delay * 2, LAST_RETRY)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await asyncio.sleep(delay)
