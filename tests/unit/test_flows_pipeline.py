"""The flows of the pipeline as text and in number: spelling, budget, precedence, the generated page."""

from pathlib import Path

import pytest

from fakes.clusters import Cluster, Node, Pod, network_config
from k8s_ovs.config import Mode
from k8s_ovs.flows import docs
from k8s_ovs.flows.diff import Mod, Op, add, delete, difference
from k8s_ovs.flows.example import example_flows
from k8s_ovs.flows.flow import Flow
from k8s_ovs.flows.names import describe
from k8s_ovs.flows.pipeline import DesiredFlows
from k8s_ovs.flows.tables import TABLES
from k8s_ovs.model.events import AttachmentSet, TenantGone, TenantSet
from k8s_ovs.model.records import (
    LOCAL_HOST,
    LocalPod,
    LocalPodKey,
    RemoteHostKey,
    TenantKey,
    ViewKey,
    ViewRecord,
)
from k8s_ovs.model.types import Tenant, Vni
from k8s_ovs.model.view import NodeView

PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"
NODES = [Node(number) for number in range(3)]
PODS = [Pod(NODES[0], number, ("red", "blue")[number % 2]) for number in range(6)]
VNIS: dict[str, Vni | None] = {"red": Vni(10), "blue": Vni(11), "absent": Vni(12)}


def desired(cluster: Cluster) -> DesiredFlows:
    flows = DesiredFlows()
    flows.update(cluster.view(cluster.nodes[0]))
    return flows


@pytest.mark.parametrize("mode", Mode)
def test_the_flow_budget(mode: Mode) -> None:
    cluster = Cluster(network_config(mode), NODES, VNIS, PODS)
    flows = desired(cluster)
    for pod in PODS:
        assert 0 < len(flows.of(LocalPodKey(pod.attachment.key))) <= 5
    for node in NODES[1:]:
        assert 0 < len(flows.of(RemoteHostKey(node.ip))) <= 4
    tenants = [len(flows.of(TenantKey(Vni(vni)))) for vni in (10, 11, 12)]
    assert tenants == ([1, 1, 0] if mode is Mode.MULTITENANT else [0, 0, 0])
    assert len(flows.of(LOCAL_HOST)) <= 100


def test_what_grows_with_what() -> None:
    """Flows are counted as the switch would hold them, so that nothing hides behind another key."""
    empty = len(desired(Cluster(network_config(), NODES[:1], VNIS, [])))
    with_hosts = len(desired(Cluster(network_config(), NODES, VNIS, [])))
    with_pods = len(desired(Cluster(network_config(), NODES[:1], VNIS, PODS)))
    assert with_hosts - empty <= 4 * 2
    assert with_pods - empty <= 5 * len(PODS) + 2


def test_every_flow_has_a_cookie_that_says_what_it_is_and_every_drop_a_reason() -> None:
    for flow in desired(Cluster(network_config(), NODES, VNIS, PODS)).all():
        assert isinstance(flow, Flow)
        meaning = describe(flow.cookie)
        assert meaning is not None
        assert (meaning.drop is not None) == (not flow.actions)
        assert meaning.stage is TABLES[flow.table].stage


def test_flows_are_spelled_as_ovs_ofctl_spells_them() -> None:
    lines = {flow.to_ofctl() for flow in example_flows()}
    assert (
        "cookie=0x6b6f0003ac0b0002,table=20,priority=200,ip,in_port=3,dl_src=0a:58:ac:0b:00:02,nw_src=172.11.0.2,"
        "actions=set_field:0xa/0xffffff->reg0,set_field:0x2000000/0x3000000->reg0,goto_table:60" in lines
    )
    assert "cookie=0x6b6f80030000001e,table=20,priority=400,udp,tp_dst=4789,actions=drop" in lines
    assert "cookie=0x6b6f80010000000a,table=0,priority=300,vlan_tci=0x1000/0x1000,actions=drop" in lines
    assert (
        "cookie=0x6b6f00080000000a,table=80,priority=300,reg0=0xa/0xffffff,reg1=0xa/0xffffff,actions=goto_table:100"
        in lines
    )


def test_modifications_can_be_read() -> None:
    (flow,) = [flow for flow in example_flows() if flow.table == 10 and "tun_src" in flow.match_text()]
    assert str(add(flow)) == (
        "flow add cookie=0x6b6f0002c0000202,table=10,priority=100,ip,tun_src=192.0.2.2,actions=goto_table:15"
    )
    assert str(delete(flow)) == "flow delete_strict table=10,priority=100,ip,tun_src=192.0.2.2"


def test_difference_sends_only_what_differs_and_deletes_first() -> None:
    first, second, third, *_ = example_flows()
    assert difference([first, second], [second, third]) == [Mod(Op.DELETE, first), Mod(Op.ADD, third)]
    assert difference([first, second], [second, first]) == []


def test_a_pods_arrival_and_a_tenants_change_touch_only_their_flows() -> None:
    view = Cluster(network_config(), NODES, VNIS, PODS[:2]).view(NODES[0])
    flows = DesiredFlows()
    flows.update(view)
    mods = flows.update(view, view.apply(AttachmentSet(PODS[2].attachment)))
    assert [mod.op for mod in mods] == [Op.ADD] * 5
    mods = flows.update(view, view.apply(TenantSet(Tenant("blue", Vni(99)))))
    assert len(mods) == 5  # tenant stage: one out, one in; the pod's tenant in pod-in, gateway-in and route
    mods = flows.update(view, view.apply(TenantGone("blue")))
    assert {mod.op for mod in mods} == {Op.DELETE}
    assert len(mods) == 6


class TwoClaims(NodeView):
    """A view that lets two pods claim one address and port, as the real one never does."""

    def __init__(self, records: dict[ViewKey, ViewRecord]) -> None:
        super().__init__(NODES[0].name)
        for event in Cluster(network_config(), NODES, VNIS, []).events(NODES[0]):
            self.apply(event)
        self.claims = records

    def record(self, key: ViewKey) -> ViewRecord | None:
        return self.claims.get(key)


def test_of_two_that_want_the_same_flow_the_first_key_gets_it_whoever_came_first() -> None:
    pod = PODS[0].attachment
    low, high = (LocalPodKey(PODS[number].attachment.key) for number in (0, 1))
    records: dict[ViewKey, ViewRecord] = {
        high: LocalPod(pod, PODS[0].port, Vni(11), (Vni(11),)),
        low: LocalPod(pod, PODS[0].port, Vni(10), (Vni(10),)),
    }
    ends = []
    for order in ([high, low], [low, high]):
        view, flows = TwoClaims({}), DesiredFlows()
        flows.update(view, [])
        for key in order:
            view.claims[key] = records[key]
            flows.update(view, [key])
        ends.append({flow.to_ofctl() for flow in flows.all()})
        view.claims.pop(low)
        mods = flows.update(view, [low])
        assert all(mod.op is Op.ADD and "set_field:0xb/0xffffff->reg" in str(mod) for mod in mods)
        assert len(mods) == 3
    assert ends[0] == ends[1]
    assert any("set_field:0xa/0xffffff->reg1" in line for line in ends[0])


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == docs.page(), (
        "docs/pipeline.md is stale: run `make docs` and look at the difference"
    )
