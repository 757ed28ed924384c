"""The oracle, line by line of the design's contract."""

import pytest

from k8s_ovs.config import Mode
from k8s_ovs.model.tenancy import Party, external_host, host, judge, may_reach, outside, pod, service
from k8s_ovs.model.types import Vni

MULTI, SINGLE = Mode.MULTITENANT, Mode.SUBNET
RED, BLUE, GLOBAL, NONE = (
    pod(Vni(10), "red/a"),
    pod(Vni(11), "blue/a"),
    pod(Vni(0), "kube-system/a"),
    pod(None, "new/a"),
)
KUBERNETES = service(Vni(12), "default", "kubernetes")


@pytest.mark.parametrize(
    ("source", "destination", "allowed"),
    [
        (RED, RED, True),
        (RED, BLUE, False),
        (RED, GLOBAL, True),
        (GLOBAL, BLUE, True),
        (RED, NONE, False),
        (NONE, RED, False),
        (NONE, GLOBAL, False),
        (host(), NONE, False),
        (NONE, outside(), False),
        (NONE, host(), False),
        (RED, service(Vni(10), "red", "web"), True),
        (RED, service(Vni(11), "blue", "web"), False),
        (RED, service(Vni(0), "kube-system", "dns"), True),
        (GLOBAL, service(Vni(11), "blue", "web"), True),
        (RED, KUBERNETES, True),
        (RED, service(Vni(12), "default", "other"), False),
        (RED, service(Vni(12), "other", "kubernetes"), False),
        (host("node1"), RED, True),
        (external_host("lb"), BLUE, True),
        (external_host("lb"), service(Vni(11), "blue", "web"), True),
        (RED, host("node1"), True),
        (RED, external_host("lb"), True),
        (RED, outside("internet"), True),
        (outside("client"), RED, True),
        (host("node1"), host("node2"), True),
        (host("node1"), outside(), True),
    ],
)
def test_multitenant_mode(source: Party, destination: Party, allowed: bool) -> None:
    assert may_reach(source, destination, MULTI) is allowed


@pytest.mark.parametrize("source", [RED, GLOBAL, NONE, host(), external_host(), outside()])
@pytest.mark.parametrize(
    "destination", [BLUE, GLOBAL, NONE, host(), outside(), service(Vni(11), "blue", "web")]
)
def test_single_tenant_mode_is_open(source: Party, destination: Party) -> None:
    assert may_reach(source, destination, SINGLE)


def test_between_pods_it_works_in_both_directions_or_in_none() -> None:
    pods = (RED, BLUE, GLOBAL, NONE, pod(Vni(10)))
    for one in pods:
        for other in pods:
            assert may_reach(one, other, MULTI) == may_reach(other, one, MULTI)


@pytest.mark.parametrize(
    ("source", "destination", "why"),
    [
        (RED, BLUE, "pod red/a is tenant 10, pod blue/a is tenant 11, neither is global"),
        (RED, pod(Vni(10), "green/b"), "pod red/a and pod green/b are one tenant (VNI 10)"),
        (RED, GLOBAL, "pod kube-system/a is global (VNI 0)"),
        (RED, KUBERNETES, "service default/kubernetes is open to all"),
        (NONE, RED, "the Namespace of pod new/a has no tenant record yet"),
        (RED, outside(), "outside the cluster network all pods may go"),
    ],
)
def test_the_explanation_names_both_and_the_reason(source: Party, destination: Party, why: str) -> None:
    assert judge(source, destination, MULTI).why == why


def test_a_service_is_no_source() -> None:
    with pytest.raises(ValueError, match="opens no connections"):
        judge(KUBERNETES, RED, MULTI)
