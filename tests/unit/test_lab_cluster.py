from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from fakes.lab_cluster import NETWORKS, cluster
from k8s_ovs.config import Mode
from k8s_ovs.errors import LabError
from k8s_ovs.lab import commands, fabric, labfile, ovsnode, places
from k8s_ovs.lab.cluster import check_name, pick


@pytest.mark.parametrize("name", ["lab", "a", "lab-2", "0x", "a" * 32])
def test_names_that_can_be_used(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "Lab", "a_b", "-a", "a-", "a/b", "..", "ä", "a b", "a" * 33])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(LabError) as caught:
        check_name(name)
    assert caught.value.remedy


def test_nodes_have_their_own_everything() -> None:
    nodes = cluster().nodes
    assert [node.name for node in nodes] == ["node1", "node2", "node3"]
    assert [str(node.address) for node in nodes] == ["100.64.10.11/24", "100.64.10.12/24", "100.64.10.13/24"]
    for attribute in (
        "netns",
        "ovs_rundir",
        "ovs_database",
        "cni_conf_dir",
        "cni_socket",
        "podserver_socket",
    ):
        assert len({getattr(node, attribute) for node in nodes}) == 3


def test_no_address_is_given_twice() -> None:
    one = cluster(node_count=64)
    one.check()
    networks = one.networks
    fixed = [networks.router, networks.control, networks.outside_host, networks.outside_router]
    assert len({*fixed, *(node.address for node in one.nodes)}) == 68
    assert all(node.ip in NETWORKS.underlay for node in one.nodes)


def test_survives_the_way_through_lab_json() -> None:
    one = cluster(
        bare=True, shim=Path("/x/cni"), mode=Mode.SUBNET, kube_bin=Path("/opt/kube"), etcd_pod_port=12379
    )
    assert labfile.from_json(labfile.to_json(one)) == one


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": "lab"}'])
def test_a_broken_lab_json_is_an_error_with_a_remedy(text: str) -> None:
    with pytest.raises(LabError, match="lab down"):
        labfile.from_json(text)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"node_count": 0}, "--nodes 1 to"),
        ({"node_count": 65}, "--nodes 1 to 64"),
        ({"networks": replace(NETWORKS, underlay=IPv4Network("100.64.10.0/28"))}, None),
        ({"networks": replace(NETWORKS, underlay=IPv4Network("100.64.10.0/29"))}, "do not fit"),
        ({"networks": replace(NETWORKS, services=IPv4Network("10.130.0.0/16"))}, "overlap"),
        ({"networks": replace(NETWORKS, underlay=IPv4Network("10.128.1.0/24"))}, "overlap"),
        ({"host_bits": 19}, "HostSubnetLength 19"),
        (
            {"host_bits": 17, "networks": replace(NETWORKS, pods=IPv4Network("10.128.0.0/15"))},
            "host subnets, not 3",
        ),
        ({"directory": Path("/run") / ("d" * 100)}, "too long for unix sockets"),
    ],
)
def test_options_that_cannot_work_together(changes: dict[str, object], reason: str | None) -> None:
    one = cluster(**changes)
    if reason is None:
        one.check()
        return
    with pytest.raises(LabError, match=reason):
        one.check()


def test_the_longest_socket_path_of_a_default_lab_fits() -> None:
    one = cluster(name="a" * 32, directory=Path("/run/k8s-ovs-lab") / ("a" * 32))
    one.check()
    assert len(str(one.nodes[-1].ovs_rundir / "ovs-vswitchd.4194304.ctl")) < 108


def test_an_unknown_node_is_told_with_the_names_of_the_others() -> None:
    with pytest.raises(LabError, match="node1, node2, node3"):
        cluster().node("node4")


def test_defaults_avoid_what_the_host_uses() -> None:
    taken = [IPv4Network("10.0.0.0/8"), IPv4Network("0.0.0.0/0")]
    assert pick("pod network", ["10.128.0.0/14", "172.20.0.0/14"], taken) == IPv4Network("172.20.0.0/14")
    with pytest.raises(LabError, match=r"no pod network is free .*10\.128\.0\.0/14"):
        pick("pod network", ["10.128.0.0/14"], taken)


def test_commands_run_in_their_own_namespace_and_have_names_of_their_own() -> None:
    one = cluster()
    found = [commands.etcd(one), commands.embedded_api(one), commands.outside_server(one)]
    found += [commands.controller(one, index) for index in (1, 2)]
    for node in one.nodes:
        per_node = [
            make(one, node)
            for make in (commands.ovsdb, commands.vswitchd, commands.agent, commands.podserver)
        ]
        assert {command.netns for command in per_node} == {node.netns}
        found += per_node
    assert len({command.name for command in found}) == len(found)
    assert len({command.log for command in found}) == len(found)
    assert all(command.full_argv[:2] == ("nsenter", f"--net={command.netns}") for command in found)


def test_the_agents_flags_are_those_of_a_node() -> None:
    one = cluster()
    argv = commands.agent(one, one.nodes[1]).argv
    for flag in (
        "--hostname=node2",
        "--node-ip=100.64.10.12",
        "--etcd-endpoints=http://100.64.10.2:2379",
        "--datapath=netdev",
        f"--cni-conf-dir={one.nodes[1].cni_conf_dir}",
    ):
        assert flag in argv


def test_an_etcd_that_is_a_pod_is_reached_on_its_node_with_the_certificates_of_its_secret() -> None:
    one = cluster(manifests=Path("/m.yaml"), etcd_pod_port=12379)
    assert (one.etcd_endpoint, one.etcd_process) == ("https://100.64.10.11:12379", "node1/etcd")
    inside, shell = places.find(one, "node2").environment, places.shell_environment(one)
    assert inside["ETCDCTL_ENDPOINTS"] == one.etcd_endpoint
    assert shell["K8S_OVS_ETCD_ENDPOINTS"] == "https://127.0.0.1:40001"
    for name in ("ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY", "K8S_OVS_ETCD_CAFILE"):
        assert inside[name] == shell[name]
        assert Path(shell[name]).parent == one.directory / "etcd-client"
    assert "ETCDCTL_CERT" not in places.shell_environment(cluster(manifests=Path("/m.yaml")))


def test_the_fabric_wires_every_node_to_the_bridge() -> None:
    text = fabric.fabric_batch(cluster())
    for name in ("node1", "node2", "node3", "control"):
        assert f"link add {name} type veth peer name eth0 netns /run/k8s-ovs-lab/lab/netns/{name}\n" in text
        assert f"link set {name} master underlay up\n" in text
    assert "link set outside master" not in text


def test_the_uplink_gets_address_and_default_route_in_this_order() -> None:
    lines = ovsnode.uplink_batch(cluster(), cluster().nodes[0]).splitlines()
    assert lines == [
        "addr replace 100.64.10.11/24 dev br-phy",
        "link set br-phy up",
        "route replace default via 100.64.10.1",
    ]


def test_the_switch_is_told_the_routes_that_the_kernel_has() -> None:
    assert ovsnode.tunnel_routes(cluster(), cluster().nodes[0]) == [
        ("100.64.10.0/24", "br-phy"),
        ("0.0.0.0/0", "br-phy", "100.64.10.1"),
    ]
