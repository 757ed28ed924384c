"""ADD, DEL, CHECK, GC, STATUS: what they answer, and that a failure at any moment leaves nothing behind."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from fakes.pods import (
    FakeLinks,
    Killed,
    PodWorld,
    add_request,
    check_request,
    delete_request,
    gc_request,
    request_for,
)
from k8s_ovs.agent.pods import PodNetwork, host_ifname_of
from k8s_ovs.cni.codes import Code
from k8s_ovs.cni.protocol import Command, PrevAddress, PrevInterface, PrevResult
from k8s_ovs.cni.server import CniHandler
from k8s_ovs.errors import CniError, LinkError, OpenFlowError, OvsdbError
from k8s_ovs.model.types import AttachmentKey, SandboxId, mac_of

ADD_MOMENTS = [
    "wait_tenant",
    "limits",
    "create_link",
    "created_link",
    "add_port",
    "added_port",
    "install",
    "installed",
    "vouch",
    "noted",
]
DEL_MOMENTS = [
    "withdraw",
    "withdrawn",
    "unvouch",
    "unnoted",
    "remove_port",
    "removed_port",
    "delete_link",
    "deleted_link",
]


def world_with(*sandboxes: str, subnet: str = "172.11.4.0/22") -> PodWorld:
    return PodWorld(subnet=IPv4Network(subnet), netns={f"/netns/{sandbox}" for sandbox in sandboxes})


def fail_at(world: PodWorld, moment: str, error: BaseException) -> None:
    async def hook(name: str) -> None:
        await asyncio.sleep(0)
        if name == moment:
            raise error

    world.hook = hook


def call_at(world: PodWorld, moment: str, action: Callable[[], object]) -> None:
    async def hook(name: str) -> None:
        if name == moment:
            action()
        await asyncio.sleep(0)

    world.hook = hook


async def refused(work: Coroutine[Any, Any, object]) -> CniError:
    with pytest.raises(CniError) as caught:
        await work
    return caught.value


async def test_add_answers_with_the_lease_and_leaves_link_row_and_flows() -> None:
    world = world_with("a")
    result = await world.agent().add(add_request("a"))
    assert str(result.address) == "172.11.4.2/22"
    assert str(result.gateway) == "172.11.4.1"
    assert result.mac == mac_of(IPv4Address("172.11.4.2"))
    assert (result.ifname, result.netns, result.mtu) == ("eth0", "/netns/a", 1450)
    row = world.rows[AttachmentKey(SandboxId("a"), "eth0")]
    assert (row.namespace, row.pod, row.uid, row.netns) == ("web", "a", "uid-a", "/netns/a")
    link = world.links[result.host_ifname]
    assert link.alias == "k8s-ovs:a/eth0"
    assert world.faults() == []
    assert world.moments == ADD_MOMENTS


def test_host_ifname_fits_and_follows_from_the_key() -> None:
    name = host_ifname_of(AttachmentKey(SandboxId("s" * 64), "eth0"))
    assert len(name) == 15
    assert name.startswith("kovs")
    assert name != host_ifname_of(AttachmentKey(SandboxId("s" * 64), "eth1"))


async def test_add_again_gives_the_same_answer_and_changes_nothing() -> None:
    world = world_with("a")
    agent = world.agent()
    first = await agent.add(add_request("a"))
    before = (dict(world.links), dict(world.rows), dict(world.flows))
    assert await agent.add(add_request("a")) == first
    assert await world.agent().add(add_request("a")) == first, "a restarted agent knows it as well"
    assert (world.links, world.rows, world.flows) == before


@pytest.mark.parametrize("damage", ["link", "ofport"])
async def test_add_again_makes_what_is_broken_anew_with_the_same_answer(damage: str) -> None:
    world = world_with("a", "b")
    agent = world.agent()
    first = await agent.add(add_request("a"))
    if damage == "link":
        world.links.clear()
    else:
        world.rows = {key: replace(row, ofport=None) for key, row in world.rows.items()}
    assert await agent.add(add_request("a")) == first
    assert world.faults() == []


@pytest.mark.parametrize("moment", ["removed_port", "create_link", "added_port", "install"])
async def test_the_address_of_an_attachment_made_anew_goes_to_nobody_else(moment: str) -> None:
    world = world_with("a", "b", subnet="172.11.4.0/30")
    agent = world.agent()
    first = await agent.add(add_request("a"))
    world.links.clear()
    others: list[asyncio.Task[CniError]] = []
    call_at(world, moment, lambda: others.append(asyncio.create_task(refused(agent.add(add_request("b"))))))
    assert await agent.add(add_request("a")) == first
    assert (await others[0]).code == Code.NO_ADDRESS
    assert world.faults() == []


async def test_a_failed_add_again_for_a_sound_attachment_leaves_it_as_it_was() -> None:
    world = world_with("a")
    agent = world.agent()
    await agent.add(add_request("a"))
    fail_at(world, "install", OpenFlowError("no answer"))
    assert (await refused(agent.add(add_request("a")))).code == Code.SWITCH_REFUSED
    assert world.faults() == []
    assert len(world.rows) == 1


async def test_a_failed_add_again_for_a_broken_attachment_leaves_nothing() -> None:
    world = world_with("a")
    agent = world.agent()
    await agent.add(add_request("a"))
    world.links.clear()
    fail_at(world, "add_port", OvsdbError("no answer"))
    assert (await refused(agent.add(add_request("a")))).code == Code.SWITCH_REFUSED
    assert world.empty


async def test_add_with_another_netns_replaces_the_attachment() -> None:
    world = world_with("a", "new")
    agent = world.agent()
    await agent.add(add_request("a"))
    world.remove_netns("/netns/a")
    result = await agent.add(add_request("a", netns="/netns/new"))
    assert result.netns == "/netns/new"
    assert world.faults() == []
    assert [row.netns for row in world.rows.values()] == ["/netns/new"]


async def test_add_with_another_netns_takes_the_pod_out_of_the_old_one() -> None:
    world = world_with("a", "new")
    agent = world.agent()
    await agent.add(add_request("a"))
    await agent.add(add_request("a", netns="/netns/new"))
    assert [link.netns for link in world.links.values()] == ["/netns/new"]
    after = world.moments[len(ADD_MOMENTS) + 2 :]  # wait_tenant and limits come first again
    assert after[: len(DEL_MOMENTS)] == DEL_MOMENTS
    assert world.faults() == []


async def test_add_for_another_namespace_replaces_the_attachment() -> None:
    world = world_with("a")
    agent = world.agent()
    await agent.add(add_request("a"))
    await agent.add(add_request("a", namespace="db"))
    assert [row.namespace for row in world.rows.values()] == ["db"]
    assert world.faults() == []


async def test_add_after_the_host_subnet_changed_takes_an_address_of_the_new_one() -> None:
    world = world_with("a")
    agent = world.agent()
    await agent.add(add_request("a"))
    world.subnet = IPv4Network("172.11.8.0/22")
    assert str((await agent.add(add_request("a"))).address) == "172.11.8.2/22"
    assert world.faults() == []


async def test_add_into_a_missing_netns_is_error_3_and_leaves_nothing() -> None:
    world = world_with()
    error = await refused(world.agent().add(add_request("a")))
    assert error.code == Code.UNKNOWN_CONTAINER
    assert "/netns/a" in error.message
    assert error.message.startswith("pod web/a: ")
    assert world.empty


async def test_a_netns_that_vanishes_during_add_is_error_3_as_well() -> None:
    world = world_with("a")
    agent = world.agent()
    call_at(world, "create_link", lambda: world.remove_netns("/netns/a"))
    assert (await refused(agent.add(add_request("a")))).code == Code.UNKNOWN_CONTAINER
    assert world.empty


async def test_add_on_a_node_that_is_not_ready_says_try_again_with_the_reason() -> None:
    world = world_with("a")
    world.trouble = "this node has no host subnet yet"
    error = await refused(world.agent().add(add_request("a")))
    assert (error.code, error.message) == (Code.TRY_AGAIN, "pod web/a: this node has no host subnet yet")


async def test_add_waits_for_the_tenant_and_then_goes_on() -> None:
    world = world_with("a")
    agent = world.agent()
    asked = asyncio.Event()
    call_at(world, "wait_tenant", asked.set)
    adding = asyncio.create_task(agent.add(add_request("a", namespace="late")))
    await asked.wait()
    assert world.empty
    world.tenants.add("late")
    await adding
    assert world.faults() == []


async def test_add_for_a_namespace_that_stays_unknown_is_error_11() -> None:
    world = world_with("a")
    error = await refused(world.agent(tenant_wait=0.01).add(add_request("a", namespace="nowhere")))
    assert error.code == Code.TRY_AGAIN
    assert "Namespace nowhere has no NetID yet" in error.message
    assert world.empty


async def test_exhaustion_names_the_subnet_and_the_remedy() -> None:
    world = world_with("a", "b", subnet="172.11.4.0/30")
    agent = world.agent()
    await agent.add(add_request("a"))
    error = await refused(agent.add(add_request("b")))
    assert error.code == Code.NO_ADDRESS
    assert str(error) == (
        "pod web/b: no free address in 172.11.4.0/30 (1 in use): "
        "delete pods on this node or enlarge HostSubnetLength"
    )
    await agent.delete(delete_request("a"))
    await agent.add(add_request("b"))
    assert world.faults() == []


async def test_addresses_rotate_over_deletes_and_restarts() -> None:
    world = world_with("a", "b", "c")
    agent = world.agent()
    first = await agent.add(add_request("a"))
    await agent.add(add_request("b"))
    await agent.delete(delete_request("a"))
    assert (await agent.add(add_request("a"))).address > first.address
    await agent.delete(delete_request("a"))
    assert (await world.agent().add(add_request("c"))).address > first.address


@pytest.mark.parametrize("moment", ADD_MOMENTS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LinkError("refused"), Code.LINK_REFUSED),
        (OvsdbError("refused"), Code.SWITCH_REFUSED),
        (OpenFlowError("refused"), Code.SWITCH_REFUSED),
    ],
)
async def test_a_failure_at_any_step_of_add_leaves_nothing(moment: str, error: Exception, code: int) -> None:
    world = world_with("a")
    agent = world.agent()
    fail_at(world, moment, error)
    assert (await refused(agent.add(add_request("a")))).code == code
    assert world.empty
    result = await world.agent().add(add_request("a"))
    assert world.faults() == []
    fail_at(world, "none", error)
    assert await agent.add(add_request("a")) == result, "the failed agent goes on as well"


@pytest.mark.parametrize("moment", ADD_MOMENTS)
async def test_cancellation_at_any_moment_of_add_leaves_nothing(moment: str) -> None:
    world = world_with("a")
    agent = world.agent()
    adding = asyncio.create_task(agent.add(add_request("a")))
    call_at(world, moment, adding.cancel)
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert world.empty
    assert len(agent._locks) == 0
    assert agent._addresses.reserved == frozenset()


@pytest.mark.parametrize(("held", "done"), [("create_link", "created_link"), ("add_port", "added_port")])
async def test_what_the_kernel_and_ovsdb_have_begun_is_finished_before_it_is_undone(
    held: str, done: str
) -> None:
    """A cancelled netlink call goes on in its thread: undoing at once could come before its effect."""
    world = world_with("a")
    agent = world.agent()
    begun, go = asyncio.Event(), asyncio.Event()

    async def hook(name: str) -> None:
        if name == held:
            begun.set()
            await go.wait()

    world.hook = hook
    adding = asyncio.create_task(agent.add(add_request("a")))
    await begun.wait()
    adding.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert world.moments.index(done) < world.moments.index("delete_link")
    assert world.empty


async def test_cancellation_again_and_again_still_undoes_everything() -> None:
    world = world_with("a")
    agent = world.agent()
    adding = asyncio.create_task(agent.add(add_request("a")))

    async def hook(name: str) -> None:
        if name == "install" or world.moments.count("install"):
            adding.cancel()
        await asyncio.sleep(0)

    world.hook = hook
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert world.empty
    assert "deleted_link" in world.moments


@pytest.mark.parametrize("moment", DEL_MOMENTS)
async def test_del_that_failed_or_was_cancelled_is_finished_by_the_next(moment: str) -> None:
    for cancel in (False, True):
        world = world_with("a")
        agent = world.agent()
        await agent.add(add_request("a"))
        deleting = asyncio.create_task(agent.delete(delete_request("a")))
        if cancel:
            call_at(world, moment, deleting.cancel)
        else:
            fail_at(world, moment, OvsdbError("refused"))
        with pytest.raises((CniError, asyncio.CancelledError)):
            await deleting
        if cancel:
            assert len(world.links) == len(world.rows), "row and veth go together"
        fail_at(world, "none", OvsdbError(""))
        await agent.delete(delete_request("a"))
        assert world.empty


async def test_del_is_idempotent_and_does_not_know_what_it_does_not_know() -> None:
    world = world_with("a")
    agent = world.agent()
    await agent.delete(delete_request("never-seen"))
    await agent.add(add_request("a"))
    world.remove_netns("/netns/a")
    await agent.delete(delete_request("a"))
    await agent.delete(delete_request("a"))
    assert world.empty


async def test_del_works_while_the_node_is_not_ready() -> None:
    world = world_with("a")
    agent = world.agent()
    await agent.add(add_request("a"))
    world.trouble = "etcd does not answer"
    await agent.delete(delete_request("a"))
    assert world.empty


async def test_a_failed_undo_is_in_the_message_and_the_rest_is_still_undone() -> None:
    world = world_with("a")
    agent = world.agent()

    async def hook(name: str) -> None:
        if name == "install":
            raise OpenFlowError("bundle refused")
        if name == "remove_port":
            raise OvsdbError("connection lost")

    world.hook = hook
    error = await refused(agent.add(add_request("a")))
    assert "bundle refused" in error.message
    assert "could not undo: remove the port and its lease: connection lost" in error.message
    assert not world.links
    assert not world.flows
    assert list(world.rows), "the lease that could not be removed keeps its address"
    world.hook = lambda _name: asyncio.sleep(0)
    await agent.delete(delete_request("a"))
    assert world.empty


async def test_two_adds_at_once_for_one_sandbox_give_one_attachment() -> None:
    world = world_with("a")
    agent = world.agent()
    results = await asyncio.gather(*(agent.add(add_request("a")) for _ in range(5)))
    assert len(set(results)) == 1
    assert len(world.rows) == 1
    assert world.faults() == []


async def test_adds_side_by_side_give_different_addresses() -> None:
    names = [f"s{n}" for n in range(200)]
    world = world_with(*names)
    agent = world.agent()
    results = await asyncio.gather(*(agent.add(add_request(name)) for name in names))
    assert len({result.address for result in results}) == 200
    assert world.faults() == []
    await asyncio.gather(*(agent.delete(delete_request(name)) for name in names))
    assert world.empty


async def test_adds_for_different_sandboxes_do_not_wait_for_each_other() -> None:
    world = world_with("a", "b")
    agent = world.agent()
    held, go = asyncio.Event(), asyncio.Event()

    async def hook(name: str) -> None:
        if name == "install" and not held.is_set():
            held.set()
            await go.wait()

    world.hook = hook
    first = asyncio.create_task(agent.add(add_request("a")))
    await held.wait()
    await agent.add(add_request("b"))
    go.set()
    await first
    assert world.faults() == []


async def test_add_and_del_racing_end_in_order() -> None:
    world = world_with("a")
    agent = world.agent()
    adding = asyncio.create_task(agent.add(add_request("a")))
    deleting: list[asyncio.Task[None]] = []
    call_at(
        world, "create_link", lambda: deleting.append(asyncio.create_task(agent.delete(delete_request("a"))))
    )
    await adding
    await deleting[0]
    assert world.moments == ADD_MOMENTS + DEL_MOMENTS
    assert world.empty


async def test_check_passes_on_what_add_made() -> None:
    world = world_with("a")
    agent = world.agent()
    result = await agent.add(add_request("a"))
    await agent.check(check_request("a", result))
    assert "check_link" in world.moments


async def test_check_names_what_differs() -> None:
    world = world_with("a", "other")
    agent = world.agent()
    result = await agent.add(add_request("a"))
    good = check_request("a", result)

    async def problem(**changes: object) -> CniError:
        request = good.__class__(**{name: getattr(good, name) for name in good.__slots__} | changes)
        return await refused(agent.check(request))

    moved = await problem(netns="/netns/other")
    assert (moved.code, "CNI_NETNS is /netns/other" in moved.message) == (Code.CHECK_FAILED, True)
    readdressed = await problem(prev_result=PrevResult(ips=[PrevAddress("172.11.4.9/22")]))
    assert "172.11.4.9/22, the lease says 172.11.4.2/22" in readdressed.message
    interface = PrevInterface(name="eth0", mac="02:00:00:00:00:01", sandbox="/netns/a")
    prev = PrevResult(ips=[PrevAddress("172.11.4.2/22")], interfaces=[interface])
    assert "the interface in prevResult" in (await problem(prev_result=prev)).message
    world.links.clear()
    assert (await problem()).code == Code.CHECK_FAILED
    await agent.delete(delete_request("a"))
    assert (await problem()).code == Code.UNKNOWN_CONTAINER


async def test_gc_keeps_what_is_valid_and_removes_the_rest() -> None:
    world = world_with("a", "b", "c")
    agent = world.agent()
    for name in "abc":
        await agent.add(add_request(name))
    await agent.gc(gc_request("b"))
    assert [key.sandbox for key in world.rows] == ["b"]
    assert world.faults() == []


@pytest.mark.parametrize("unmounted", [False, True])
async def test_gc_keeps_what_the_runtime_misses_but_lives(
    unmounted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Sandbox and pod are there: the list is wrong. (Multus once gave the list of another network.)"""
    world = world_with("a", "b", "c")
    agent = world.agent()
    for name in "abc":
        await agent.add(add_request(name))
    world.pods = {"a", "c"}
    world.remove_netns("/netns/c")
    if unmounted:
        world.netns.discard("/netns/a")
        world.unmounted.add("/netns/a")
    await agent.gc(gc_request())
    assert [key.sandbox for key in world.rows] == ["a"]
    assert world.faults() == []
    assert "the runtime misses sandbox a of pod web/a, which lives: kept" in caplog.text


