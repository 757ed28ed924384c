"""The agent as a whole on a dataplane in memory: what it waits for, what it announces, and what does not end it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.agent import World, running
from fakes.dataplane_examples import attachment, pod_link
from fakes.node import CONFIG, OTHER, OWN, WEB
from fakes.watching import until
from k8s_ovs.agent import app
from k8s_ovs.config import DEFAULT_PREFIX
from k8s_ovs.dataplane.bridge import FirewallSpec
from k8s_ovs.errors import (
    ConfigError,
    EtcdDenied,
    EtcdUnavailable,
    FirewallError,
    LinkError,
    OpenFlowError,
    OvsdbError,
)
from k8s_ovs.model.types import Tenant, Vni
from k8s_ovs.sources.kube.objects import ObjectMeta, Pod
from k8s_ovs.sources.kube.reflector import Deleted, InSync, Upserted
from k8s_ovs.sources.records import config_key


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_it_serves_once_everything_is_there(world: World) -> None:
    async with running(world):
        await until(lambda: "write one with `k8s-ovs init-config`" in world.why("network-config"), "config")
        assert world.why("bridge").startswith("waiting for config")
        assert world.why("nat") == "the NAT rules have not been written yet"
        assert not world.conflist.exists()
        assert world.metric("k8s_ovs_agent_ready") == 0
        world.configure()
        await until(lambda: world.why("network-config") == "", "config")
        await until(lambda: "no host subnet for node1 yet" in world.why("bridge"), "subnet")
        await until(
            lambda: world.firewall.rules == FirewallSpec(CONFIG.network, CONFIG.service_network, "tun0"),
            "NAT rules",
        )
        assert not world.conflist.exists()
        assert world.ready == 0
        world.store.put(OWN, OTHER, WEB)
        await world.serving()
        assert '"type": "k8s-ovs"' in world.conflist.read_text()
        assert world.metric("k8s_ovs_agent_ready") == 1
        assert world.metric("k8s_ovs_hosts") == 2
        assert world.metric("k8s_ovs_flows") == len(world.flows.content())
        assert world.settings.cni.socket.is_socket()
    assert not world.settings.cni.socket.exists()
    assert world.conflist.exists()


@pytest.mark.parametrize(
    "refusal",
    [EtcdUnavailable("etcd: no endpoint answers"), EtcdDenied("etcd: permission denied")],
    ids=["unavailable", "denied"],
)
async def test_a_store_that_refuses_first_is_waited_for(world: World, refusal: EtcdUnavailable) -> None:
    world.fill()
    world.store.outage = refusal
    async with running(world):
        await until(lambda: world.why("network-config") == str(refusal), "refusal")
        assert str(refusal) in world.why("bridge")
        world.store.outage = None
        await world.serving()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"Name": "k8ssdn"}', "HostSubnetLength is None"),
        (CONFIG.to_json().replace("10.96.0.0/12", "172.11.0.0/24"), "overlap"),
    ],
)
async def test_a_wrong_network_config_is_told_and_mended_without_a_restart(
    world: World, text: str, said: str
) -> None:
    world.store.put_raw(config_key(DEFAULT_PREFIX), text)
    async with running(world):
        await until(lambda: said in world.why("network-config"), said)
        world.fill()
        await world.serving()


async def test_malformed_records_are_skipped_and_counted(world: World) -> None:
    world.configure()
    keys = world.store.keys
    world.store.put_raw(f"{keys.subnets}192.0.2.77", "no JSON")
    world.store.put_raw(f"{keys.namespaces}db", '{"NetName": "db", "NetID": -4}')
    world.store.put(OWN, WEB)
    async with running(world):
        await world.serving()
        assert world.metric("k8s_ovs_store_problems") == 2
        world.store.put_raw(f"{keys.subnets}192.0.2.2", b"\xff\xfe")
        await until(lambda: world.metric("k8s_ovs_store_problems") == 3, "the third")
        world.store.put(Tenant("db", Vni(77)), OTHER)
        await until(lambda: world.metric("k8s_ovs_hosts") == 2, "the record that was mended")


async def test_an_outage_of_the_store_later_changes_nothing_for_those_who_are_there(world: World) -> None:
    world.fill()
    async with running(world):
        await world.serving()
        flows = world.flows.content()
        world.store.outage = EtcdUnavailable("etcd: no endpoint answers")
        assert world.health.ready
        assert world.metric("k8s_ovs_store_outage") == 1
        assert world.flows.content() == flows
        world.store.put(replace(OTHER, host_ip=OTHER.host_ip + 1, host="node3", subnet=None))
        world.store.outage = None
        await until(lambda: world.metric("k8s_ovs_hosts") == 3, "the record written meanwhile")


async def test_a_watch_that_ends_is_begun_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill()
    whole, begun = world.store.watch, 0

    async def watch() -> AsyncIterator[object]:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise EtcdDenied("etcd: user root: authentication failed")
        if begun == 2:
            return
        async for batch in whole():
            yield batch

    monkeypatch.setattr(world.store, "watch", watch)
    async with running(world):
        await until(lambda: "authentication failed" in world.why("bridge"), "refusal")
        await world.serving()
        assert begun == 3


async def test_without_nat_rules_it_is_not_ready(world: World) -> None:
    world.fill()
    world.firewall.fail_next("ensure", FirewallError("iptables: No such file or directory"))
    async with running(world):
        await until(lambda: world.why("nat") == "iptables: No such file or directory", "refusal")
        assert not world.conflist.exists()
        assert world.ready == 0
        await world.serving()


async def test_without_nat_rules_no_pod_is_served(world: World) -> None:
    """They are part of the isolation: without them the host would route past the bridge."""
    world.fill()
    world.firewall.fail_next("ensure", FirewallError("iptables: No such file or directory"), times=1000)
    async with running(world) as _:
        await until(lambda: not world.why("bridge"), "bridge")
        status, answer = await world.call("STATUS")
        assert status == 1
        assert "iptables: No such file or directory" in answer


async def test_a_request_that_runs_when_the_agent_is_stopped_is_finished(world: World) -> None:
    """The owners of switch and bridge outlive it."""
    world.fill()
    world.links.namespaces.add("/run/netns/1")
    async with running(world) as _:
        await world.serving()
        gate = world.links.hold("create")
        adding = asyncio.create_task(world.call("ADD", netns="/run/netns/1"), name="add")
        await until(lambda: "create" in world.links.calls, "the ADD is under way")
        asyncio.get_running_loop().call_later(0.05, gate.set)
    status, text = await adding
    assert status == 0, text
    assert [row.key.sandbox for row in world.switch.attachments()] == ["sandbox"]


async def test_a_switch_that_is_away_ends_nothing(world: World) -> None:
    world.fill()
    world.switch.fail_next("ensure_bridge", OvsdbError("ovsdb-server cannot be reached"))
    world.flows.fail_next("dump", OpenFlowError("no answer"), times=3)
    async with running(world):
        await until(lambda: "ovsdb-server cannot be reached" in world.why("bridge"), "trouble")
        await world.serving()
        failures = world.metric("k8s_ovs_sync_failures_total")
        world.flows.fail_next("replace", OpenFlowError("no answer from br0.mgmt"))
        world.flows.clear()
        world.switch.restart_vswitchd()
        await until(lambda: world.why("bridge") == "no answer from br0.mgmt", "trouble")
        assert world.metric("k8s_ovs_agent_ready") == 0
        await until(lambda: world.health.ready and bool(world.flows.content()), "repair")
        assert world.metric("k8s_ovs_sync_failures_total") == failures + 1
        assert world.ready == 1


async def test_an_equal_conflist_is_not_written_again(world: World) -> None:
    world.fill()
    async with running(world):
        await world.serving()
    before = world.conflist.stat()
    again = World(world.conf_dir.parent)
    again.fill()
    async with running(again):
        await again.serving()
    after = again.conflist.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_a_conflist_that_was_removed_or_changed_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LOOK_AGAIN", 0.02)
    world.fill()
    async with running(world):
        await world.serving()
        text = world.conflist.read_text()
        world.conflist.unlink()
        await until(world.conflist.exists, "the file")
        world.conflist.write_bytes(b"\xff")
        await until(lambda: world.conflist.read_bytes() == text.encode(), "the text")
        assert world.ready == 1


async def test_a_conflist_that_cannot_be_written_is_told_and_ends_nothing(world: World) -> None:
    world.fill()
    world.conf_dir.write_text("a file where the folder should be")
    async with running(world):
        await until(lambda: "cannot write" in world.why("conflist"), "trouble")
        assert world.why("conflist").endswith("make the directory writable or choose --cni-conf-dir")
        assert world.ready == 0
        assert world.why("bridge") == ""
        world.conf_dir.unlink()
        await world.serving()


async def test_what_an_agent_before_left_behind_is_removed_at_start(world: World) -> None:
    world.fill()
    for number in (1, 2):
        await world.attach(number)
    world.links.lose_namespace("/run/netns/1")
    await world.links.create(replace(pod_link(3, "/run/netns/2"), ifname="eth9"))
    async with running(world):
        await world.serving()
        assert [lease.pod for lease in world.switch.attachments()] == ["pod-2"]
        assert list(world.links.pairs) == [attachment(2).host_ifname]
        assert world.metric("k8s_ovs_leases_collected_total") == 2
        assert world.metric("k8s_ovs_pods") == 1


async def test_a_deleted_pod_whose_sandbox_is_gone_is_collected(world: World) -> None:
    world.fill()
    await world.attach(1)
    async with running(world):
        await world.serving()
        world.pod_events.put_nowait([Upserted(Pod(metadata=ObjectMeta(name="pod-1"))), InSync()])
        world.links.lose_namespace("/run/netns/1")
        world.pod_events.put_nowait([Deleted("web", "pod-1")])
        await until(lambda: not world.switch.rows, "collection")
        assert world.metric("k8s_ovs_leases_collected_total") == 1


async def test_a_sandbox_that_vanishes_without_a_word_is_collected_once_a_period(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither DEL nor the API tells of it."""
    monkeypatch.setattr(app, "LOOK_AGAIN", 0.02)
    world.settings = replace(world.settings, resync_period=0.1)
    world.fill()
    await world.attach(1)
    async with running(world):
        await world.serving()
        world.links.lose_namespace("/run/netns/1")
        await until(lambda: not world.switch.rows, "collection")
        assert world.metric("k8s_ovs_leases_collected_total") == 1


