"""A node's view: event by event it has to be what a slow and plain reading of the same objects says."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.events import ADDRESSES, HOST, HOST_IPS, histories
from k8s_ovs.config import Mode, NetworkConfig
from k8s_ovs.model.events import (
    AttachmentGone,
    AttachmentSet,
    ConfigSet,
    Event,
    HostSubnetGone,
    HostSubnetSet,
    Source,
    Synced,
    TenantGone,
    TenantSet,
)
from k8s_ovs.model.records import (
    LOCAL_HOST,
    LocalHost,
    LocalPod,
    LocalPodKey,
    RemoteHost,
    RemoteHostKey,
    TenantKey,
    TenantPresent,
    ViewKey,
    ViewRecord,
)
from k8s_ovs.model.state import ClusterState
from k8s_ovs.model.types import (
    Attachment,
    AttachmentKey,
    HostSubnet,
    OfPort,
    SandboxId,
    Tenant,
    TenantChange,
    TenantStep,
    Vni,
)
from k8s_ovs.model.view import NodeView

CONFIG = NetworkConfig(
    "k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT
)


def in_place(record: HostSubnet, config: NetworkConfig) -> bool:
    subnet = record.subnet
    inside = record.host_ip in config.network or record.host_ip in config.service_network
    return subnet is not None and subnet.subnet_of(config.network) and not inside


def age(record: HostSubnet) -> tuple[int, IPv4Address]:
    return record.revision, record.host_ip


def plain_local(state: ClusterState) -> LocalHost | None:
    config = state.config
    for record in sorted(state.host_subnets.values(), key=age):
        host_ip, subnet = record.host_ip, record.subnet
        if config and subnet and record.host == HOST and subnet.prefixlen <= 30 and in_place(record, config):
            return LocalHost(config, host_ip, subnet, subnet.network_address + 1)
    return None


def plain_remote(state: ClusterState, record: HostSubnet) -> RemoteHost | None:
    config, local, subnet = state.config, plain_local(state), record.subnet
    if config is None or subnet is None or record.host == HOST or not in_place(record, config):
        return None
    if local is not None and subnet.overlaps(local.subnet):
        return None
    for other in state.host_subnets.values():
        if other.subnet is None or other.host == HOST or not in_place(other, config):
            continue
        if age(other) < age(record) and other.subnet.overlaps(subnet):
            return None
    return RemoteHost(record.host_ip, subnet)


def plain_vnis(state: ClusterState, namespace: str) -> tuple[Vni, tuple[Vni, ...]] | None:
    """What the pods of a Namespace send with, and what they accept: the steps of the protocol as a table."""
    if state.config is not None and state.config.mode is Mode.SUBNET:
        return Vni(0), (Vni(0),)
    tenant = state.tenants.get(namespace)
    if state.config is None or tenant is None:
        return None
    if tenant.change is None:
        return tenant.vni, (tenant.vni,)
    old, new = tenant.change.old, tenant.change.new
    both = (Vni(0),) if 0 in (old, new) else (old,) if old == new else (old, new)
    return {
        TenantStep.ACCEPT: (old, both),
        TenantStep.SEND: (new, both),
        TenantStep.CLOSE: (new, (new,)),
    }[tenant.change.step]


def plain_pod(state: ClusterState, pod: Attachment) -> LocalPod | None:
    local, vnis, port = plain_local(state), plain_vnis(state, pod.namespace), pod.ofport
    others = [other for other in state.attachments.values() if other.key != pod.key]
    if (
        local is None
        or vnis is None
        or port is None
        or port < 3
        or any(other.ofport == port for other in others)
    ):
        return None
    if pod.address not in list(local.subnet.hosts())[1:]:
        return None
    if any(other.address == pod.address and other.key < pod.key for other in others):
        return None
    return LocalPod(pod, port, *vnis)


def plain_records(state: ClusterState) -> dict[ViewKey, ViewRecord]:
    """The view as one would explain it, without indices."""
    found: dict[ViewKey, ViewRecord | None] = {LOCAL_HOST: plain_local(state)}
    for record in state.host_subnets.values():
        found[RemoteHostKey(record.host_ip)] = plain_remote(state, record)
    for pod in state.attachments.values():
        found[LocalPodKey(pod.key)] = plain_pod(state, pod)
    accepted = [record.accepts for record in found.values() if isinstance(record, LocalPod)]
    for vni in {vni for vnis in accepted for vni in vnis if vni}:
        second = any(vnis[1:] == (vni,) for vnis in accepted)
        found[TenantKey(vni)] = TenantPresent(vni, any(vnis[0] == vni for vnis in accepted), second)
    return {key: record for key, record in found.items() if record is not None}


@settings(max_examples=120, deadline=None)
@given(histories())
def test_event_by_event_is_what_a_plain_reading_says(history: list[Event]) -> None:
    view = NodeView(HOST)
    known: dict[ViewKey, ViewRecord] = {}
    for event in history:
        dirty = view.apply(event)
        expected = plain_records(view.state)
        assert view.records() == expected
        changed = {key for key in known.keys() | expected.keys() if known.get(key) != expected.get(key)}
        assert changed <= dirty
        assert view.apply(event) == frozenset()
        known = expected


@settings(max_examples=60, deadline=None)
@given(histories(), st.randoms())
def test_the_order_of_objects_makes_no_difference(history: list[Event], random: Random) -> None:
    first = NodeView(HOST)
    for event in history:
        first.apply(event)
    told = list(first.state.events()) * 2
    random.shuffle(told)
    second = NodeView(HOST)
    for event in told:
        second.apply(event)
    assert second.state == first.state
    assert second.records() == first.records()
    assert {name: str(error) for name, error in second.problems.items()} == {
        name: str(error) for name, error in first.problems.items()
    }


@settings(max_examples=60, deadline=None)
@given(histories())
def test_whatever_is_unusable_is_reported_and_whatever_is_reported_is_unusable(history: list[Event]) -> None:
    view = NodeView(HOST)
    for event in history:
        view.apply(event)
    config = view.state.config
    if config is None:
        assert not view.problems
        return
    for record in view.state.host_subnets.values():
        has_record = view.record(RemoteHostKey(record.host_ip)) is not None
        is_local = view.local is not None and view.local.host_ip == record.host_ip
        waiting = record.subnet is None
        assert (f"subnets/{record.host_ip}" in view.problems) == (not (has_record or is_local or waiting))
    for error in view.problems.values():
        assert error.remedy


def attachment(number: int, address: str, namespace: str = "red", port: int | None = None) -> Attachment:
    key = AttachmentKey(SandboxId(f"s{number}"), "eth0")
    ofport = OfPort(port if port is not None else number + 3)
    return Attachment(
        key, IPv4Address(address), namespace, f"pod{number}", "uid", "/run/netns/x", "veth", ofport
    )


def view_of(*more: Event) -> NodeView:
    view = NodeView(HOST)
    for event in (
        ConfigSet(CONFIG),
        HostSubnetSet(HostSubnet(HOST, HOST_IPS[1], IPv4Network("172.11.0.0/22"))),
        TenantSet(Tenant("red", Vni(10))),
        *more,
    ):
        view.apply(event)
    return view


def test_a_namespace_without_a_record_has_no_vni_and_its_pods_no_flows() -> None:
    pod = attachment(0, "172.11.0.2", "unknown")
    view = view_of(AttachmentSet(pod))
    assert view.vni_of("unknown") is None
    assert view.record(LocalPodKey(pod.key)) is None
    assert view.apply(TenantSet(Tenant("unknown", Vni(12)))) == {
        LocalPodKey(pod.key),
        TenantKey(Vni(12)),
    }
    assert view.record(LocalPodKey(pod.key)) == LocalPod(pod, OfPort(3), Vni(12), (Vni(12),))


def test_a_namespace_whose_record_is_deleted_loses_its_flows() -> None:
    pod = attachment(0, "172.11.0.2")
    view = view_of(AttachmentSet(pod))
    assert view.apply(TenantGone("red")) == {LocalPodKey(pod.key), TenantKey(Vni(10))}
    assert view.record(LocalPodKey(pod.key)) is None


def test_each_step_of_a_change_touches_only_what_it_makes_a_difference_to() -> None:
    pod = attachment(0, "172.11.0.2")
    view = view_of(AttachmentSet(pod))
    its, tenants = LocalPodKey(pod.key), {TenantKey(Vni(10)), TenantKey(Vni(12))}

    def goes(step: TenantStep) -> frozenset[ViewKey]:
        return view.apply(TenantSet(Tenant("red", Vni(10), TenantChange("0badcafe", step, Vni(10), Vni(12)))))

    assert goes(TenantStep.ACCEPT) == {its, *tenants}
    assert goes(TenantStep.SEND) == {its}
    assert goes(TenantStep.CLOSE) == {its, *tenants}
    assert view.steps == {"red": "0badcafe/close"}
    assert view.apply(TenantSet(Tenant("red", Vni(12)))) == frozenset()
    assert view.steps == {}


def test_the_last_pod_takes_its_tenant_along() -> None:
    pods = [attachment(0, "172.11.0.2"), attachment(1, "172.11.0.3")]
    view = view_of(*map(AttachmentSet, pods))
    view.apply(AttachmentGone(pods[0].key))
    assert view.record(TenantKey(Vni(10))) == TenantPresent(Vni(10))
    assert TenantKey(Vni(10)) in view.apply(AttachmentGone(pods[1].key))
    assert view.record(TenantKey(Vni(10))) is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (HostSubnet("n", HOST_IPS[0], IPv4Network("10.1.0.0/22")), "not inside Network"),
        (HostSubnet("n", HOST_IPS[0], IPv4Network("172.11.2.0/24")), "of this node"),
        (HostSubnet("n", HOST_IPS[4], IPv4Network("172.11.4.0/22")), "inside Network"),
        (HostSubnet("n", IPv4Address("10.96.0.9"), IPv4Network("172.11.4.0/22")), "inside ServiceNetwork"),
        (HostSubnet(HOST, HOST_IPS[2], IPv4Network("172.11.4.0/22")), "names node1"),
    ],
)
def test_a_record_that_cannot_be_used_is_reported_with_its_reason(record: HostSubnet, reason: str) -> None:
    view = view_of(HostSubnetSet(record))
    assert view.record(RemoteHostKey(record.host_ip)) is None
    assert reason in str(view.problems[f"subnets/{record.host_ip}"])
    view.apply(HostSubnetGone(record.host_ip))
    assert view.problems == {}


def test_of_two_that_overlap_the_lower_address_wins_and_its_end_frees_the_other() -> None:
    low = HostSubnet("a", HOST_IPS[0], IPv4Network("172.11.8.0/22"))
    high = HostSubnet("b", HOST_IPS[2], IPv4Network("172.11.9.0/24"))
    view = view_of(HostSubnetSet(high), HostSubnetSet(low))
    assert view.record(RemoteHostKey(low.host_ip)) == RemoteHost(low.host_ip, IPv4Network("172.11.8.0/22"))
    assert view.record(RemoteHostKey(high.host_ip)) is None
    assert RemoteHostKey(high.host_ip) in view.apply(HostSubnetGone(low.host_ip))
    assert view.record(RemoteHostKey(high.host_ip)) == RemoteHost(high.host_ip, IPv4Network("172.11.9.0/24"))


def test_an_edit_by_hand_takes_nothing_from_a_host_whose_record_nobody_touched() -> None:
    """The lower address alone would give it the other's subnet."""
    edited = HostSubnet("a", HOST_IPS[0], IPv4Network("172.11.4.0/22"), revision=7)
    kept = HostSubnet("b", HOST_IPS[2], IPv4Network("172.11.8.0/22"), revision=8)
    view = view_of(HostSubnetSet(edited), HostSubnetSet(kept))
    dirty = view.apply(
        HostSubnetSet(replace(edited, subnet=IPv4Network("172.11.8.0/21"), revision=9)),
    )
    assert dirty >= {RemoteHostKey(edited.host_ip), RemoteHostKey(kept.host_ip)}
    assert view.record(RemoteHostKey(kept.host_ip)) == RemoteHost(kept.host_ip, IPv4Network("172.11.8.0/22"))
    assert view.record(RemoteHostKey(edited.host_ip)) is None
    assert "overlaps 172.11.8.0/22 of b" in str(view.problems[f"subnets/{edited.host_ip}"])


