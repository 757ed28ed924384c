"""A connection to ovsdb-server: a replica that follows the database, and a queue of edits that become transactions.

For `ovsdb.OvsdbSwitch`. One task (`run`) owns the replica. Edits that wait at the same time share a transaction, one
transaction follows another; an edit that the server refuses is tried again alone, so that it fails alone. When the
connection is lost, a new one is made; edits that wait are sent again until their deadline. It knows nothing of
bridges or pods: see `ovsdb_rows`.

The protocol is RFC 7047; the replica is the IDL of the `ovs` package. Each connection gets a new IDL, because the
IDL's own reconnection waits a second at least.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast
from uuid import UUID

from ovs.db.idl import ROW_DELETE, Idl, Row, SchemaHelper, Transaction

from k8s_ovs.dataplane.poller import AsyncPoller
from k8s_ovs.errors import OvsdbError

T = TypeVar("T")
Columns = Mapping[str, list[str]]

DATABASE = "Open_vSwitch"
FIRST_RETRY = 0.05
LAST_RETRY = 1.0
SCHEMA_DEADLINE = 5.0
REPLICA_DEADLINE = 10.0
MAX_BATCH = 64
"""Edits in one transaction: 20 at a time come from the container runtime; more only delay the first of them."""
REMEDY = "check that ovsdb-server runs and that --ovs-rundir names its folder"

_log = logging.getLogger(__name__)


class Replica(Idl):
    """The IDL, with an index by name, and a hook: `observer` sees every row that is created, changed or deleted."""

    def __init__(
        self, sock: Path, schema: Mapping[str, object], columns: Columns, observer: "Observer"
    ) -> None:
        helper = SchemaHelper(schema_json=schema)
        for table, names in columns.items():
            helper.register_columns(table, names)
        self._columns = columns
        self._observer = observer
        self._named: dict[str, dict[object, Row]] = {table: {} for table in columns}
        self._derived: dict[UUID, object] = {}
        super().__init__(f"unix:{sock}", helper, leader_only=False)

    @property
    def root(self) -> Row:
        """The only row of the table Open_vSwitch. Raises OvsdbError while the database has none."""
        for row in self.tables[DATABASE].rows.values():
            return row
        raise OvsdbError("OVSDB has no row in table Open_vSwitch", remedy="run ovs-vsctl init")

    def named(self, table: str, name: str) -> Row | None:
        """The committed row of `table` with this name."""
        return self._named[table].get(name)

    def committed(self, table: str) -> Iterable[Row]:
        """The rows of a table with names, without those that the transaction in the making inserts."""
        return self._named[table].values()

    @property
    def monitoring(self) -> bool:
        """Whether the replica is complete and follows the server."""
        return self.connected and self.state == Idl.IDL_S_MONITORING

    @property
    def connected(self) -> bool:
        """Whether the stream to the server is open."""
        return self._session.is_connected()

    def derived(self, row: Row, compute: Callable[[Row], T]) -> T:
        """`compute(row)`, remembered until the row changes: reading a column of the IDL is slow. One per table."""
        if row.uuid not in self._derived:
            self._derived[row.uuid] = compute(row)
        return cast("T", self._derived[row.uuid])

    def notify(self, event: str, row: Row, updates: Row | None = None) -> None:
        """Called by the IDL for every change; `updates` holds the old values of the columns that changed."""
        table = row._table.name
        self._derived.pop(row.uuid, None)
        if "name" in self._columns[table]:
            named = self._named[table]
            if event != ROW_DELETE:
                named[row.name] = row
            elif named.get(row.name) == row:  # else its successor of the same name has been reported first
                del named[row.name]
        self._observer(table, event, row, updates)


Observer = Callable[[str, str, Row, Row | None], None]
"""Called with table, event (a ROW_ constant of the IDL), row, and the old values of the columns that changed."""
Edit = Callable[[Replica, Transaction], None]


@dataclass(eq=False, slots=True)
class _Request:
    """An edit that waits for its transaction. Two with the same subject never share one; None shares with nobody."""

    what: str
    subject: Hashable
    edit: Edit
    done: asyncio.Future[int | None]
    alone: bool = False


@dataclass(slots=True)
class _Flight:
    """The transaction that the server works on, and whose edits are in it."""

    transaction: Transaction
    requests: list[_Request] = field(default_factory=list)


class OvsdbClient:
    """See the module. `columns` names the tables and columns to follow; `observer` is called for each change."""

    def __init__(self, sock: Path, columns: Columns, observer: Observer) -> None:
        self._sock = sock
        self._columns = columns
        self._observer = observer
        self._queue: list[_Request] = []
        self._flight: _Flight | None = None
        self._wake = asyncio.Event()
        self._tick = asyncio.Event()
        self._complete = asyncio.Event()
        self._replica: Replica | None = None

    @property
    def replica(self) -> Replica | None:
        """The newest complete replica; it stays readable while the connection is down. None before the first."""
        return self._replica

    async def connected(self) -> None:
        """Return once the replica is complete (at once if it is)."""
        await self._complete.wait()

    async def run(self) -> None:
        """Connect, follow, reconnect: until cancelled."""
        while True:
            replica = await self._connect()
            try:
                await self._follow(replica)
            finally:
                replica.close()
                self._lost()

    async def transact(self, what: str, subject: Hashable, edit: Edit, deadline: float) -> int | None:
        """Run `edit` in a transaction; return once it is committed.

        Returns the `next_cfg` that ovs-vswitchd reports in `cur_cfg` when it has acted on it, None if the edit
        changed nothing. `edit` may raise OvsdbError, before it writes anything, to refuse. Raises OvsdbError, also
        when there is no answer within `deadline` seconds.
        """
        done = self.post(what, subject, edit)
        try:
            async with asyncio.timeout(deadline):
                return await done
        except TimeoutError:
            raise self._silent(what, deadline) from None
        finally:
            done.cancel()

    def post(self, what: str, subject: Hashable, edit: Edit) -> "asyncio.Future[int | None]":
        """Queue `edit` without waiting; the result is as in `transact`. Cancelling it withdraws an unsent edit."""
        done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Request(what, subject, edit, done))
        self._wake.set()
        return done

    async def until(self, probe: Callable[[], T | None], deadline: float) -> T:
        """Return what `probe` returns as soon as that is not None; it is called after each change. TimeoutError."""
        async with asyncio.timeout(deadline):
            while (found := probe()) is None:
                await self._tick.wait()
        return found

    def _silent(self, what: str, deadline: float) -> OvsdbError:
        state = "does not answer" if self._complete.is_set() else "cannot be reached"
        return OvsdbError(
            f"{what}: ovsdb-server at {self._sock} {state} within {deadline:g} s", remedy=REMEDY
        )

    async def _connect(self) -> Replica:
        delay, said = FIRST_RETRY, False
        while True:
            try:
                schema = await _read_schema(self._sock)
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                if not said:
                    _log.warning(
                        "ovsdb-server at %s: %s: trying again", self._sock, error or type(error).__name__
                    )
                    said = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_RETRY)
                continue
            return Replica(self._sock, schema, self._columns, self._observer)

    async def _follow(self, replica: Replica) -> None:
        """Serve one connection; return when it is lost."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + REPLICA_DEADLINE
        while True:
            seqno = replica.change_seqno
            replica.run()
            if self._replica is replica and not replica.monitoring:
                return
            if self._replica is not replica and replica.monitoring:
                self._replica = replica
                self._complete.set()
                _log.info("ovsdb-server at %s: connected", self._sock)
            if self._complete.is_set():
                self._settle()
                self._submit(replica)
            elif loop.time() > give_up:
                _log.warning("ovsdb-server at %s: no data within %g s", self._sock, REPLICA_DEADLINE)
                return
            if replica.change_seqno != seqno:
                self._announce()
            await self._block(replica, None if self._complete.is_set() else give_up - loop.time())

    async def _block(self, replica: Replica, limit: float | None) -> None:
        poller = AsyncPoller()
        replica.wait(poller)
        if self._flight is not None:
            self._flight.transaction.wait(poller)
        if limit is not None:
            poller.timer_wait(max(0, int(limit * 1000)) + 1)
        await poller.block(self._wake)

    def _announce(self) -> None:
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()

    def _lost(self) -> None:
        self._complete.clear()
        if self._flight is not None:
            self._queue[:0] = self._flight.requests
            self._flight = None
        self._wake.clear()
        self._announce()

    def _submit(self, replica: Replica) -> None:
        """Make the next transaction of what waits, if none is under way."""
        if self._flight is not None or not (batch := self._next_batch()):
            return
        try:
            root = replica.root
        except OvsdbError as error:
            for request in batch:
                _fail(request, error)
            return
        transaction = Transaction(replica)
        edited = [request for request in batch if _edit(request, replica, transaction)]
        root.increment("next_cfg")
        transaction.commit()
        self._flight = _Flight(transaction, edited)
        self._settle()
        if self._queue:
            self._wake.set()

    def _next_batch(self) -> list[_Request]:
        """Take from the queue what may share a transaction, keeping the order of each subject."""
        self._queue = [request for request in self._queue if not request.done.done()]
        batch: list[_Request] = []
        rest: list[_Request] = []
        subjects: set[Hashable] = set()
        for position, request in enumerate(self._queue):
            exclusive = request.alone or request.subject is None
            if len(batch) == MAX_BATCH or (exclusive and batch) or (exclusive and rest):
                rest += self._queue[position:]
                break
            if request.subject in subjects:
                rest.append(request)
                continue
            batch.append(request)
            subjects.add(request.subject)
            if exclusive:
                rest += self._queue[position + 1 :]
                break
        self._queue = rest
        return batch

    def _settle(self) -> None:
        """Hand the result of the transaction under way, if there is one, to those who wait for it."""
        if self._flight is None:
            return
        transaction, requests = self._flight.transaction, self._flight.requests
        status = transaction.commit()
        if status in {Transaction.UNCOMMITTED, Transaction.INCOMPLETE}:
            return
        self._flight = None
        if status == Transaction.SUCCESS:
            _finish(requests, transaction.get_increment_new_value())
        elif status == Transaction.UNCHANGED:
            _finish(requests, None)
        elif status == Transaction.TRY_AGAIN:
            self._queue[:0] = requests
        elif len(requests) > 1:
            for request in requests:
                request.alone = True
            self._queue[:0] = requests
        else:
            for request in requests:
                _fail(request, OvsdbError(f"{request.what}: OVSDB refused: {transaction.get_error()}"))


