"""Tells listeners that the switch may have changed, leaving out what we changed ourselves.

For `ovsdb.OvsdbSwitch`. Level-triggered: several changes before a listener looks are one. It keeps no history and
says nothing about what has changed.
"""

import asyncio
import contextlib
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping

from ovs.db.idl import Row

from k8s_ovs.dataplane.ovsdb_queues import COLUMNS, port_of

IGNORED: Mapping[str, frozenset[str]] = {
    # A port that comes or goes is seen by its Interface.
    "Bridge": frozenset({"ports"}),
    # These two only count configurations.
    "Open_vSwitch": frozenset({"cur_cfg", "next_cfg"}),
}


class ChangeFeed:
    """Listeners, and the names of the ports whose rows change because we want it."""

    def __init__(self, columns: Mapping[str, list[str]]) -> None:
        self._columns = columns
        self._listeners: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()
        self._ours: Counter[str] = Counter()

    def listen(self) -> AsyncIterator[None]:
        """Everything from now on, also what happens before the first `anext`."""
        changed = asyncio.Event()
        self._listeners.add(changed)

        async def iterate() -> AsyncIterator[None]:
            while True:
                await changed.wait()
                changed.clear()
                yield

        return iterate()

    def changed(self) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            listener.set()

    @contextlib.contextmanager
    def quiet(self, *names: str) -> Iterator[None]:
        """While this lasts, a changed row of a port of these names is no news."""
        self._ours.update(names)
        try:
            yield
        finally:
            self._ours -= Counter(names)

    def observe(self, table: str, event: str, row: Row, old: Row | None) -> None:
        """A row has been created, changed or deleted (`ovsdb_client.Observer`): tell, if it is news."""
        del event
        if table in COLUMNS:
            name = port_of(row)
            if name is None or name in self._ours:
                return
        elif table in {"Interface", "Port"} and row.name in self._ours:
            return
        ignored = IGNORED.get(table)
        if (
            old is not None
            and ignored
            and not any(hasattr(old, c) for c in self._columns[table] if c not in ignored)
        ):
            return
        self.changed()