@pytest.mark.parametrize(
    ("veth", "file", "kept"),
    [(True, True, True), (True, False, True), (False, True, True), (False, False, False)],
)
async def test_a_lease_is_collected_when_neither_veth_nor_namespace_is_there(
    veth: bool, file: bool, kept: bool
) -> None:
    world = world_with("a")
    agent = world.agent()
    await agent.add(add_request("a"))
    if not veth:
        world.links.clear()
    if not file:
        world.netns.clear()
    assert await agent.recover() == (not kept)
    assert bool(world.rows) is kept


async def test_gc_goes_on_past_failures_and_reports_them_together() -> None:
    world = world_with("a", "b", "c")
    agent = world.agent()
    for name in "abc":
        await agent.add(add_request(name))
    left = [2]

    async def hook(name: str) -> None:
        if name == "remove_port" and left[0]:
            left[0] -= 1
            raise OvsdbError(f"lost ({left[0]})")

    world.hook = hook
    error = await refused(agent.gc(gc_request()))
    assert error.code == Code.GC_INCOMPLETE
    assert "a/eth0 (172.11.4.2): lost (1)" in error.message
    assert "b/eth0 (172.11.4.3): lost (0)" in error.message
    assert [key.sandbox for key in world.rows] == ["a", "b"]
    await agent.gc(gc_request())
    assert world.empty