def test_a_record_written_again_as_it_was_is_a_later_one() -> None:
    """Whoever starts now must judge as those who have watched all the time."""
    first = HostSubnet("a", HOST_IPS[0], IPv4Network("172.11.8.0/22"), revision=1)
    second = HostSubnet("b", HOST_IPS[2], IPv4Network("172.11.8.0/22"), revision=2)
    view = view_of(HostSubnetSet(first), HostSubnetSet(second))
    assert view.record(RemoteHostKey(second.host_ip)) is None
    view.apply(HostSubnetSet(replace(first, revision=3)))
    assert view.record(RemoteHostKey(first.host_ip)) is None
    assert view.record(RemoteHostKey(second.host_ip)) is not None


def test_a_record_renamed_to_this_node_does_not_become_its_own() -> None:
    """Without --node-ip too: the one that has always been ours stays ours."""
    own = HostSubnet(HOST, HOST_IPS[2], IPv4Network("172.11.4.0/22"), revision=1)
    renamed = HostSubnet(HOST, HOST_IPS[0], IPv4Network("172.11.8.0/22"), revision=2)
    view = NodeView(HOST)
    for event in (ConfigSet(CONFIG), HostSubnetSet(renamed), HostSubnetSet(own)):
        view.apply(event)
    assert view.local is not None
    assert view.local.host_ip == own.host_ip


