"""Addresses outside the Service network: whoever may write a Service takes them from nobody but its own tenant."""

from ipaddress import IPv4Address

import pytest

from fakes.clusters import Cluster, Node, Pod, network_config
from fakes.services import endpoint_slice, service
from fakes.simulator import TCP, ip_packet
from k8s_ovs.model.types import Vni

NODE, OTHER = Node(0), Node(1)
RED, SECOND = Pod(NODE, 0, "red"), Pod(NODE, 1, "red")
BLUE, SYSTEM = Pod(OTHER, 0, "blue"), Pod(OTHER, 1, "kube-system")
RESOLVER = IPv4Address("203.0.113.53")
"""What the cluster's DNS asks, or a cloud's metadata: somebody's outside the cluster."""


def cluster_of(owner: Pod, external: IPv4Address) -> Cluster:
    """A Service of the owner's Namespace at `external` too; the owner itself is its endpoint."""
    vnis: dict[str, Vni | None] = {"red": Vni(10), "blue": Vni(11), "kube-system": Vni(0)}
    made = service(owner.namespace, "trap", "10.96.0.10", str(external))
    behind = endpoint_slice(owner.namespace, "trap", owner.ip)
    return Cluster(network_config(), [NODE, OTHER], vnis, [RED, SECOND, BLUE, SYSTEM], [made], (behind,))


def is_caught(cluster: Cluster, client: Pod, address: IPv4Address, owner: Pod) -> bool:
    """Whether the client's connection comes to the Service's owner; else it leaves through the client's host."""
    packet = ip_packet(client.port, client.mac, client.ip, address, TCP, 80, 40000)
    (there,) = (fabric := cluster.fabric()).send(client.node.ip, packet)
    caught = (there.host, there.port) == (owner.node.ip, owner.port)
    assert caught or fabric.reaches_gateway(client.node.ip, packet, client.node.ip)
    return caught


@pytest.mark.parametrize("external", [RESOLVER, OTHER.ip, IPv4Address("169.254.169.254")])
def test_a_tenant_catches_only_its_own_pods(external: IPv4Address) -> None:
    """Not the global ones either: kube-system's resolver would ask whomever a tenant names."""
    cluster = cluster_of(RED, external)
    assert is_caught(cluster, SECOND, external, RED)
    for client in (BLUE, SYSTEM):
        assert not is_caught(cluster, client, external, RED)


def test_at_its_own_address_the_service_is_open_to_the_global_ones() -> None:
    cluster = cluster_of(RED, RESOLVER)
    assert is_caught(cluster, SYSTEM, IPv4Address("10.96.0.10"), RED)


def test_the_external_address_of_a_global_service_is_open_to_all() -> None:
    cluster = cluster_of(SYSTEM, RESOLVER)
    for client in (RED, BLUE):
        assert is_caught(cluster, client, RESOLVER, SYSTEM)