@pytest.mark.parametrize("moment", ADD_MOMENTS)
async def test_gc_and_recover_leave_an_add_under_way_alone(moment: str) -> None:
    world = world_with("a")
    agent = world.agent()
    held, go = asyncio.Event(), asyncio.Event()

    async def hook(name: str) -> None:
        if name == moment and not held.is_set():
            held.set()
            await go.wait()

    world.hook = hook
    adding = asyncio.create_task(agent.add(add_request("a")))
    await held.wait()
    await agent.gc(gc_request())
    assert await agent.recover() == 0
    go.set()
    await adding
    assert len(world.rows) == 1
    assert world.faults() == []


async def test_status_says_why_not() -> None:
    world = world_with()
    agent = world.agent()
    await agent.status(request_for(Command.STATUS, ""))
    world.trouble = "Open vSwitch does not answer: see that ovs-vswitchd runs"
    error = await refused(agent.status(request_for(Command.STATUS, "")))
    assert (error.code, error.message) == (Code.UNAVAILABLE, world.trouble)


@pytest.mark.parametrize("moment", [*ADD_MOMENTS, *DEL_MOMENTS])
async def test_an_agent_killed_at_any_moment_leaves_nothing_after_its_restart(moment: str) -> None:
    world = world_with("a", "b")
    agent = world.agent()
    await agent.add(add_request("b"))
    work: Coroutine[Any, Any, object] = agent.add(add_request("a"))
    if moment in DEL_MOMENTS:
        await work
        work = agent.delete(delete_request("a"))
    fail_at(world, moment, Killed())
    with pytest.raises(Killed):
        await work
    agent = world.agent()
    await agent.recover()
    world.flows = dict(world.rows)  # the reconciler's full synchronisation at start
    assert world.faults() == []
    assert any(key.sandbox == "b" for key in world.rows)
    await agent.delete(delete_request("a"))
    await agent.delete(delete_request("b"))
    assert world.empty


