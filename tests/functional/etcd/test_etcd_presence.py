"""An agent's report survives what happens to servers, connections and leases, and nothing else keeps it."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from fakes.private_etcd import PrivateEtcd
from fakes.relay import relay
from fakes.storeworld import CONFIG
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.model.types import AgentReport
from k8s_ovs.sources.etcd.settings import EtcdSettings
from k8s_ovs.sources.etcd.store import EtcdStore
from k8s_ovs.sources.records import Keys, decode_report
from k8s_ovs.sources.store import Presence

KEYS = Keys(DEFAULT_PREFIX, CONFIG.name)
IP = IPv4Address("192.0.2.1")
KEY = KEYS.report(IP)
TTL = 2
DEADLINE = 30.0


def report(token: str) -> AgentReport:
    return AgentReport("node1", IP, {"red": token})


async def until(what: str, condition: Callable[[], bool]) -> None:
    """Ask the server again and again; it is asked in a thread, so that the agent goes on."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not await asyncio.to_thread(condition):
                pass
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE} s: {what}") from None


def token(server: PrivateEtcd) -> str:
    """The token that the server's report says; empty without a report or an answer."""
    try:
        value = server.get(KEY)
    except (OSError, AssertionError):
        return ""
    return "" if value is None else decode_report(KEY, value).applied.get("red", "")


def leases(server: PrivateEtcd) -> list[str]:
    return [each["ID"] for each in server.call("lease/leases", {}).get("leases", [])]


def revision(server: PrivateEtcd) -> int:
    return int(server.call("kv/range", {"key": "YQ=="})["header"]["revision"])


def created(server: PrivateEtcd) -> int:
    """The revision that made the report's key: another one if the key was gone meanwhile."""
    key = base64.b64encode(KEY.encode()).decode()
    return int(server.call("kv/range", {"key": key})["kvs"][0]["create_revision"])


@asynccontextmanager
async def agent(settings: EtcdSettings, port: int, first: str = "a/accept") -> AsyncIterator[Presence]:
    """An agent's presence in a server behind this port."""
    settings = replace(settings, endpoints=(f"http://127.0.0.1:{port}",))
    async with EtcdStore(settings, presence_ttl=TTL) as store, asyncio.TaskGroup() as group:
        presence = store.presence()
        presence.tell(report(first))
        task = group.create_task(presence.run(), name="presence")
        yield presence
        task.cancel()


async def test_it_outlives_its_time_to_live_while_the_agent_lives(
    etcd: PrivateEtcd, impatient: EtcdSettings
) -> None:
    async with agent(impatient, etcd.port):
        await until("the report", lambda: token(etcd) == "a/accept")
        before = revision(etcd)
        lease = leases(etcd)
        end = time.monotonic() + 2 * TTL
        await until("two lives of a lease", lambda: time.monotonic() > end)
        assert token(etcd) == "a/accept"
        assert leases(etcd) == lease
        assert revision(etcd) == before, "nobody is woken"
    await until("no report", lambda: etcd.get(KEY) is None)


async def test_its_lease_is_kept_alive_also_while_there_is_always_something_to_write(
    etcd: PrivateEtcd, impatient: EtcdSettings
) -> None:
    """A lease that ended would take along what was written a moment before."""

    async def say(presence: Presence, text: str) -> None:
        presence.tell(report(text))
        await until(f"report {text}", lambda: token(etcd) == text)

    async with agent(impatient, etcd.port) as presence:
        await until("the report", lambda: token(etcd) == "a/accept")
        before = created(etcd)
        end = time.monotonic() + 3 * TTL
        while time.monotonic() < end:
            await say(presence, f"{time.monotonic_ns()}/send")
        assert created(etcd) == before, "it was there all the time"


