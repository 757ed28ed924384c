"""An agent's sign of life in etcd: its report, under a lease that ends soon after the agent does.

Made by the store for the agent's process. The lease is the instance's own for all its life, and its number says which
of two instances of one host (an upgrade, a process that hangs) began later: only that one is written, whoever of them
writes last. The number begins with the revision that etcd had at the beginning, or what follows the number that is
there already, if that is higher.

    compare: the report's lease has a number not above ours (none counts as 0)    then: put the report with our lease

A report is written when it is told, in one round trip. Between, every third of the lease's life, the lease is kept
alive and it is seen that the report is still there: a lost lease, a deleted key, or a newer instance that came and died
show then.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf

from k8s_ovs.errors import ConfigError, EtcdError
from k8s_ovs.model.types import AgentReport
from k8s_ovs.sources.etcd.client import EtcdClient
from k8s_ovs.sources.etcd.connection import Connection
from k8s_ovs.sources.etcd.faults import LostLease
from k8s_ovs.sources.etcd.following import retry_pauses
from k8s_ovs.sources.etcd.operations import put, read_key
from k8s_ovs.sources.etcd.proto import rpc_pb2 as rpc
from k8s_ovs.sources.records import Keys, encode_report

logger = logging.getLogger(__name__)

PRESENCE_TTL = 10
"""Seconds that a report outlives its agent."""

_RANDOM_BITS = 20
"""At the end of a lease's number, so that it is nobody else's; 43 bits are left for the revision."""


class EtcdPresence:
    """One instance of one agent; a Presence. `named` finds the keys, `ttl` is in seconds."""

    def __init__(self, client: EtcdClient, named: Callable[[], Awaitable[Keys]], ttl: int) -> None:
        self._client = client
        self._named = named
        self._ttl = ttl
        self._report: AgentReport | None = None
        self._written: AgentReport | None = None
        self._news = asyncio.Event()
        self._lease = 0
        self._renew_at = -inf
        """When the lease is to be kept alive again, by the loop's clock: in good time, however much there is to write."""
        self._trouble = ""

    def tell(self, report: AgentReport) -> None:
        """See Presence."""
        self._report = report
        self._news.set()

    async def run(self) -> None:
        """See Presence."""
        await self._news.wait()
        pauses = retry_pauses()
        while True:
            self._news.clear()
            connection: Connection | None = None
            try:
                connection = await self._client.connection()
                await self._keep(connection)
                pauses = retry_pauses()
                pause = max(0.0, self._renew_at - _now())
            except LostLease:
                self._renew_at, pause = -inf, 0
            except (EtcdError, ConfigError) as err:
                self._client.drop(connection)
                self._renew_at, pause = -inf, next(pauses)
                self._say(f"the controller does not hear this agent: {err}")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    async def _keep(self, connection: Connection) -> None:
        """Bring the store to where it should be: the lease alive, the present report written with it."""
        keys, report = await self._named(), self._report
        if report is None:
            return
        key = keys.report(report.host_ip)
        if not self._lease:
            self._lease = await self._new_number(connection, key)
        if _now() >= self._renew_at:
            renewed = _now()
            if not await connection.keep_lease(self._lease):
                await connection.grant_lease(self._lease, self._ttl)
            self._renew_at = renewed + self._ttl / 3
        if report is not self._written or not await self._is_there(connection, key, report):
            await self._write(connection, key, report)

    async def _new_number(self, connection: Connection, key: str) -> int:
        answer = await connection.range(rpc.RangeRequest(key=key.encode()))
        present = answer.kvs[0].lease >> _RANDOM_BITS if answer.kvs else 0
        begun = max(answer.header.revision, present + 1)
        return begun << _RANDOM_BITS | random.getrandbits(_RANDOM_BITS)

    async def _is_there(self, connection: Connection, key: str, report: AgentReport) -> bool:
        """Whether etcd has the report, under our lease: it may have been put back to one that was written before."""
        compare = [self._lease_of(key, rpc.Compare.EQUAL, self._lease)]
        answer = await connection.txn(rpc.TxnRequest(compare=compare, success=[read_key(key)]))
        found = [kv.value for part in answer.responses for kv in part.response_range.kvs]
        return found == [encode_report(key, report)]

    async def _write(self, connection: Connection, key: str, report: AgentReport) -> None:
        request = rpc.TxnRequest(
            compare=[self._lease_of(key, rpc.Compare.LESS, self._lease + 1)],
            success=[put(key, encode_report(key, report), self._lease)],
        )
        if (await connection.txn(request)).succeeded:
            self._written = report
            self._say("")
        else:
            self._say(
                f"another agent, which began later, reports for {report.host_ip}: this one is not heard"
            )

    @staticmethod
    def _lease_of(key: str, result: rpc.Compare.CompareResult.ValueType, number: int) -> rpc.Compare:
        return rpc.Compare(result=result, target=rpc.Compare.LEASE, key=key.encode(), lease=number)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            logger.warning("%s", trouble)
        elif self._trouble and not trouble:
            logger.info("the controller hears this agent again")
        self._trouble = trouble


def _now() -> float:
    """The loop's clock, in seconds."""
    return asyncio.get_running_loop().time()