@pytest.mark.parametrize(
    "lower",
    [
        HostSubnet("a", HOST_IPS[4], IPv4Network("172.11.8.0/22")),  # its address is inside the pod network
        HostSubnet("a", HOST_IPS[0], IPv4Network("172.0.0.0/8")),
        HostSubnet(HOST, HOST_IPS[2], IPv4Network("172.11.8.0/22")),  # a second record with this node's name
    ],
)
def test_a_record_that_cannot_be_used_takes_nothing_from_others(lower: HostSubnet) -> None:
    good = HostSubnet("b", HOST_IPS[3], IPv4Network("172.11.8.0/22"))
    assert lower.host_ip < good.host_ip
    view = view_of(HostSubnetSet(lower), HostSubnetSet(good))
    assert view.record(RemoteHostKey(good.host_ip)) == RemoteHost(good.host_ip, IPv4Network("172.11.8.0/22"))
    assert set(view.problems) == {f"subnets/{lower.host_ip}"}


def test_the_nodes_own_address_decides_between_two_records_with_its_name() -> None:
    records = [
        HostSubnet(HOST, HOST_IPS[number], IPv4Network(f"172.11.{4 * number}.0/22")) for number in (0, 1)
    ]
    view = NodeView(HOST, HOST_IPS[1])
    for event in (ConfigSet(CONFIG), *map(HostSubnetSet, records)):
        view.apply(event)
    assert view.local is not None
    assert view.local.host_ip == HOST_IPS[1]
    assert set(view.problems) == {f"subnets/{HOST_IPS[0]}"}


