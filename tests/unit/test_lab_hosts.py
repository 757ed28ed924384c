"""External hosts of a lab, as data: names, addresses, commands; nothing of them exists."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from fakes.lab_cluster import NETWORKS, cluster
from k8s_ovs.errors import LabError
from k8s_ovs.lab import commands, fabric, labfile, places
from k8s_ovs.lab.cluster import Cluster, ExternalHost


def grown(*names: str, base: Cluster | None = None) -> Cluster:
    lab = base or cluster()
    for name in names:
        lab = lab.with_host(ExternalHost(name))
    return lab


def test_a_host_is_built_like_a_node_and_is_none() -> None:
    lab = grown("lb", "lb2")
    assert [str(host.address) for host in lab.hosts] == ["100.64.10.254/24", "100.64.10.253/24"]
    assert [node.name for node in lab.nodes] == ["node1", "node2", "node3"]
    assert [node.name for node in lab.members] == ["node1", "node2", "node3", "lb", "lb2"]
    assert lab.node("lb") == lab.hosts[0]
    assert len({member.directory for member in lab.members}) == 5


def test_hosts_survive_the_way_through_lab_json() -> None:
    lab = grown("lb").with_host(ExternalHost("lb2", kubernetes=True))
    assert labfile.from_json(labfile.to_json(lab)) == lab


@pytest.mark.parametrize("name", ["", "Lb", "a/b", "node1", "control", "outside", "fabric", "lb", "a" * 19])
def test_names_that_a_host_cannot_have(name: str) -> None:
    lab = grown("lb")
    with pytest.raises(LabError) as refused:
        lab.with_host(ExternalHost(name))
    assert refused.value.remedy


def test_the_longest_name_still_has_room_for_its_sockets() -> None:
    lab = grown("a" * 18, base=cluster(name="b" * 32))
    lab.check()
    assert len(str(lab.hosts[0].ovs_rundir / "ovs-vswitchd.4194304.ctl")) < 108


def test_there_is_room_for_so_many_hosts_and_no_more() -> None:
    lab = grown(*(f"h{index}" for index in range(16)), base=cluster(node_count=64))
    addresses = {member.ip for member in lab.members}
    assert len(addresses) == 80
    assert all(address in NETWORKS.underlay for address in addresses)
    assert not addresses & {NETWORKS.router.ip, NETWORKS.control.ip}
    with pytest.raises(LabError, match="no room for another host than 16"):
        lab.with_host(ExternalHost("more"))
    small = cluster(node_count=3, networks=replace(NETWORKS, underlay=IPv4Network("100.64.10.0/28")))
    full = grown("a", base=small)
    assert full.hosts[0].ip == IPv4Address("100.64.10.14")
    with pytest.raises(LabError, match="no room"):
        full.with_host(ExternalHost("b"))


def test_the_agent_needs_etcd_only_and_kubernetes_if_it_shall_serve_cluster_ips() -> None:
    lab = grown("lb")
    plain = commands.external_agent(lab, lab.hosts[0], kubernetes=False)
    assert plain.name == "lb/agent"
    assert {"--external", "--hostname=lb", "--node-ip=100.64.10.254"} <= set(plain.argv)
    assert not any("kubeconfig" in word or "cni" in word for word in plain.argv)
    with_services = commands.external_agent(lab, lab.hosts[0], kubernetes=True)
    assert set(with_services.argv) - set(plain.argv) == {f"--kubeconfig={lab.control_kubeconfig}"}


def test_it_is_registered_as_an_administrator_would() -> None:
    lab = grown("lb")
    words = commands.assign_subnet(lab, lab.hosts[0])
    assert words[3:7] == ("subnet", "assign", "lb", "100.64.10.254")
    assert f"--etcd-endpoints={lab.loopback_etcd_endpoint}" in words


def test_a_command_there_finds_the_hosts_own_switch_and_no_kubernetes() -> None:
    lab = grown("lb")
    place = places.find(lab, "lb")
    assert place.netns == lab.hosts[0].netns
    assert place.environment["OVS_RUNDIR"] == str(lab.hosts[0].ovs_rundir)
    assert "KUBECONFIG" not in place.environment
    assert "KUBECONFIG" in places.find(lab, "node1").environment


def test_its_wire_has_a_short_name_of_its_own() -> None:
    lab = grown("external-host-name")
    assert fabric.wire_batch(lab, "external-host-name", "ext0afe").splitlines() == [
        "link add ext0afe type veth peer name eth0 netns /run/k8s-ovs-lab/lab/netns/external-host-name",
        "link set ext0afe master underlay up",
    ]
