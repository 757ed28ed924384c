"""What every Store promises, on the fake and on a real etcd."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from fakes.storeworld import CONFIG, World
from fakes.watching import watching
from k8s_ovs.errors import ConfigError, RecordError
from k8s_ovs.model.events import (
    HostSubnetGone,
    HostSubnetSet,
    Source,
    Synced,
    TenantGone,
    TenantSet,
)
from k8s_ovs.model.types import FormerSubnet, HostSubnet, NetNamespace, Tenant, TenantChange, TenantStep, Vni
from k8s_ovs.sources.store import MAX_NEEDS, Change

IP1, IP2 = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
NODE1 = HostSubnet("node1", IP1, IPv4Network("172.11.0.0/22"))
NODE2 = HostSubnet("node2", IP2, None, assign=True)
AWAY = FormerSubnet("node9", IPv4Network("172.11.8.0/22"))
RED = NetNamespace("red", Vni(10))
BLUE = NetNamespace("blue", None, "join", "red")
RED_TENANT = Tenant("red", Vni(10))
BLUE_TENANT = Tenant("blue", Vni(11), TenantChange("1f", TenantStep.ACCEPT, Vni(11), Vni(10), "join", "red"))


async def commit(world: World, change: Change) -> bool:
    """`change` on top of what is there now."""
    now = await world.store.snapshot()
    return await world.store.commit(replace(change, based_on=now.revision))


async def test_without_a_config_there_is_none_and_it_can_be_created_once(empty: World) -> None:
    assert await empty.store.network_config() is None
    assert await empty.store.create_network_config(CONFIG)
    assert not await empty.store.create_network_config(CONFIG)
    assert await empty.store.network_config() == CONFIG


async def test_a_config_under_the_networks_own_key_counts(empty: World) -> None:
    empty.put(f"{empty.prefix}/blue-net/config", CONFIG.to_json())
    assert await empty.store.network_config() == CONFIG
    assert not await empty.store.create_network_config(CONFIG)


async def test_an_invalid_config_is_an_error_that_names_the_key(world: World) -> None:
    world.put(f"{world.prefix}/config", '{"Name":"x"}')
    with pytest.raises(ConfigError, match=f"{world.prefix}/config.*HostSubnetLength"):
        await world.store.network_config()


async def test_without_a_config_records_cannot_be_found(empty: World) -> None:
    for attempt in (empty.store.snapshot(), empty.store.commit(Change(1, put_namespaces=[RED]))):
        with pytest.raises(ConfigError, match="init-config"):
            await attempt
    with pytest.raises(ConfigError, match="init-config"):
        await anext(empty.store.watch())


async def test_what_is_committed_is_in_the_snapshot(world: World) -> None:
    assert await commit(world, Change(0, put_subnets=[NODE1, NODE2], put_namespaces=[RED, BLUE]))
    now = await world.store.snapshot()
    assert now.host_subnets == {IP1: NODE1, IP2: NODE2}
    assert now.net_namespaces == {"red": RED, "blue": BLUE}
    assert now.problems == {}
    assert await commit(world, Change(0, delete_subnets=[IP1], delete_namespaces=["blue"]))
    now = await world.store.snapshot()
    assert now.host_subnets == {IP2: NODE2}
    assert now.net_namespaces == {"red": RED}


async def test_two_commits_on_one_base_cannot_both_win(world: World) -> None:
    base = (await world.store.snapshot()).revision
    assert await world.store.commit(Change(base, put_namespaces=[RED]))
    assert not await world.store.commit(Change(base, put_namespaces=[NetNamespace("blue", Vni(10))]))
    assert (await world.store.snapshot()).net_namespaces == {"red": RED}


async def test_a_record_rewritten_since_refuses_the_commit(world: World) -> None:
    assert await commit(world, Change(0, put_namespaces=[RED]))
    base = (await world.store.snapshot()).revision
    world.put(world.keys.namespace("red"), '{"NetName":"red","NetID":0}')
    assert not await world.store.commit(Change(base, delete_namespaces=["red"]))


async def test_a_change_of_the_other_kind_does_not_refuse_the_commit(world: World) -> None:
    base = (await world.store.snapshot()).revision
    assert await world.store.commit(Change(base, put_namespaces=[RED]))
    assert await world.store.commit(Change(base, put_subnets=[NODE1]))


async def test_an_empty_change_succeeds(world: World) -> None:
    assert await world.store.commit(Change(0))


async def test_a_large_change_is_one_transaction(world: World) -> None:
    many = [HostSubnet(f"n{n}", IP1 + n, None) for n in range(2000)]
    base = (await world.store.snapshot()).revision
    async with watching(world.store) as seen:
        await seen.until_synced()
        assert await world.store.commit(Change(base, put_subnets=many))
        await seen.count(len(many))
        assert [len(batch) for batch in seen.batches] == [2, len(many)]
    assert not await world.store.commit(Change(base, put_subnets=[NODE2]))


async def test_a_record_that_nobody_could_read_is_not_written(world: World) -> None:
    base = (await world.store.snapshot()).revision
    with pytest.raises(RecordError, match="NetID 5 is reserved"):
        await world.store.commit(Change(base, put_namespaces=[RED, NetNamespace("green", Vni(5))]))
    assert (await world.store.snapshot()).net_namespaces == {}


async def test_keys_that_are_not_ours_survive_a_rewrite(world: World) -> None:
    world.put(world.keys.namespace("red"), '{"NetName":"red","NetID":10,"Team":{"on call":[1,"zwei"]}}')
    record = (await world.store.snapshot()).net_namespaces["red"]
    assert await commit(world, Change(0, put_namespaces=[NetNamespace("red", Vni(11), extra=record.extra)]))
    record = (await world.store.snapshot()).net_namespaces["red"]
    assert record == NetNamespace("red", Vni(11))
    assert record.extra == {"Team": {"on call": [1, "zwei"]}}


async def test_a_malformed_record_is_reported_and_the_rest_goes_on(world: World) -> None:
    bad = world.keys.namespace("bad")
    world.put(bad, "{")
    world.put(world.keys.subnets + "nonsense", "{}")
    assert await commit(world, Change(0, put_namespaces=[RED]))
    now = await world.store.snapshot()
    assert now.net_namespaces == {"red": RED}
    assert set(now.problems) == {bad, world.keys.subnets + "nonsense"}
    assert "not JSON" in str(now.problems[bad])


async def test_other_keys_of_the_network_are_left_alone(world: World) -> None:
    world.put(world.keys.root + "config", "whatever")
    world.put(world.keys.root + "subnets", "whatever")
    now = await world.store.snapshot()
    assert (now.host_subnets, now.net_namespaces, now.problems) == ({}, {}, {})


async def test_a_watch_tells_what_exists_then_what_changes_a_batch_a_revision(world: World) -> None:
    assert await commit(world, Change(0, put_subnets=[NODE1], put_tenants=[RED_TENANT]))
    async with watching(world.store) as seen:
        await seen.until_synced()
        assert seen.batches[0][-2:] == [Synced(Source.HOST_SUBNETS), Synced(Source.TENANTS)]
        assert set(seen.events) == {HostSubnetSet(NODE1), TenantSet(RED_TENANT)}
        assert await commit(
            world, Change(0, put_subnets=[NODE2], delete_subnets=[IP1], delete_tenants=["red"])
        )
        assert await commit(world, Change(0, put_tenants=[BLUE_TENANT], put_namespaces=[BLUE]))
        await seen.count(6)
        assert [set(batch) for batch in seen.batches[1:]] == [
            {HostSubnetSet(NODE2), HostSubnetGone(IP1), TenantGone("red")},
            {TenantSet(BLUE_TENANT)},
        ]


async def test_of_net_namespaces_a_watch_tells_only_that_something_changed(world: World) -> None:
    assert await commit(world, Change(0, put_namespaces=[RED]))
    async with watching(world.store) as seen:
        await seen.until_synced()
        assert seen.events == []
        for number, change in enumerate(
            (Change(0, put_namespaces=[BLUE]), Change(0, delete_namespaces=["red"]))
        ):
            assert await commit(world, change)
            await seen.until(lambda number=number: len(seen.batches) == number + 2, "a batch")
        assert seen.batches[1:] == [[], []]


async def test_a_watch_tells_which_host_subnet_was_written_later(world: World) -> None:
    assert await commit(world, Change(0, put_subnets=[NODE1]))
    async with watching(world.store) as seen:
        await seen.until_synced()
        assert await commit(world, Change(0, put_subnets=[NODE2]))
        assert await commit(world, Change(0, put_subnets=[NODE1]))
        await seen.count(3)
        revisions = [event.record.revision for event in seen.events if isinstance(event, HostSubnetSet)]
        assert 0 < revisions[0] < revisions[1] < revisions[2]
    async with watching(world.store) as late:
        await late.until_synced()
        told = {e.record.host_ip: e.record.revision for e in late.events if isinstance(e, HostSubnetSet)}
        assert told == {NODE2.host_ip: revisions[1], NODE1.host_ip: revisions[2]}


async def test_an_empty_network_is_synced_at_once(world: World) -> None:
    async with watching(world.store) as seen:
        await seen.until_synced()
        assert seen.batches == [[Synced(Source.HOST_SUBNETS), Synced(Source.TENANTS)]]


async def test_a_record_that_becomes_malformed_keeps_what_was_known(world: World) -> None:
    key = world.keys.tenant("red")
    world.put(key, '{"Namespace":"red","NetID":10}')
    async with watching(world.store) as seen:
        await seen.until_synced()
        world.put(key, '{"Namespace":"red","NetID":"ten"}')
        world.put(world.keys.tenant("blue"), '{"Namespace":"blue","NetID":12}')
        assert await seen.count(2) == [TenantSet(RED_TENANT), TenantSet(Tenant("blue", Vni(12)))]
        assert list(world.store.problems) == [key]
        assert "NetID is 'ten'" in str(world.store.problems[key])
        world.put(key, '{"Namespace":"red","NetID":13}')
        assert (await seen.count(3))[2] == TenantSet(Tenant("red", Vni(13)))
        assert world.store.problems == {}


async def test_a_malformed_record_alone_wakes_every_watch(world: World) -> None:
    key = world.keys.namespace("never")
    async with watching(world.store) as one, watching(world.store) as two:
        await one.until_synced()
        await two.until_synced()
        world.put(key, "[]")
        for seen in (one, two):
            await seen.until(lambda seen=seen: len(seen.batches) == 2, "a batch")
            assert list(world.store.problems) == [key]
        world.delete(key)
        for seen in (one, two):
            await seen.until(lambda seen=seen: len(seen.batches) == 3, "another batch")
            assert seen.events == []
        assert world.store.problems == {}


async def test_a_malformed_record_that_goes_away_is_no_problem_any_more(world: World) -> None:
    key, never = world.keys.tenant("red"), world.keys.namespace("never")
    world.put(key, '{"Namespace":"red","NetID":10}')
    world.put(never, "[]")
    async with watching(world.store) as seen:
        await seen.until_synced()
        assert list(world.store.problems) == [never]
        world.put(key, "[]")
        world.delete(never)
        world.delete(key)
        assert await seen.count(2) == [TenantSet(RED_TENANT), TenantGone("red")]
        assert world.store.problems == {}


async def test_two_watches_of_one_store_both_hear_everything(world: World) -> None:
    async with watching(world.store) as one, watching(world.store) as two:
        await one.until_synced()
        await two.until_synced()
        assert await commit(world, Change(0, put_tenants=[RED_TENANT]))
        assert await one.count(1) == await two.count(1) == [TenantSet(RED_TENANT)]


async def test_tenants_are_in_the_snapshot_beside_their_net_namespaces(world: World) -> None:
    assert await commit(world, Change(0, put_namespaces=[RED, BLUE], put_tenants=[RED_TENANT, BLUE_TENANT]))
    now = await world.store.snapshot()
    assert now.net_namespaces == {"red": RED, "blue": BLUE}
    assert now.tenants == {"red": RED_TENANT, "blue": BLUE_TENANT}
    assert now.config == CONFIG
    assert await commit(world, Change(0, delete_tenants=["blue"]))
    assert (await world.store.snapshot()).tenants == {"red": RED_TENANT}


@pytest.mark.parametrize("first", ["namespaces", "tenants"])
async def test_a_write_to_either_of_net_namespaces_and_tenants_refuses_one_to_the_other(
    world: World, first: str
) -> None:
    base = (await world.store.snapshot()).revision
    changes = {
        "namespaces": Change(base, put_namespaces=[RED]),
        "tenants": Change(base, put_tenants=[BLUE_TENANT]),
    }
    assert await world.store.commit(changes.pop(first))
    assert not await world.store.commit(*changes.values())
    assert await world.store.commit(Change(base, put_subnets=[NODE1]))


@pytest.mark.parametrize("gone", ["tenant", "namespace"])
async def test_what_a_change_needs_must_be_there_still(world: World, gone: str) -> None:
    both = Change(0, put_namespaces=[RED, BLUE], put_tenants=[RED_TENANT, BLUE_TENANT])
    assert await commit(world, both)
    base = (await world.store.snapshot()).revision
    needing = Change(base, put_tenants=[RED_TENANT], needs_tenants=["red", "blue"], needs_namespaces=["blue"])
    assert await world.store.commit(needing)
    world.delete(getattr(world.keys, gone)("blue"))
    assert not await commit(world, needing)
    now = await world.store.snapshot()
    assert ("blue" in now.tenants, "blue" in now.net_namespaces) == (gone != "tenant", gone != "namespace")


async def test_as_much_may_be_needed_as_is_promised(world: World) -> None:
    names = [f"n{number}" for number in range(MAX_NEEDS)]
    tenants = [replace(RED_TENANT, name=name, vni=Vni(20 + n)) for n, name in enumerate(names)]
    assert await commit(world, Change(0, put_tenants=tenants))
    assert await commit(world, Change(0, put_tenants=[RED_TENANT], needs_tenants=names))


async def test_former_subnets_are_written_read_and_deleted_with_host_subnets(world: World) -> None:
    assert await commit(world, Change(0, put_subnets=[NODE1]))
    one = FormerSubnet("node1", IPv4Network("172.11.0.0/22"))
    assert await commit(world, Change(0, delete_subnets=[IP1], put_former=[one, AWAY]))
    now = await world.store.snapshot()
    assert (now.host_subnets, now.former) == ({}, {"node1": one, "node9": AWAY})
    assert await commit(world, Change(0, put_subnets=[NODE1], delete_former=["node1"]))
    now = await world.store.snapshot()
    assert (now.host_subnets, now.former, now.problems) == ({IP1: NODE1}, {"node9": AWAY}, {})


@pytest.mark.parametrize("first", ["subnets", "former", "forgotten"])
@pytest.mark.parametrize("second", ["subnets", "former", "forgotten"])
async def test_a_write_to_either_of_host_subnets_and_former_ones_refuses_one_to_the_other(
    world: World, first: str, second: str
) -> None:
    base = (await world.store.snapshot()).revision
    changes = {
        "subnets": Change(base, put_subnets=[NODE1]),
        "former": Change(base, put_former=[AWAY]),
        "forgotten": Change(base, delete_former=["node7"], put_former=[AWAY]),
    }
    assert await world.store.commit(changes[first])
    assert not await world.store.commit(changes[second])
    assert await world.store.commit(Change(base, put_namespaces=[RED]))


async def test_former_subnets_keep_unknown_keys_and_malformed_ones_are_reported(world: World) -> None:
    world.put(world.keys.former("node9"), '{"Host":"node9","Subnet":"172.11.8.0/22","Note":"mine"}')
    world.put(world.keys.former("node8"), '{"Host":"node7","Subnet":"172.11.8.0/22"}')
    now = await world.store.snapshot()
    assert now.former == {"node9": AWAY}
    assert now.former["node9"].extra == {"Note": "mine"}
    assert "Host is 'node7'" in str(now.problems[world.keys.former("node8")])
    moved = replace(now.former["node9"], subnet=IPv4Network("172.11.12.0/22"))
    assert await commit(world, Change(0, put_former=[moved]))
    again = (await world.store.snapshot()).former["node9"]
    assert (again, again.extra) == (moved, {"Note": "mine"})


async def test_a_watch_hears_nothing_of_former_subnets(world: World) -> None:
    async with watching(world.store) as seen:
        await seen.until_synced()
        world.put(world.keys.former("node8"), "{")
        assert await commit(world, Change(0, put_former=[AWAY]))
        assert await commit(world, Change(0, put_subnets=[NODE1]))
        await seen.count(1)
        assert seen.batches[1:] == [[HostSubnetSet(NODE1)]]
        assert world.store.problems == {}


async def test_a_malformed_tenant_is_reported_under_its_key(world: World) -> None:
    world.put(world.keys.tenant("red"), '{"Namespace":"red","NetID":10,"Change":{"ID":"x"}}')
    now = await world.store.snapshot()
    assert now.tenants == {}
    assert "ID of the Change is 'x'" in str(now.problems[world.keys.tenant("red")])


async def test_the_snapshot_follows_the_name_in_the_network_config(world: World) -> None:
    assert await commit(world, Change(0, put_namespaces=[RED]))
    other = replace(CONFIG, name="other")
    world.put(f"{world.prefix}/config", other.to_json())
    now = await world.store.snapshot()
    assert (now.config, now.net_namespaces) == (other, {})
    world.put(f"{world.prefix}/config", CONFIG.to_json())
    assert (await world.store.snapshot()).net_namespaces == {"red": RED}


async def test_what_a_watch_has_told_reaches_as_far_as_the_newest_record(world: World) -> None:
    assert (await world.store.snapshot()).newest == world.store.told == 0
    await commit(world, Change(0, put_subnets=[NODE1]))
    first = (await world.store.snapshot()).newest
    assert first > 0
    async with watching(world.store) as seen:
        await seen.until_synced()
        assert world.store.told >= first
        await commit(world, Change(0, put_tenants=[RED_TENANT], put_namespaces=[RED]))
        await seen.until(lambda: TenantSet(RED_TENANT) in seen.events, "the tenant")
        now = await world.store.snapshot()
        assert first < now.newest <= world.store.told <= now.revision