async def test_an_address_is_cleaned_when_its_pod_is_gone(world: World) -> None:
    """At start all that are free are; later the one that is freed."""
    world.fill()
    await world.attach(1)
    address = attachment(1).address
    async with running(world):
        await world.serving()
        await until(lambda: len(world.flows.forgotten_addresses) == 1020, "the free ones")
        assert address not in world.flows.forgotten_addresses
        status, answer = await world.call("DEL", netns="/run/netns/1")
        assert status == 0, answer
        world.links.lose_namespace("/run/netns/1")
        world.pod_events.put_nowait([Deleted("web", "pod-1")])
        await until(lambda: address in world.flows.forgotten_addresses, "its own")
        await until(lambda: address in world.host.forgotten, "the kernel's")


async def test_a_collection_that_fails_or_comes_in_bad_times_is_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LOOK_AGAIN", 0.02)
    world.fill()
    await world.attach(1)
    async with running(world):
        await world.serving()
        world.links.lose_namespace("/run/netns/1")
        world.flows.fail_next("replace", OpenFlowError("no answer from br0.mgmt"))
        world.switch.disturb()
        await until(lambda: not world.health.ready, "trouble")
        world.links.fail_next("leftovers", LinkError("netlink: no buffer space"))
        world.switch.fail_next("remove_port", OvsdbError("no space left on device"))
        world.pod_events.put_nowait([Deleted("web", "pod-1")])
        await until(lambda: not world.switch.rows, "collection")


async def test_a_socket_that_another_agent_serves_is_a_wrong_setting(world: World) -> None:
    world.fill()
    async with running(world):
        await world.serving()
        other = World(world.conf_dir.parent)
        with pytest.raises(ExceptionGroup) as ended:
            await other.agent().run()
        assert ended.group_contains(ConfigError, match="another agent serves this socket")
