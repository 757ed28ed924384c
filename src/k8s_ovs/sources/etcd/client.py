"""A client of an etcd cluster: one connection at a time, to whichever of the endpoints answers.

The store reads and writes through it, and its watch shares the connection. Rotation to another endpoint
happens here; waiting before the next round does not: callers know how long they can wait.

When a file with our credentials changes, a connection is made with the new ones while the old one goes on: what is under
way there is finished, watches move over, and it is closed. If nothing can be done with the new ones (half of an
exchange, say, or etcd has not got its own yet), the old connection stays in use, and they are tried again.
"""

import asyncio
import logging
import random

from k8s_ovs.errors import EtcdDenied, EtcdError, EtcdUnavailable
from k8s_ovs.sources.etcd.connection import Connection
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.files import signatures

LOOK_SECONDS = 2.0
"""How often the files with our credentials are looked at."""
PATIENCE = 5
"""How many times LOOK_SECONDS pass between two attempts with credentials that do not work."""

logger = logging.getLogger(__name__)


class EtcdClient:
    """Calls to a cluster; `probe` is a key that we may read, asked for to see whether a server is alive."""

    def __init__(self, settings: EtcdSettings, probe: str) -> None:
        self.settings = settings
        self.probe = rpc.RangeRequest(key=probe.encode(), count_only=True)
        self._endpoints = settings.parsed()
        # agents of many nodes spread over the members
        self._turn = random.randrange(len(self._endpoints))  # noqa: S311 - no secret
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._look_at = 0.0
        self._complaint = ""
        self._leaving: dict[Connection, asyncio.TimerHandle] = {}
        """Connections with former credentials, which will be closed when nothing can be under way there."""

    async def connection(self) -> Connection:
        """The connection in use, or a new one to the first endpoint that answers, all being tried once.

        Raises EtcdDenied if one refused us and none answered, else EtcdUnavailable; the message has every
        cause.
        """
        async with self._opening:
            if self._connection is not None and self._connection.usable:
                return await self._with_present_files(self._connection)
            self.drop(self._connection)
            failures: list[EtcdError] = []
            for _ in self._endpoints:
                endpoint = self._endpoints[self._turn % len(self._endpoints)]
                try:
                    self._connection = await Connection.open(self.settings, endpoint, self.probe)
                except EtcdError as err:
                    failures.append(err)
                    self._turn += 1
                else:
                    return self._connection
            raise _joined(failures) from failures[0]

    async def outdated(self, connection: Connection) -> bool:
        """Whether there is a connection with newer credentials, which a watch shall move to."""
        async with self._opening:
            if connection is self._connection and connection.usable:
                return await self._with_present_files(connection) is not connection
            return any(connection is each for each in self._leaving)

    async def _with_present_files(self, connection: Connection) -> Connection:
        """`connection`, or one that has taken its place because its files have changed."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._look_at:
            return connection
        self._look_at = loop.time() + LOOK_SECONDS
        if signatures(self.settings.files) == connection.files:
            return connection
        try:
            fresh = await Connection.open(self.settings, connection.endpoint, self.probe)
        except EtcdError as err:
            level = logging.DEBUG if str(err) == self._complaint else logging.WARNING
            logger.log(
                level, "new credentials for etcd do not work (yet), going on with the old ones: %s", err
            )
            self._complaint = str(err)
            self._look_at = loop.time() + PATIENCE * LOOK_SECONDS
            return connection
        logger.info("etcd %s: a new connection with the new credentials", connection.endpoint)
        self._complaint = ""
        patience = self.settings.watchdog + 2 * self.settings.timeout
        self._leaving[connection] = loop.call_later(patience, self._leave, connection)
        self._connection = fresh
        return fresh

    def _leave(self, connection: Connection) -> None:
        self._leaving.pop(connection).cancel()
        connection.close()

    def drop(self, connection: Connection | None) -> None:
        """Give a connection up that failed; the next one is tried with another endpoint first."""
        if connection is None:
            return
        connection.close()
        if connection is self._connection:
            self._connection = None
            self._turn += 1

    async def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        """Read, at another endpoint if one fails. Raises EtcdUnavailable, EtcdDenied."""
        for _ in self._endpoints:
            connection = await self.connection()
            try:
                return await connection.range(request)
            except EtcdUnavailable:
                self.drop(connection)
        return await (await self.connection()).range(request)

    async def read_txn(self, request: rpc.TxnRequest) -> tuple[rpc.TxnResponse, Connection]:
        """A transaction that only reads, like `range`; and over which connection it was answered."""
        for _ in self._endpoints:
            connection = await self.connection()
            try:
                return await connection.txn(request), connection
            except EtcdUnavailable:
                self.drop(connection)
        connection = await self.connection()
        return await connection.txn(request), connection

    async def write_txn(self, request: rpc.TxnRequest, over: Connection | None = None) -> rpc.TxnResponse:
        """A transaction that writes: tried once, because a server that fell silent may have done it.

        Raises EtcdUnavailable when it is unknown whether it was done, EtcdDenied.
        """
        connection = over or await self.connection()
        try:
            return await connection.txn(request)
        except EtcdUnavailable:
            self.drop(connection)
            raise

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        for connection in list(self._leaving):
            self._leave(connection)
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _joined(failures: list[EtcdError]) -> EtcdError:
    if len(failures) == 1:
        return failures[0]
    denied = [failure for failure in failures if isinstance(failure, EtcdDenied)]
    text = "; ".join(failure.message for failure in failures)
    if denied:
        return EtcdDenied(f"no etcd endpoint lets us in: {text}", remedy=denied[0].remedy)
    return EtcdUnavailable(f"no etcd endpoint answers: {text}", remedy=failures[0].remedy)