def test_two_leases_with_one_port_number_send_nothing() -> None:
    pods = [attachment(0, "172.11.0.2", port=7), attachment(1, "172.11.0.3", port=7)]
    view = view_of(*map(AttachmentSet, pods))
    assert [view.record(LocalPodKey(pod.key)) for pod in pods] == [None, None]
    assert len(view.problems) == 2


def test_the_end_of_a_collision_frees_the_other_pod() -> None:
    for first, second in (
        (attachment(0, "172.11.0.2", port=7), attachment(1, "172.11.0.3", port=7)),
        (attachment(0, "172.11.0.2"), attachment(1, "172.11.0.2")),
    ):
        view = view_of(AttachmentSet(first), AttachmentSet(second))
        assert view.record(LocalPodKey(second.key)) is None
        assert LocalPodKey(second.key) in view.apply(AttachmentGone(first.key))
        assert isinstance(view.record(LocalPodKey(second.key)), LocalPod)


def test_an_event_touches_what_it_affects_and_nothing_else() -> None:
    others = [HostSubnet(f"n{i}", IPv4Address("198.18.0.0") + i, _subnet(i)) for i in range(4, 60)]
    pods = [attachment(number, f"172.11.0.{number + 2}", "blue") for number in range(50)]
    view = view_of(*map(HostSubnetSet, others), *map(AttachmentSet, pods), TenantSet(Tenant("blue", Vni(11))))
    new = attachment(60, "172.11.0.200")
    assert view.apply(AttachmentSet(new)) == {LocalPodKey(new.key), TenantKey(Vni(10))}
    assert view.apply(HostSubnetGone(others[0].host_ip)) == {RemoteHostKey(others[0].host_ip)}
    assert view.apply(TenantSet(Tenant("green", Vni(12)))) == frozenset()


def _subnet(number: int) -> IPv4Network:
    return IPv4Network((int(IPv4Address("172.11.0.0")) + (number << 10), 22))


def test_state_from_a_snapshot_is_state_from_events() -> None:
    view = view_of(AttachmentSet(attachment(0, str(ADDRESSES[1]))), Synced(Source.CONFIG))
    state = view.state
    assert state == ClusterState.from_snapshot(
        config=state.config,
        host_subnets=state.host_subnets.values(),
        tenants=state.tenants.values(),
        attachments=state.attachments.values(),
        synced=[Source.CONFIG],
    )