async def test_recover_removes_leases_of_before_a_reboot_and_nothing_else() -> None:
    world = world_with("a", "b", "c")
    agent = world.agent()
    for name in "abc":
        await agent.add(add_request(name))
    world.remove_netns("/netns/a")
    del world.links[host_ifname_of(AttachmentKey(SandboxId("b"), "eth0"))]
    agent = world.agent()
    assert await agent.recover() == 1
    assert [key.sandbox for key in world.rows] == ["b", "c"], (
        "b has lost its veth, but its namespace is there"
    )
    assert await agent.recover() == 0


async def test_a_living_pod_whose_lease_was_removed_without_an_agent_keeps_veth_and_address() -> None:
    """An address in use never goes; what the lease said is gone, so that somebody has to be told."""
    world = world_with("a", "b", subnet="172.11.4.0/29")
    agent = world.agent()
    address = (await agent.add(add_request("a"))).address.ip
    del world.rows[AttachmentKey(SandboxId("a"), "eth0")]
    world.flows.clear()
    agent = world.agent()
    taken = [(await agent.add(add_request("b"))).address.ip]
    for name in "cdef":
        world.netns.add(f"/netns/{name}")
        with suppress(CniError):
            taken.append((await agent.add(add_request(name))).address.ip)
    assert len(taken) == 4
    assert address not in taken
    for _ in range(2):
        assert await agent.recover() == 0
    assert host_ifname_of(AttachmentKey(SandboxId("a"), "eth0")) in world.links
    (told,) = world.complaints
    assert f"{address} was removed while no agent ran" in told
    assert "Delete the pod" in told
    assert agent.orphans.trouble().startswith("1 pod has no network, because somebody removed its port while")
    assert f"no agent ran: {address}; delete them" in agent.orphans.trouble()
    await agent.delete(delete_request("a"))
    assert agent.orphans.trouble() == ""
    assert len(world.links) == 4
    last = (await agent.add(add_request("f"))).address.ip
    assert last == address


