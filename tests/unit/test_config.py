"""The network config: what is accepted, what is refused and how the refusal reads."""

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_ovs.config import EXAMPLE, Mode, NetworkConfig
from k8s_ovs.errors import ConfigError


def fields(**changes: Any) -> str:
    return json.dumps(json.loads(EXAMPLE) | changes)


def test_the_example_of_the_seed() -> None:
    config = NetworkConfig.from_json(EXAMPLE)
    assert config.network == IPv4Network("172.11.0.0/16")
    assert config.mode is Mode.MULTITENANT
    assert (config.host_prefix, config.host_subnets) == (22, 64)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        (fields(Name=""), "Name is ''"),
        (fields(Name="a/b"), "without '/'"),
        (fields(Network="172.11.0.0"), "is a /32"),
        (fields(Network="172.11.0.1/16"), "has host bits set"),
        (fields(Network=7), "Network is 7"),
        (fields(Network="172.0.0.0/7"), "use a /8 to a /30"),
        (fields(HostSubnetLength=1), "use 2 to 16 host bits"),
        (fields(HostSubnetLength=17), "use 2 to 16 host bits"),
        (fields(HostSubnetLength=True), "HostSubnetLength is True"),
        (fields(HostSubnetLength="10"), "HostSubnetLength is '10'"),
        (fields(ServiceNetwork="172.11.8.0/24"), "overlap"),
        (fields(PluginName="flannel"), "use k8s-ovs-subnet or k8s-ovs-multitenant"),
    ],
)
def test_refusals_name_the_origin_the_reason_and_the_remedy(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkConfig.from_json(text, origin="/prefix/config")
    assert str(caught.value).startswith("/prefix/config: ")
    assert reason in str(caught.value)
    assert caught.value.remedy


@given(st.integers(8, 30), st.data())
def test_every_valid_combination_is_accepted(prefix: int, data: st.DataObject) -> None:
    bits = data.draw(st.integers(2, 32 - prefix))
    network = IPv4Network((data.draw(st.integers(0, 2**32 - 1)), prefix), strict=False)
    service = "10.96.0.0/12" if not network.overlaps(IPv4Network("10.96.0.0/12")) else "192.168.0.0/24"
    if network.overlaps(IPv4Network(service)):
        service = "203.0.113.0/24"
    config = NetworkConfig.from_json(
        fields(Network=str(network), HostSubnetLength=bits, ServiceNetwork=service)
    )
    assert config.host_subnets * 2**bits == network.num_addresses
    assert NetworkConfig.from_json(config.to_json()) == config


def test_a_node_inside_the_pod_network_is_refused() -> None:
    config = NetworkConfig.from_json(EXAMPLE)
    config.check_nodes([IPv4Address("192.0.2.1")])
    with pytest.raises(ConfigError, match=r"172\.11\.0\.0/16 contains the node address 172\.11\.3\.4"):
        config.check_nodes([IPv4Address("192.0.2.1"), IPv4Address("172.11.3.4")])
