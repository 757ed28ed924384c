"""Hypothesis strategies for events: small worlds in which records collide in every way that people and bugs make them.

For the tests of model and flows: overlapping and misplaced subnets, two records with one host's name, leases that share
an address or a port number, reserved VNIs, a config that changes.
"""

from ipaddress import IPv4Address, IPv4Network

from hypothesis import strategies as st

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

HOST = "node1"
"""The node whose view the tests look at."""

CONFIGS = [
    NetworkConfig("k8ssdn", network, 10, IPv4Network("10.96.0.0/12"), mode)
    for network in (IPv4Network("172.11.0.0/16"), IPv4Network("172.11.0.0/21"))
    for mode in Mode
]
SUBNETS = [
    *(IPv4Network(f"172.11.{third}.0/22") for third in (0, 4, 8)),
    *(
        IPv4Network(text)
        for text in ("172.11.0.0/21", "172.11.1.0/24", "172.11.4.8/30", "172.11.8.1/32", "10.0.0.0/22")
    ),
]
HOST_IPS = [*(IPv4Address(f"192.0.2.{last}") for last in (1, 2, 3, 4)), IPv4Address("172.11.200.1")]
NAMESPACES = ["red", "blue", "green"]
VNIS = [Vni(0), Vni(10), Vni(11)]
ADDRESSES = [
    IPv4Address(text) for text in ("172.11.0.1", "172.11.0.2", "172.11.0.3", "172.11.4.9", "172.11.4.10")
]
PORTS = [None, OfPort(1), OfPort(3), OfPort(4), OfPort(5)]
KEYS = [AttachmentKey(SandboxId(f"sandbox{number}"), "eth0") for number in range(4)]


def _attachment(
    key: AttachmentKey, address: IPv4Address, namespace: str, ofport: OfPort | None
) -> Attachment:
    return Attachment(key, address, namespace, f"pod-{key.sandbox}", "uid", "/run/netns/x", "veth0", ofport)


def _hosts() -> st.SearchStrategy[HostSubnet]:
    subnets = st.one_of(st.none(), st.sampled_from(SUBNETS))
    return st.builds(
        HostSubnet,
        st.sampled_from([HOST, "node2", "node3"]),
        st.sampled_from(HOST_IPS),
        subnets,
        revision=st.integers(0, 3),
    )


def busy_node() -> list[Event]:
    """Events after which this node has a subnet, tenants and four usable pods: collisions from here on matter."""
    own = HostSubnet(HOST, HOST_IPS[1], SUBNETS[0])
    leases = [
        _attachment(key, IPv4Address("172.11.0.2") + number, NAMESPACES[number % 3], OfPort(3 + number))
        for number, key in enumerate(KEYS)
    ]
    tenants = [Tenant(name, vni) for name, vni in zip(NAMESPACES, (Vni(10), Vni(11), Vni(10)), strict=True)]
    return [
        ConfigSet(CONFIGS[1]),
        HostSubnetSet(own),
        HostSubnetSet(HostSubnet("node2", HOST_IPS[2], SUBNETS[1])),
        *map(TenantSet, tenants),
        *map(AttachmentSet, leases),
    ]


def histories() -> st.SearchStrategy[list[Event]]:
    """What a node is told, from nothing, or from where it is busy already."""
    later = st.lists(events(), max_size=30)
    return st.one_of(later, later.map(lambda more: [*busy_node(), *more]))


def tenants() -> st.SearchStrategy[Tenant]:
    """Tenants at rest, and in every step from any VNI to any other."""
    vnis = st.sampled_from(VNIS)
    changes = st.builds(TenantChange, st.just("0123abcd"), st.sampled_from(TenantStep), vnis, vnis)
    return st.builds(Tenant, st.sampled_from(NAMESPACES), vnis, st.none() | changes)


def events() -> st.SearchStrategy[Event]:
    """Any event of the small world."""
    attachments = st.builds(
        _attachment,
        st.sampled_from(KEYS),
        st.sampled_from(ADDRESSES),
        st.sampled_from(NAMESPACES),
        st.sampled_from(PORTS),
    )
    return st.one_of(
        st.builds(ConfigSet, st.sampled_from(CONFIGS)),
        st.builds(HostSubnetSet, _hosts()),
        st.builds(HostSubnetGone, st.sampled_from(HOST_IPS)),
        st.builds(TenantSet, tenants()),
        st.builds(TenantGone, st.sampled_from(NAMESPACES)),
        st.builds(AttachmentSet, attachments),
        st.builds(AttachmentGone, st.sampled_from(KEYS)),
        st.builds(Synced, st.sampled_from(Source)),
    )