async def test_a_lease_that_is_removed_while_leftovers_are_looked_for_costs_no_veth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not swept as one that never had a lease: the next look finds out whose it is."""
    world = world_with("a")
    await world.agent().add(add_request("a"))
    world.flows.clear()
    agent = world.agent()
    vouched = FakeLinks.vouched

    async def and_then_it_goes(links: FakeLinks) -> dict[str, IPv4Address]:
        found = await vouched(links)
        world.rows.clear()
        return found

    monkeypatch.setattr(FakeLinks, "vouched", and_then_it_goes)
    assert await agent.recover() == 0
    assert world.complaints == []
    assert await agent.recover() == 0
    assert len(world.complaints) == len(world.links) == 1


async def test_gc_removes_a_pod_without_lease_that_the_runtime_does_not_know() -> None:
    world = world_with("a", "b")
    agent = world.agent()
    for name in "ab":
        await agent.add(add_request(name))
    world.rows.clear()
    world.flows.clear()
    await agent.gc(gc_request("a"))
    assert list(world.links) == [host_ifname_of(AttachmentKey(SandboxId("a"), "eth0"))]


async def test_attachments_of_an_older_agent_are_vouched_for() -> None:
    world = world_with("a")
    await world.agent().add(add_request("a"))
    world.notes.clear()
    await world.agent().recover()
    assert list(world.notes.values()) == [row.address for row in world.rows.values()]


async def test_recover_tries_all_and_then_raises() -> None:
    world = world_with("a", "b")
    agent = world.agent()
    for name in "ab":
        await agent.add(add_request(name))
        world.remove_netns(f"/netns/{name}")
    left = [OvsdbError("lost")]

    async def hook(name: str) -> None:
        if name == "remove_port" and left:
            raise left.pop()

    world.hook = hook
    with pytest.raises(OvsdbError):
        await agent.recover()
    assert len(world.rows) == 1


def test_pod_network_is_a_handler() -> None:
    handler: CniHandler = PodWorld().agent()
    assert isinstance(handler, PodNetwork)