def _edit(request: _Request, replica: Replica, transaction: Transaction) -> bool:
    """Whether the edit of `request` is part of the transaction now; if it refuses, its caller is told."""
    try:
        request.edit(replica, transaction)
    except OvsdbError as error:
        _fail(request, error)
        return False
    return True


def _finish(requests: list[_Request], configuration: int | None) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_result(configuration)


def _fail(request: _Request, error: OvsdbError) -> None:
    if not request.done.done():
        request.done.set_exception(error)


async def _read_schema(sock: Path) -> Mapping[str, object]:
    """Ask the server for its schema (RFC 7047, 4.1.2): a newer server may have other columns than our package."""
    async with asyncio.timeout(SCHEMA_DEADLINE):
        reader, writer = await asyncio.open_unix_connection(str(sock))
        try:
            writer.write(json.dumps({"method": "get_schema", "params": [DATABASE], "id": 0}).encode())
            answer = await _read_json(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    schema = answer.get("result")
    if not isinstance(schema, dict):
        raise ValueError(f"no schema of {DATABASE}: {answer.get('error')}")  # noqa: TRY004 - the data, not a type
    return schema


async def _read_json(reader: asyncio.StreamReader) -> dict[str, object]:
    """The first JSON object of a stream that has no framing: read until it parses."""
    text = b""
    while chunk := await reader.read(1 << 16):
        text += chunk
        if text.rstrip().endswith(b"}"):
            with contextlib.suppress(ValueError):
                answer = json.loads(text)
                if isinstance(answer, dict):
                    return answer
    raise asyncio.IncompleteReadError(text, None)
