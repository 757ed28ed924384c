"""The meter of a pod with a limit: its numbers, and that it comes and goes with the limit."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from fakes.clusters import Cluster, Node, Pod, network_config
from k8s_ovs.errors import PipelineError
from k8s_ovs.flows.diff import Op
from k8s_ovs.flows.fields import ORIGIN
from k8s_ovs.flows.flow import Flow, MeterAction, SetField
from k8s_ovs.flows.group import Meter, MeterId
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.flows.stages.pod_in import meter_of
from k8s_ovs.flows.tables import POD_IN, SERVICE, goto
from k8s_ovs.model.events import AttachmentGone, AttachmentSet
from k8s_ovs.model.records import LocalPod
from k8s_ovs.model.types import Attachment, AttachmentKey, OfPort, PodLimits, SandboxId, Vni

NODE = Node(0)


def local_pod(egress: int | None, ofport: int = 7) -> LocalPod:
    key = AttachmentKey(SandboxId("s"), "eth0")
    attachment = Attachment(
        *(key, IPv4Address("172.11.0.9"), "red", "web", "", "/netns/s", "kovs0"),
        ofport=OfPort(ofport),
        limits=PodLimits(egress=egress),
    )
    return LocalPod(attachment, OfPort(ofport), Vni(10), (Vni(10),))


@pytest.mark.parametrize(
    ("limit", "rate", "burst"),
    [
        (1_000, 1, 75),
        (1_001, 2, 75),
        (10_000, 10, 75),
        (50_000, 51, 75),
        (1_000_000, 1_020, 75),
        (10_000_000, 10_200, 500),
        (100_000_000, 102_000, 5_000),
        (10**15, 2**32 - 1, 2**32 - 1),
    ],
)
def test_rate_and_burst_follow_from_the_limit(limit: int, rate: int, burst: int) -> None:
    assert meter_of(local_pod(limit)) == Meter(MeterId(7), rate, burst)


@pytest.mark.parametrize("limit", [1_000_000, 10_000_000, 100_000_000, 10**10])
def test_over_one_second_a_pod_without_its_shaper_is_within_a_tenth(limit: int) -> None:
    meter = meter_of(local_pod(limit))
    assert meter is not None
    assert meter.rate + meter.burst <= limit // 1000 * 1.1


def test_no_limit_no_meter() -> None:
    assert meter_of(local_pod(None)) is None


def test_a_limit_that_comes_and_goes_touches_the_meter_and_one_flow_in_the_right_order() -> None:
    pod = Pod(NODE, 1, "red")
    cluster = Cluster(network_config(), [NODE], {"red": Vni(10)}, [pod])
    view, flows = cluster.view(NODE), DesiredFlows()
    flows.update(view)

    def change(limits: PodLimits) -> list[tuple[Op, type[object], bool]]:
        mods = flows.update(view, view.apply(AttachmentSet(replace(pod.attachment, limits=limits))))
        return [
            (mod.op, type(mod.item), isinstance(mod.item, Flow) and meters(mod.item) != []) for mod in mods
        ]

    def meters(flow: Flow) -> list[int]:
        return [action.meter for action in flow.actions if isinstance(action, MeterAction)]

    assert change(PodLimits(ingress=10**6)) == [], "the one towards the pod is the queue's"
    assert change(PodLimits(egress=10**6)) == [(Op.ADD, Meter, False), (Op.ADD, Flow, True)]
    assert change(PodLimits(egress=10**7)) == [(Op.ADD, Meter, False)], "the flow is as it was"
    assert change(PodLimits()) == [(Op.ADD, Flow, False), (Op.DELETE, Meter, False)]
    change(PodLimits(egress=10**6))
    gone = flows.update(view, view.apply(AttachmentGone(pod.attachment.key)))
    assert [mod.op for mod in gone if isinstance(mod.item, Meter)] == [Op.DELETE]
    assert isinstance(gone[-1].item, Meter), "after every flow that used it"


def test_only_the_way_in_of_pods_may_meter_and_first() -> None:
    origin, meter = SetField(ORIGIN, 2), MeterAction(7)
    assert POD_IN.flow(1, [], [meter, origin, goto(SERVICE)]).actions_text().startswith("meter:7,")
    with pytest.raises(PipelineError, match="meters too late"):
        POD_IN.flow(1, [], [origin, meter, goto(SERVICE)])
    with pytest.raises(PipelineError, match="may not meter"):
        SERVICE.flow(1, [], [meter])