async def test_a_restarted_server_has_the_report_again(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    async with agent(impatient, etcd.port) as presence:
        await until("the report", lambda: token(etcd) == "a/accept")
        etcd.kill()
        presence.tell(report("a/send"))
        etcd.start()
        await until("the report of meanwhile", lambda: token(etcd) == "a/send")


async def test_a_server_that_comes_later(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    etcd.kill()
    async with agent(impatient, etcd.port):
        etcd.start()
        await until("the report", lambda: token(etcd) == "a/accept")


async def test_a_lost_lease_is_made_anew(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    async with agent(impatient, etcd.port) as presence:
        await until("the report", lambda: token(etcd) == "a/accept")
        for number in leases(etcd):
            etcd.call("lease/revoke", {"ID": number})
        assert etcd.get(KEY) is None
        await until("the report is back by itself", lambda: token(etcd) == "a/accept")
        for number in leases(etcd):
            etcd.call("lease/revoke", {"ID": number})
        presence.tell(report("a/send"))
        await until("what was told under no lease", lambda: token(etcd) == "a/send")


async def test_a_report_deleted_by_hand_comes_back(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    async with agent(impatient, etcd.port):
        await until("the report", lambda: token(etcd) == "a/accept")
        etcd.delete(KEY)
        await until("the report again", lambda: token(etcd) == "a/accept")


async def test_an_agent_cut_off_is_not_heard_and_then_is(etcd: PrivateEtcd, impatient: EtcdSettings) -> None:
    async with relay(etcd.port) as path, agent(impatient, path.port) as presence:
        await until("the report", lambda: token(etcd) == "a/accept")
        path.freeze()
        await until("no report", lambda: etcd.get(KEY) is None)
        presence.tell(report("a/send"))
        path.thaw()
        await until("the present report", lambda: token(etcd) == "a/send")


async def test_a_newer_instance_is_heard_although_the_older_was_cut_off_and_returns(
    etcd: PrivateEtcd, impatient: EtcdSettings
) -> None:
    async with relay(etcd.port) as path, agent(impatient, path.port, "old") as old:
        await until("the old one's report", lambda: token(etcd) == "old")
        path.freeze()
        await until("no report", lambda: etcd.get(KEY) is None)
        async with agent(impatient, etcd.port, "new") as new:
            await until("the new one's report", lambda: token(etcd) == "new")
            path.thaw()
            old.tell(report("old again"))
            await until("the old one is back", lambda: len(leases(etcd)) == 2)
            new.tell(report("newer"))
            await until("the new one's next report", lambda: token(etcd) == "newer")
            for number in leases(etcd):
                etcd.call("lease/revoke", {"ID": number})
            await until("the new one made its lease anew", lambda: token(etcd) == "newer")
        await until("the old one when it is alone", lambda: token(etcd) == "old again")


async def test_a_user_of_etcd_can_report(etcd: PrivateEtcd, impatient: EtcdSettings, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    etcd.enable_auth("secret", DEFAULT_PREFIX + "/", "net")
    settings = replace(impatient, username="net", password_file=tmp_path / "password")
    async with agent(settings, etcd.port) as presence:
        await until("the report", lambda: token(etcd) == "a/accept")
        presence.tell(report("a/send"))
        await until("the next report", lambda: token(etcd) == "a/send")
        etcd.delete(KEY)
        await until("the report again", lambda: token(etcd) == "a/send")


async def test_a_report_of_before_is_not_taken_for_the_present_one(
    etcd: PrivateEtcd, impatient: EtcdSettings, tmp_path: Path
) -> None:
    """etcd is put back to a report of this very agent, under its own lease."""
    async with relay(etcd.port) as path, agent(impatient, path.port) as presence:
        await until("the report", lambda: token(etcd) == "a/accept")
        etcd.save(tmp_path / "saved")
        presence.tell(report("a/send"))
        await until("the next report", lambda: token(etcd) == "a/send")
        await path.cut()
        etcd.kill()
        etcd.restore(tmp_path / "saved")
        etcd.start()
        assert token(etcd) == "a/accept"
        await path.restore()
        await until("what was told last", lambda: token(etcd) == "a/send")
